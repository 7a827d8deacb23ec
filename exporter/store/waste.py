"""What jobs cost while they were of no use: reckoned once, when a job's bill is final.

Of a job that never had its Ray ready the whole time counts. Of others, as long as it was seen from here: that Ray used
no CPU and no GPU, or that the dashboard's tunnel was down while no entrypoint could work on without it. A moment
counts once: `never_ready` before `tunnel_down` before `idle`. What was not seen is no waste, nor is a tunnel that goes
down because the job is being ended, and of a job whose bill isn't known no units are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from exporter.records import Bill
from exporter.store import awaited, bills, conditions, counters, jobs, runs
from exporter.store.conditions import CONDITIONS, Condition, Spell
from exporter.store.jobs import JobRow
from exporter.store.runs import Run

PATIENCE_SECONDS = 8 * 86400.0
"""How long after a job's end its bill and its summary are waited for."""


@dataclass(frozen=True, slots=True)
class Waste:
    """What of a job's time was of no use.

    Attributes:
        reason: in what way.
        seconds: how long; None where that isn't known.
        units: what that cost; None where that isn't known, or not yet.
    """

    reason: Condition
    seconds: float | None
    units: float | None


def open_counters(connection: sqlite3.Connection, **labels: str | None) -> None:
    """Starts the counters of waste at 0, so that `increase()` sees the first.

    Args:
        connection: of a write transaction.
        **labels: `site`, `project`, `campaign`, `kind` and `unit`.
    """
    for reason in CONDITIONS:
        _add(connection, 0, reason, labels)


def to_settle(connection: sqlite3.Connection, site: str, *, now: float) -> list[JobRow]:
    """Returns a site's ended jobs whose waste isn't reckoned yet and can be: all is known that will be."""
    rows = connection.execute(
        "SELECT j.job_id FROM submissions s JOIN jobs j ON j.site = s.site AND j.job_id = s.job_id"
        " WHERE s.site = ? AND j.final = 1 AND j.end_time > ?"
        " AND NOT EXISTS (SELECT 1 FROM waste w WHERE w.site = j.site AND w.job_id = j.job_id) ORDER BY s.created",
        (site, now - 2 * PATIENCE_SECONDS),
    ).fetchall()
    ended = [jobs.find(connection, row["job_id"], site)[0] for row in rows]
    return [job for job in ended if _is_told(connection, job, now=now)]


def settle(connection: sqlite3.Connection, site: str, *, now: float) -> None:
    """Reckons the waste of the jobs of `to_settle`, and adds it to the counters.

    Args:
        connection: of a write transaction.
        site: the site's name.
        now: epoch seconds.
    """
    for job in to_settle(connection, site, now=now):
        run, bill = runs.of_job(connection, site, job.job_id), bills.of_job(connection, site, job.job_id)
        seconds = seconds_of(job, run, _counted(connection, job))
        units = units_of(job, bill, seconds)
        if bill is not None:
            labels = {"site": site, "project": bill.project or job.project, "campaign": job.campaign}
            open_counters(connection, **labels, kind=bill.kind, unit=bill.unit)
            for reason, cost in units.items():
                _add(connection, cost, reason, {**labels, "kind": bill.kind, "unit": bill.unit})
        connection.executemany(
            "INSERT INTO waste (site, job_id, reason, seconds, units) VALUES (?, ?, ?, ?, ?)",
            [(site, job.job_id, reason, seconds.get(reason), units.get(reason)) for reason in CONDITIONS],
        )
        conditions.forget(connection, site, job.job_id)


def of_job(connection: sqlite3.Connection, job: JobRow) -> list[Waste]:
    """Returns the waste of a job as far as it is known: of one that goes on, as it was seen up to now."""
    rows = connection.execute(
        "SELECT reason, seconds, units FROM waste WHERE site = ? AND job_id = ? AND seconds IS NOT NULL",
        (job.site, job.job_id),
    ).fetchall()
    if rows:
        known = {row["reason"]: Waste(row["reason"], row["seconds"], row["units"]) for row in rows}
        return [known[reason] for reason in CONDITIONS if reason in known]
    seconds = added_up(_counted(connection, job), begin=job.start_time, end=job.end_time)
    return [Waste(reason, seconds[reason], None) for reason in CONDITIONS if reason in seconds]


