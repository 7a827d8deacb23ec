"""What jobs cost, and the lifetime counters of it: each job's bill is added once, when it is final."""

from __future__ import annotations

import sqlite3
from dataclasses import astuple

from exporter.records import Bill
from exporter.store import counters, jobs, ledger
from exporter.store.jobs import JobRow
from exporter.store.ledger import Entry


def keep(
    connection: sqlite3.Connection,
    site: str,
    job_id: str,
    bill: Bill,
    *,
    final: bool,
    now: float,
    raw_sha256: str | None = None,
) -> None:
    """Keeps what one source says that a job cost.

    A final bill is added to the counters and stands in the ledger. Where the job ran again after its bill, what was
    billed already is not added once more, and its entry in the ledger is replaced.

    Args:
        connection: of a write transaction.
        site: the site's name.
        job_id: a job that the store knows.
        bill: the bill.
        final: whether this is what is published; at most one source's is.
        now: epoch seconds.
        raw_sha256: of the text that it was read from.
    """
    if final:
        connection.execute("UPDATE bills SET final = 0 WHERE site = ? AND job_id = ?", (site, job_id))
    connection.execute(
        "INSERT OR REPLACE INTO bills (site, job_id, source, kind, unit, units, project, final, created, raw_sha256)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (site, job_id, *astuple(bill), int(final), now, raw_sha256),
    )
    if not final:
        return
    (job,) = jobs.find(connection, job_id, site)
    entry = _entry(connection, job, bill, raw_sha256, now)
    before = ledger.written(connection, entry)
    known = before.units if before and (before.kind, before.unit) == (bill.kind, bill.unit) else 0.0
    budget = {"project": bill.project or job.project, "campaign": job.campaign, "kind": bill.kind, "unit": bill.unit}
    open_counter(connection, site=site, **budget)
    if bill.units > known:
        counters.add(connection, "billing_units_total", bill.units - known, **_labels(site=site, **budget))
    ledger.enter(connection, entry)


def make_final(connection: sqlite3.Connection, site: str, job_id: str, source: str, *, now: float) -> None:
    """Takes one source's bill as the final one, where there is one."""
    row = connection.execute(
        "SELECT source, kind, unit, units, project, raw_sha256 FROM bills WHERE site = ? AND job_id = ? AND source = ?",
        (site, job_id, source),
    ).fetchone()
    if row is not None:
        *values, raw = row
        keep(connection, site, job_id, Bill(*values), final=True, now=now, raw_sha256=raw)


def by_source(connection: sqlite3.Connection, site: str, job_id: str, source: str) -> Bill | None:
    """Returns what one source says that a job cost; None where it says nothing."""
    row = connection.execute(
        "SELECT source, kind, unit, units, project FROM bills WHERE site = ? AND job_id = ? AND source = ?",
        (site, job_id, source),
    ).fetchone()
    return None if row is None else Bill(*row)


def of_job(connection: sqlite3.Connection, site: str, job_id: str) -> Bill | None:
    """Returns the final bill of a job; None where there is none yet, or what it cost is not known."""
    row = connection.execute(
        "SELECT source, kind, unit, units, project FROM bills WHERE site = ? AND job_id = ? AND final = 1",
        (site, job_id),
    ).fetchone()
    return None if row is None else Bill(*row)


def open_counter(connection: sqlite3.Connection, **labels: str | None) -> None:
    """Starts a counter of units at 0, so that `increase()` sees the first bill.

    Args:
        connection: of a write transaction.
        **labels: `site`, `project`, `campaign`, `kind` and `unit`.
    """
    counters.add(connection, "billing_units_total", 0, **_labels(**labels))


def _entry(connection: sqlite3.Connection, job: JobRow, bill: Bill, raw_sha256: str | None, now: float) -> Entry:
    followed = jobs.tracked(connection, job.site, job.root_id)
    return Entry(
        site=job.site,
        job_id=job.job_id,
        token=(followed.token if followed is not None else None) or "",
        job_name=job.job_name,
        partition=job.partition,
        project=bill.project or job.project,
        campaign=job.campaign,
        end_time=job.end_time,
        kind=bill.kind,
        unit=bill.unit,
        units=bill.units,
        source=bill.source,
        raw_sha256=raw_sha256,
        entered=now,
    )


def _labels(**labels: str | None) -> dict[str, str]:
    return {name: value or "" for name, value in labels.items()}
