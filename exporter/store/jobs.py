"""The jobs that are followed, and what is known about each."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields

from exporter.records import FINAL_STATES, AccountingRecord, EfficiencyReport, QueueRecord
from exporter.states import UNKNOWN, base_state
from exporter.store import counters

_REPORT_COLUMNS = tuple(field.name for field in fields(EfficiencyReport))


@dataclass(frozen=True, slots=True)
class Tracked:
    """An id that is followed: a job, or all tasks of an array.

    Attributes:
        root_id: the number that all its parts share.
        since: when it began to be followed.
        sacct_tries: how often in a row accounting had no last word.
        sacct_after: accounting isn't asked before.
    """

    site: str
    root_id: str
    campaign: str
    token: str | None
    since: float
    done: bool
    sacct_tries: int
    sacct_after: float


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as the store knows it; see the table `jobs`."""

    site: str
    job_id: str
    root_id: str
    job_name: str | None
    user: str | None
    project: str | None
    partition: str | None
    campaign: str
    state: str
    state_since: float
    pending_reason: str | None
    submit_time: int | None
    expected_start_time: int | None
    start_time: int | None
    end_time: int | None
    elapsed_seconds: float | None
    time_limit_seconds: float | None
    exit_code: int | None
    signal: int | None
    restarts: int | None
    nodes: int | None
    cpus: int | None
    gpus: int | None
    node_list: str | None
    final: bool
    counted: bool
    seen: float


def root_of(job_id: str) -> str:
    """Returns the number that all parts of a job share: `123` of `123`, `123_4`, `123_[5-9]` and `123+1`.

    Raises:
        ValueError: the id starts with no number.
    """
    match = re.fullmatch(r"(\d+)(?:[_+.].*)?", job_id)
    if match is None:
        raise ValueError(f"{job_id!r} is no job id; one looks like 4285795 or 4285795_3")
    return match[1]


def is_collective(job_id: str) -> bool:
    """Tells whether an id names array tasks that have not begun, such as `123_[5-9]`."""
    return "[" in job_id


def track(
    connection: sqlite3.Connection, site: str, root_id: str, *, campaign: str = "", token: str | None = None, now: float
) -> bool:
    """Follows an id from now on.

    Returns:
        False where it was followed already.
    """
    cursor = connection.execute(
        "INSERT INTO tracked (site, root_id, campaign, token, since) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (site, root_id, campaign, token, now),
    )
    return cursor.rowcount == 1


def is_tracked(connection: sqlite3.Connection, site: str, root_id: str) -> bool:
    """Tells whether an id is followed, or was."""
    return _tracked(connection, site, root_id) is not None


def expect(
    connection: sqlite3.Connection,
    site: str,
    job_id: str,
    *,
    job_name: str,
    project: str | None,
    partition: str | None,
    campaign: str,
    now: float,
) -> None:
    """Shows a job that was just accepted as pending, until the queue says more."""
    connection.execute(
        "INSERT INTO jobs (site, job_id, root_id, job_name, project, partition, campaign, state, state_since, seen)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?) ON CONFLICT DO NOTHING",
        (site, job_id, root_of(job_id), job_name, project, partition, campaign, now, now),
    )


def open_tracked(connection: sqlite3.Connection, site: str) -> list[Tracked]:
    """Returns the ids of a site that lack a final record, oldest first."""
    rows = connection.execute("SELECT * FROM tracked WHERE site = ? AND done = 0 ORDER BY since, root_id", (site,))
    return [Tracked(**{**dict(row), "done": bool(row["done"])}) for row in rows]


def jobs_of(connection: sqlite3.Connection, site: str, root_id: str) -> list[JobRow]:
    """Returns what is known of the parts of an id."""
    # The + keeps SQLite from walking through all of the site's jobs for the sake of their order.
    rows = connection.execute("SELECT * FROM jobs WHERE site = ? AND root_id = ? ORDER BY +job_id", (site, root_id))
    return [_job(row) for row in rows]


