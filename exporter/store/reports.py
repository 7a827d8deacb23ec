"""How well finished jobs used what they had, by source."""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, fields

from exporter.records import EfficiencyReport

_COLUMNS = tuple(field.name for field in fields(EfficiencyReport))


def keep(connection: sqlite3.Connection, site: str, job_id: str, report: EfficiencyReport, *, now: float) -> None:
    """Keeps what one source says about a job, in place of what it said before."""
    names = ("site", "job_id", *_COLUMNS, "created")
    connection.execute(
        f"INSERT OR REPLACE INTO reports ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",  # noqa: S608
        (site, job_id, *astuple(report), now),
    )


def of_job(connection: sqlite3.Connection, site: str, job_id: str) -> list[EfficiencyReport]:
    """Returns what the sources say about how well a job used what it had."""
    rows = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM reports WHERE site = ? AND job_id = ?",  # noqa: S608 - our columns
        (site, job_id),
    )
    return [EfficiencyReport(*row) for row in rows]


def forget(connection: sqlite3.Connection, site: str, job_id: str) -> None:
    """Forgets all that was said about a job: it ran again."""
    connection.execute("DELETE FROM reports WHERE site = ? AND job_id = ?", (site, job_id))