def added_up(
    seen: Iterable[Spell], *, begin: float | None = None, end: float | None = None, most: float | None = None
) -> dict[Condition, float]:
    """Adds spells up by condition, each moment once: where several hold, the first of `CONDITIONS` counts.

    Args:
        seen: the spells, in any order.
        begin: what was before doesn't count, epoch seconds.
        end: nor what came after.
        most: what all together may have at most, in seconds.
    """
    steps: list[tuple[float, int, Condition]] = []
    found: dict[Condition, float] = {}
    for spell in seen:
        found[spell.condition] = 0.0
        first = spell.begin if begin is None else max(spell.begin, begin)
        last = spell.until if end is None else min(spell.until, end)
        if last > first:
            steps += [(first, 1, spell.condition), (last, -1, spell.condition)]
    holding: dict[Condition, int] = dict.fromkeys(CONDITIONS, 0)
    before = 0.0
    for at, step, condition in sorted(steps):
        counted = next((one for one in CONDITIONS if holding[one]), None)
        if counted is not None:
            found[counted] += at - before
        holding[condition] += step
        before = at
    left = most
    for condition in CONDITIONS:
        if left is not None and condition in found:
            found[condition] = min(found[condition], left)
            left -= found[condition]
    return found


def seconds_of(job: JobRow, run: Run | None, seen: Sequence[Spell]) -> dict[Condition, float]:
    """Returns how long an ended job was of no use, by condition; one that isn't known is left out.

    Args:
        job: with its last word from accounting.
        run: what its supervisor said; None where nothing was read.
        seen: the spells that count.
    """
    if job.elapsed_seconds is None or job.restarts:
        return {}  # accounting tells the time of the last attempt alone
    nothing: dict[Condition, float] = dict.fromkeys(CONDITIONS, 0.0)
    if not job.elapsed_seconds:
        return nothing
    if run is None or not run.settled:
        known: dict[Condition, float] = {"tunnel_down": 0.0, "idle": 0.0}
    elif run.ready_time is None:
        if not (run.phase or run.outcome):  # its folder told nothing
            return {}
        return {**nothing, "never_ready": job.elapsed_seconds}
    else:
        known = nothing
    if run is not None and run.ending_time is not None:
        ending = run.ending_time
        seen = [replace(one, until=min(one.until, ending)) if one.condition == "tunnel_down" else one for one in seen]
    return {**known, **added_up(seen, begin=job.start_time, end=job.end_time, most=job.elapsed_seconds)}


def units_of(job: JobRow, bill: Bill | None, seconds: dict[Condition, float]) -> dict[Condition, float]:
    """Returns what these seconds cost, by condition; nothing where the bill isn't known."""
    if bill is None:
        return {}
    if not job.elapsed_seconds:
        return dict.fromkeys(seconds, 0.0)
    elapsed, left, found = job.elapsed_seconds, bill.units, {}
    for condition, length in seconds.items():
        found[condition] = min(bill.units * min(length / elapsed, 1.0), left)
        left -= found[condition]
    return found


def _counted(connection: sqlite3.Connection, job: JobRow) -> list[Spell]:
    """Returns the spells of a job that are waste: whether its Ray is never ready turns out at its end alone."""
    row = connection.execute(
        "SELECT json_extract(spec, '$.entrypoint') IS NULL AS idles FROM submissions WHERE site = ? AND job_id = ?",
        (job.site, job.job_id),
    ).fetchone()
    wanted = {"idle", "tunnel_down"} if row is not None and row["idles"] else {"idle"}
    return [spell for spell in conditions.spells(connection, job.site, job.job_id) if spell.condition in wanted]


def _is_told(connection: sqlite3.Connection, job: JobRow, *, now: float) -> bool:
    """Tells whether no more will be known of an ended job than is."""
    if job.end_time is not None and now - job.end_time > PATIENCE_SECONDS:
        return True
    if awaited.is_awaited(connection, job.site, job.job_id):
        return False
    run = runs.of_job(connection, job.site, job.job_id)
    return not job.elapsed_seconds or (run is not None and run.settled)


def _add(connection: sqlite3.Connection, units: float, reason: Condition, labels: dict[str, Any]) -> None:
    written = {name: value or "" for name, value in labels.items()}
    counters.add(connection, "wasted_billing_units_total", units, **written, reason=reason)