def find(connection: sqlite3.Connection, job_id: str, site: str | None = None) -> list[JobRow]:
    """Returns the jobs of that id, at one site or at any."""
    rows = connection.execute(
        "SELECT * FROM jobs WHERE job_id = ? AND (? IS NULL OR site = ?) ORDER BY site", (job_id, site, site)
    )
    return [_job(row) for row in rows]


def visible(
    connection: sqlite3.Connection, *, now: float, keep_finished: float, max_finished: int
) -> tuple[list[JobRow], int]:
    """Returns the jobs to show and how many finished ones are left out.

    All unfinished jobs, then finished ones that ended within `keep_finished` seconds, newest first, at most
    `max_finished`.
    """
    unfinished = [_job(row) for row in connection.execute("SELECT * FROM jobs WHERE final = 0 ORDER BY site, job_id")]
    recent = connection.execute(
        "SELECT * FROM jobs WHERE final = 1 AND end_time > ? ORDER BY end_time DESC, site, job_id",
        (now - keep_finished,),
    ).fetchall()
    return unfinished + [_job(row) for row in recent[:max_finished]], max(0, len(recent) - max_finished)


def reports(connection: sqlite3.Connection, site: str, job_id: str) -> list[EfficiencyReport]:
    """Returns what the sources say about how well a job used what it had."""
    rows = connection.execute(
        f"SELECT {', '.join(_REPORT_COLUMNS)} FROM reports WHERE site = ? AND job_id = ?",  # noqa: S608 - our columns
        (site, job_id),
    )
    return [EfficiencyReport(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class InQueue:
    """What of the followed jobs is in the queue.

    Attributes:
        job_ids: the ids, as the queue prints them.
        whole: the followed ids of which every unfinished part is in the queue.
    """

    job_ids: frozenset[str]
    whole: frozenset[str]


def apply_queue(connection: sqlite3.Connection, site: str, records: Iterable[QueueRecord], *, now: float) -> InQueue:
    """Takes in an answer of `squeue`, which must be the whole queue of the user."""
    present: set[str] = set()
    named: set[str] = set()
    for record in records:
        root = root_of(record.job_id)
        followed = _tracked(connection, site, root)
        if followed is None:
            continue
        present.add(root)
        named.add(record.job_id)
        waiting = base_state(record.state) == "pending"
        open_finished_counters(connection, site, record.project, record.partition, followed.campaign)
        _upsert(
            connection,
            site,
            record.job_id,
            {
                "root_id": root,
                "job_name": _readable(connection, followed.token, record.job_name),
                "campaign": followed.campaign,
                "state": base_state(record.state),
                "user": record.user,
                "project": record.project,
                "partition": record.partition,
                "submit_time": record.submit_time,
                "time_limit_seconds": record.time_limit_seconds,
                "nodes": record.nodes,
                "cpus": record.cpus,
                "gpus": record.gpus,
                "restarts": record.restarts,
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
    records: Iterable[tuple[AccountingRecord, EfficiencyReport, bool]],
    in_queue: frozenset[str],
    *,
    now: float,
) -> None:
    """Takes in what `sacct` says about one followed id; what neither it nor the queue names becomes unknown.

    Args:
        connection: of a write transaction.
        site: the site's name.
        root_id: the id.
        records: each part of it, its report, and whether that is accounting's last word on it.
        in_queue: ids that the queue names: on those it knows better.
        now: epoch seconds.
    """
    followed = _tracked(connection, site, root_id)
    if followed is None:
        return
    waits = any(root_of(job_id) == root_id for job_id in in_queue)
    named = set(in_queue)
    for record, report, final in records:
        if record.job_id in in_queue or (waits and is_collective(record.job_id) and not final):
            continue
        named.add(record.job_id)
        open_finished_counters(connection, site, record.project, record.partition, followed.campaign)
        _upsert(
            connection,
            site,
            record.job_id,
            {
                "root_id": root_id,
                "job_name": _readable(connection, followed.token, record.job_name),
                "campaign": followed.campaign,
                "state": base_state(record.state),
                "user": record.user,
                "project": record.project,
                "partition": record.partition,
                "submit_time": record.submit_time,
                "time_limit_seconds": record.time_limit_seconds,
                "nodes": record.alloc_nodes or record.req_nodes,
                "cpus": record.alloc_cpus or record.req_cpus,
                "gpus": _gpus(record),
                "restarts": record.restarts,
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
            _keep_report(connection, site, record.job_id, report, now=now)
    if not waits:
        _drop_collective(connection, site, keep=named, root_id=root_id)
    _mark_vanished(connection, site, root_id, named, now=now)
    if all(part.final for part in jobs_of(connection, site, root_id)):
        connection.execute("UPDATE tracked SET done = 1 WHERE site = ? AND root_id = ?", (site, root_id))


def postpone_accounting(connection: sqlite3.Connection, site: str, root_id: str, *, until: float) -> None:
    """Notes that accounting had no last word, and when to ask again."""
    connection.execute(
        "UPDATE tracked SET sacct_tries = sacct_tries + 1, sacct_after = ? WHERE site = ? AND root_id = ? AND done = 0",
        (until, site, root_id),
    )


def restarted(connection: sqlite3.Connection, site: str, root_ids: Sequence[str]) -> bool:
    """Tells whether Slurm is known to have started a part of one of these ids again."""
    marks = ", ".join("?" * len(root_ids))
    row = connection.execute(
        f"SELECT 1 FROM jobs WHERE site = ? AND root_id IN ({marks}) AND restarts > 0 LIMIT 1",  # noqa: S608 - marks
        (site, *root_ids),
    ).fetchone()
    return row is not None


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
        if not part.final and part.job_id not in named and part.state != UNKNOWN:
            connection.execute(
                "UPDATE jobs SET state = ?, state_since = ?, pending_reason = NULL WHERE site = ? AND job_id = ?",
                (UNKNOWN, now, site, part.job_id),
            )


def _tracked(connection: sqlite3.Connection, site: str, root_id: str) -> Tracked | None:
    row = connection.execute("SELECT * FROM tracked WHERE site = ? AND root_id = ?", (site, root_id)).fetchone()
    return None if row is None else Tracked(**{**dict(row), "done": bool(row["done"])})


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


def open_finished_counters(
    connection: sqlite3.Connection, site: str, project: str | None, partition: str | None, campaign: str
) -> None:
    """Starts the counters of finished jobs at 0, so that `increase()` sees the first job that ends."""
    labels = _finished_labels(site, project, partition, campaign)
    for state in sorted(FINAL_STATES):
        counters.add(connection, "jobs_finished_total", 0, **labels, state=state.lower())


def _finished_labels(site: str, project: str | None, partition: str | None, campaign: str) -> dict[str, str]:
    return {"site": site, "project": project or "", "partition": partition or "", "campaign": campaign}


def _count_once(connection: sqlite3.Connection, site: str, job_id: str) -> None:
    (job,) = find(connection, job_id, site)
    if job.counted:
        return
    labels = _finished_labels(site, job.project, job.partition, job.campaign)
    counters.add(connection, "jobs_finished_total", **labels, state=job.state)
    connection.execute("UPDATE jobs SET counted = 1 WHERE site = ? AND job_id = ?", (site, job_id))


def _keep_report(
    connection: sqlite3.Connection, site: str, job_id: str, report: EfficiencyReport, *, now: float
) -> None:
    names = ("site", "job_id", *_REPORT_COLUMNS, "created")
    connection.execute(
        f"INSERT OR REPLACE INTO reports ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",  # noqa: S608
        (site, job_id, *astuple(report), now),
    )


def _job(row: sqlite3.Row) -> JobRow:
    return JobRow(**{**dict(row), "final": bool(row["final"]), "counted": bool(row["counted"])})
