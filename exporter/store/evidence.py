"""What is known of one job by each source, and since when; and the raw texts that it came from."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass, fields

from exporter.records import Bill, EfficiencyReport

_REPORT = tuple(field.name for field in fields(EfficiencyReport))


@dataclass(frozen=True, slots=True)
class ReportTold:
    """How well a job used what it had, by one source.

    Attributes:
        at: when that was read, epoch seconds.
    """

    report: EfficiencyReport
    at: float


@dataclass(frozen=True, slots=True)
class BillTold:
    """What a job cost, by one source.

    Attributes:
        final: whether this one is published.
        at: when it was known, epoch seconds.
    """

    bill: Bill
    final: bool
    at: float


@dataclass(frozen=True, slots=True)
class RawText:
    """What a site printed, once however often it printed it.

    Attributes:
        source: the command.
        first_seen: when it was first printed, epoch seconds.
        last_seen: when it was last printed so.
    """

    source: str
    sha256: str
    text: str
    first_seen: float
    last_seen: float


def reports_of(connection: sqlite3.Connection, site: str, job_id: str) -> list[ReportTold]:
    """Returns what each source says about how well a job used what it had."""
    rows = connection.execute(
        f"SELECT {', '.join(_REPORT)}, created FROM reports WHERE site = ? AND job_id = ?"  # noqa: S608 - our columns
        " ORDER BY source",
        (site, job_id),
    )
    return [ReportTold(EfficiencyReport(*tuple(row)[:-1]), row["created"]) for row in rows]


def bills_of(connection: sqlite3.Connection, site: str, job_id: str) -> list[BillTold]:
    """Returns what each source says that a job cost, the published one first."""
    rows = connection.execute(
        "SELECT source, kind, unit, units, project, final, created FROM bills WHERE site = ? AND job_id = ?"
        " ORDER BY final DESC, source",
        (site, job_id),
    )
    return [BillTold(Bill(*tuple(row)[:5]), bool(row["final"]), row["created"]) for row in rows]


def texts_of(
    connection: sqlite3.Connection, site: str, source: str, job_id: str, token: str | None, *, most: int
) -> list[RawText]:
    """Returns the kept texts of a source that name a job, the newest first.

    Args:
        connection: of a snapshot.
        site: the site's name.
        source: the command that printed them.
        job_id: the job's id.
        token: its submission's, by which its name is known; None where it has none.
        most: how many at most.
    """
    marks = [re.escape(job_id)] if token is None else [re.escape(job_id), rf"[^\s|]*\.rs{re.escape(token)}"]
    named = re.compile(rf"(?<![\w.])(?:{'|'.join(marks)})(?!\w)")
    rows = connection.execute(
        "SELECT source, sha256, text, first_seen, last_seen FROM raw_outputs"
        " WHERE site = ? AND source = ? AND (instr(text, ?) OR instr(text, ?)) ORDER BY last_seen DESC, rowid DESC",
        (site, source, job_id, token or job_id),
    )
    found: list[RawText] = []
    for row in rows:
        if len(found) < most and named.search(row["text"]):
            found.append(RawText(**dict(row)))
    return found
