"""Taking in what queue and accounting say about the jobs that are followed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.records import FINAL_STATES, AccountingRecord, Bill, EfficiencyReport, QueueRecord
from exporter.states import UNKNOWN, base_state
from exporter.store import awaited, bills, counters, reports, waste
from exporter.store.jobs import (
    Tracked,
    find,
    finished_labels,
    is_collective,
    jobs_of,
    open_finished_counters,
    root_of,
    tracked,
)


@dataclass(frozen=True, slots=True)
class InQueue:
    """What of the followed jobs is in the queue.

    Attributes:
        job_ids: the ids, as the queue prints them.
        whole: the followed ids of which every unfinished part is in the queue.
    """

    job_ids: frozenset[str]
    whole: frozenset[str]


@dataclass(frozen=True, slots=True)
class Told:
    """What accounting tells of a job, and what was made of it.

    Attributes:
        record: the job.
        report: how well it used what it had.
        last_word: whether accounting has no more to say of it; what follows holds only then.
        bill: what it cost; None where that isn't known.
        bill_is_final: whether no other source will tell better.
        await_report: whether the site is to be asked for its report.
    """

    record: AccountingRecord
    report: EfficiencyReport
    last_word: bool
    bill: Bill | None = None
    bill_is_final: bool = True
    await_report: bool = False


def apply_queue(
    connection: sqlite3.Connection,
    site: str,
    records: Iterable[QueueRecord],
    *,
    now: float,
    paid_in: Mapping[str, tuple[str, str]] | None = None,
    otherwise_paid_in: tuple[str, str] | None = None,
) -> InQueue:
    """Takes in an answer of `squeue`, which must be the whole queue of the user.

    Args:
        connection: of a write transaction.
        site: the site's name.
        records: the queue.
        now: epoch seconds.
        paid_in: kind and unit of what jobs of a partition cost.
        otherwise_paid_in: the same for partitions that aren't named; None where it isn't known.
    """
    present: set[str] = set()
    named: set[str] = set()
    for record in records:
        root = root_of(record.job_id)
        followed = tracked(connection, site, root)
        if followed is None:
            continue
        present.add(root)
        named.add(record.job_id)
        waiting = base_state(record.state) == "pending"
        open_finished_counters(connection, site, record.project, record.partition, followed.campaign)
        paid = (paid_in or {}).get(record.partition or "", otherwise_paid_in)
        if paid is not None:
            labels = {"site": site, "project": record.project, "campaign": followed.campaign}
            bills.open_counter(connection, **labels, kind=paid[0], unit=paid[1])
            if followed.token is not None:
                waste.open_counters(connection, **labels, kind=paid[0], unit=paid[1])
        _upsert(
            connection,
            site,
            record.job_id,
            {
                **_what_both_tell(connection, followed, record),
                "nodes": record.nodes,
                "cpus": record.cpus,
                "gpus": record.gpus,
                "tres": _as_json(record.tres_allocated),
            },
            {
                # A requeued job waits again: what its last attempt left must go.
                "pending_reason": record.pending_reason,
                "expected_start_time": record.expected_start_time if waiting else None,
                "start_time": None if waiting else record.start_time,
                "end_time": None,
                "elapsed_seconds": None if waiting else record.elapsed_seconds,
                "node_list": record.node_list,
                "exit_code": None,
                "signal": None,
                "final": 0,
            },
            now=now,
        )
    _drop_collective(connection, site, keep=named)
    for root in present:
        _drop_stand_in(connection, site, root, named)
    # Of an array some tasks may have ended while others are in the queue.
    whole = {
        root for root in present if all(part.final or part.job_id in named for part in jobs_of(connection, site, root))
    }
    for root in present:
        connection.execute("UPDATE tracked SET done = 0 WHERE site = ? AND root_id = ?", (site, root))
    for root in whole:
        connection.execute(
            "UPDATE tracked SET sacct_tries = 0, sacct_after = 0 WHERE site = ? AND root_id = ?", (site, root)
        )
    return InQueue(frozenset(named), frozenset(whole))


def apply_accounting(
    connection: sqlite3.Connection,
    site: str,
    root_id: str,
    records: Iterable[Told],
    in_queue: frozenset[str],
    *,
    now: float,
    raw_sha256: str | None = None,
) -> None:
    """Takes in what `sacct` says about one followed id; what neither it nor the queue names becomes unknown.

    Args:
        connection: of a write transaction.
        site: the site's name.
        root_id: the id.
        records: each part of it.
        in_queue: ids that the queue names: on those it knows better.
        now: epoch seconds.
        raw_sha256: of the text that they were read from.
    """
    followed = tracked(connection, site, root_id)
    if followed is None:
        return
    waits = any(root_of(job_id) == root_id for job_id in in_queue)
    named = set(in_queue)
    for told in records:
        record, final = told.record, told.last_word
        if record.job_id in in_queue or (waits and is_collective(record.job_id) and not final):
            continue
        named.add(record.job_id)
        if final and _is_known_end(connection, site, record):
            continue
        open_finished_counters(connection, site, record.project, record.partition, followed.campaign)
        _upsert(
            connection,
            site,
            record.job_id,
            {
                **_what_both_tell(connection, followed, record),
                # Neither here nor there: the queue has lost it, and accounting has not noticed yet.
                "state": _ended_or_unknown(record.state),
                "nodes": record.alloc_nodes or record.req_nodes,
                "cpus": record.alloc_cpus or record.req_cpus,
                "gpus": _gpus(record),
                "accounted_tres": _as_json(record.tres_allocated),
            },
            {
                "pending_reason": None,
                "expected_start_time": None,
                "start_time": record.start_time,
                "end_time": record.end_time,
                "elapsed_seconds": record.elapsed_seconds,
                "exit_code": record.exit_code if final else None,
                "signal": record.signal if final else None,
                "final": int(final),
            },
            now=now,
        )
        if final:
            _count_once(connection, site, record.job_id)
            reports.forget(connection, site, record.job_id)
            reports.keep(connection, site, record.job_id, told.report, now=now)
            if told.bill is not None:
                final_bill, bill = told.bill_is_final, told.bill
                bills.keep(connection, site, record.job_id, bill, final=final_bill, now=now, raw_sha256=raw_sha256)
            if told.await_report:
                awaited.add(connection, site, record.job_id)
    if not waits:
        _drop_collective(connection, site, keep=named, root_id=root_id)
    _drop_stand_in(connection, site, root_id, named)
    _mark_vanished(connection, site, root_id, named, now=now)
    if all(part.final for part in jobs_of(connection, site, root_id)):
        connection.execute("UPDATE tracked SET done = 1 WHERE site = ? AND root_id = ?", (site, root_id))


def _is_known_end(connection: sqlite3.Connection, site: str, record: AccountingRecord) -> bool:
    """Tells whether this end was taken in before: accounting tells of every task of an array while one is open."""
    return any(
        job.final and (job.end_time, job.state) == (record.end_time, base_state(record.state))
        for job in find(connection, record.job_id, site)
    )


def _ended_or_unknown(word: str | None) -> str:
    return base_state(word) if word in FINAL_STATES else UNKNOWN


def left_queue(
    connection: sqlite3.Connection, site: str, root_id: str, in_queue: frozenset[str], *, now: float
) -> None:
    """Notes that parts of an id left the queue while accounting could not be asked yet."""
    _mark_vanished(connection, site, root_id, set(in_queue), now=now)


def postpone_accounting(connection: sqlite3.Connection, site: str, root_id: str, *, until: float) -> None:
    """Notes that accounting had no last word, and when to ask again."""
    connection.execute(
        "UPDATE tracked SET sacct_tries = sacct_tries + 1, sacct_after = ? WHERE site = ? AND root_id = ? AND done = 0",
        (until, site, root_id),
    )


def _mark_vanished(connection: sqlite3.Connection, site: str, root_id: str, named: set[str], *, now: float) -> None:
    """Notes that parts of an id are named by neither queue nor accounting: they are unknown, not completed."""
    connection.execute(
        "INSERT INTO jobs (site, job_id, root_id, job_name, campaign, state, state_since, seen)"
        " SELECT t.site, t.root_id, t.root_id, s.name, t.campaign, ?, ?, t.since FROM tracked t"
        " LEFT JOIN submissions s ON s.token = t.token WHERE t.site = ? AND t.root_id = ?"
        " AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.site = t.site AND j.root_id = t.root_id)",
        (UNKNOWN, now, site, root_id),
    )
    for part in jobs_of(connection, site, root_id):
        if part.job_id not in named and part.state.upper() not in FINAL_STATES and part.state != UNKNOWN:
            connection.execute(
                "UPDATE jobs SET state = ?, state_since = ?, pending_reason = NULL WHERE site = ? AND job_id = ?",
                (UNKNOWN, now, site, part.job_id),
            )


def _what_both_tell(
    connection: sqlite3.Connection, followed: Tracked, record: QueueRecord | AccountingRecord
) -> dict[str, object]:
    """Returns the columns that queue and accounting fill alike."""
    return {
        "root_id": followed.root_id,
        "job_name": _readable(connection, followed.token, record.job_name),
        "campaign": followed.campaign,
        "state": base_state(record.state),
        "user": record.user,
        "project": record.project,
        "partition": record.partition,
        "submit_time": record.submit_time,
        "time_limit_seconds": record.time_limit_seconds,
        "restarts": record.restarts,
    }


def _readable(connection: sqlite3.Connection, token: str | None, job_name: str | None) -> str | None:
    """Returns the name without the token that makes it unique."""
    if token is None:
        return job_name
    row = connection.execute("SELECT name FROM submissions WHERE token = ?", (token,)).fetchone()
    return row["name"] if row else job_name


def _gpus(record: AccountingRecord) -> int | None:
    """Returns the allocated GPUs; None where the site's accounting doesn't count them."""
    gpus = (record.tres_allocated or {}).get("gres/gpu")
    return None if gpus is None else int(gpus)


def _as_json(tres: Mapping[str, float] | None) -> str | None:
    return json.dumps(tres, sort_keys=True) if tres else None


def _upsert(
    connection: sqlite3.Connection,
    site: str,
    job_id: str,
    known: dict[str, object],
    current: dict[str, object],
    *,
    now: float,
) -> None:
    """Writes a job: `known` values stay where the new answer has none, `current` ones are replaced in any case."""
    values: dict[str, object] = {**known, **current, "site": site, "job_id": job_id, "state_since": now, "seen": now}
    keep = [name for name in known if name != "state"]
    changes = [f"{name} = coalesce(excluded.{name}, {name})" for name in keep]
    changes += [f"{name} = excluded.{name}" for name in (*current, "state", "seen")]
    changes.append("state_since = CASE WHEN state = excluded.state THEN state_since ELSE excluded.state_since END")
    connection.execute(
        f"INSERT INTO jobs ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"  # noqa: S608 - our columns
        f" ON CONFLICT (site, job_id) DO UPDATE SET {', '.join(changes)}",
        tuple(values.values()),
    )


def _drop_collective(connection: sqlite3.Connection, site: str, *, keep: set[str], root_id: str | None = None) -> None:
    """Removes unfinished rows such as `123_[5-9]` that the latest answer doesn't name any more."""
    rows = connection.execute(
        "SELECT job_id FROM jobs WHERE site = ? AND final = 0 AND (? IS NULL OR root_id = ?) AND instr(job_id, '[')",
        (site, root_id, root_id),
    ).fetchall()
    for row in rows:
        if row["job_id"] not in keep:
            connection.execute("DELETE FROM jobs WHERE site = ? AND job_id = ?", (site, row["job_id"]))


def _drop_stand_in(connection: sqlite3.Connection, site: str, root_id: str, named: set[str]) -> None:
    """Removes the row that stood for a followed id while its parts were not known, now that they are named."""
    if root_id not in named and any(root_of(job_id) == root_id for job_id in named):
        connection.execute(
            "DELETE FROM jobs WHERE site = ? AND job_id = ? AND final = 0 AND counted = 0", (site, root_id)
        )


def _count_once(connection: sqlite3.Connection, site: str, job_id: str) -> None:
    (job,) = find(connection, job_id, site)
    if job.counted:
        return
    labels = finished_labels(site, job.project, job.partition, job.campaign)
    counters.add(connection, "jobs_finished_total", **labels, state=job.state)
    connection.execute("UPDATE jobs SET counted = 1 WHERE site = ? AND job_id = ?", (site, job_id))
