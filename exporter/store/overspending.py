"""Running jobs that cost more than the `max_units` of their spec, and what followed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from exporter.store.jobs import JobRow


@dataclass(frozen=True, slots=True)
class Overspending:
    """What followed.

    Attributes:
        state: `reported`; `cancelling`: the site is being told, or was and it isn't known; `cancelled`: it was told.
        reason: why, for people.
        at: when, epoch seconds.
    """

    site: str
    job_id: str
    state: Literal["reported", "cancelling", "cancelled"]
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Capped:
    """A job that goes on and whose spec has a cap.

    Attributes:
        spec: as the journal has it.
    """

    site: str
    job_id: str
    spec: dict[str, Any]


def capped(connection: sqlite3.Connection, site: str) -> list[Capped]:
    """Returns the jobs of a site that run and whose spec has a cap, oldest first."""
    rows = connection.execute(
        "SELECT j.site, j.job_id, s.spec FROM tracked t JOIN submissions s ON s.token = t.token"
        " JOIN jobs j ON j.site = s.site AND j.job_id = s.job_id"
        " WHERE t.done = 0 AND t.site = ? AND j.state = 'running' AND j.final = 0"
        " AND json_extract(s.spec, '$.max_units') IS NOT NULL ORDER BY s.created",
        (site,),
    )
    return [Capped(row["site"], row["job_id"], json.loads(row["spec"])) for row in rows]


def note(connection: sqlite3.Connection, found: Overspending) -> None:
    """Writes down what follows, or followed, in place of what stood there."""
    connection.execute(
        "INSERT OR REPLACE INTO overspending (site, job_id, state, reason, at) VALUES (?, ?, ?, ?, ?)",
        (found.site, found.job_id, found.state, found.reason, found.at),
    )


def of_job(connection: sqlite3.Connection, site: str, job_id: str) -> Overspending | None:
    """Returns what followed for a job; None where it cost no more than its cap."""
    row = connection.execute("SELECT * FROM overspending WHERE site = ? AND job_id = ?", (site, job_id)).fetchone()
    return None if row is None else Overspending(**dict(row))


def of_jobs(connection: sqlite3.Connection, shown: Iterable[JobRow]) -> list[Overspending]:
    """Returns what followed for those of some jobs that go on."""
    found = [of_job(connection, job.site, job.job_id) for job in shown if not job.final]
    return [one for one in found if one is not None]
