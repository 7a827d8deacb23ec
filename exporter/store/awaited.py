"""Finished jobs whose report the site has still to be asked for."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Awaited:
    """A job whose report is awaited.

    Attributes:
        tries: how often it was asked for in vain.
        after: it isn't asked for before, epoch seconds.
    """

    site: str
    job_id: str
    tries: int
    after: float


def add(connection: sqlite3.Connection, site: str, job_id: str) -> None:
    """Awaits the report of a job; one that ran again is asked for again."""
    connection.execute("INSERT OR REPLACE INTO awaited_reports (site, job_id) VALUES (?, ?)", (site, job_id))


def waiting(connection: sqlite3.Connection, site: str) -> list[Awaited]:
    """Returns the jobs of a site whose report is awaited, those that ended first first."""
    rows = connection.execute(
        "SELECT a.* FROM awaited_reports a JOIN jobs j USING (site, job_id) WHERE a.site = ? AND j.final = 1"
        " ORDER BY a.tries, j.end_time, a.job_id",
        (site,),
    )
    return [Awaited(**dict(row)) for row in rows]


def is_awaited(connection: sqlite3.Connection, site: str, job_id: str) -> bool:
    """Tells whether the report of a job is awaited."""
    row = connection.execute("SELECT 1 FROM awaited_reports WHERE site = ? AND job_id = ?", (site, job_id)).fetchone()
    return row is not None


def postpone(connection: sqlite3.Connection, site: str, job_id: str, *, until: float) -> None:
    """Notes that a report was asked for in vain, and when to ask again."""
    connection.execute(
        "UPDATE awaited_reports SET tries = tries + 1, after = ? WHERE site = ? AND job_id = ?", (until, site, job_id)
    )


def done(connection: sqlite3.Connection, site: str, job_id: str) -> None:
    """Notes that nothing more is awaited of a job."""
    connection.execute("DELETE FROM awaited_reports WHERE site = ? AND job_id = ?", (site, job_id))
