"""What will have to be paid beside the bills that are there: what may become a job, waits, runs, or awaits its bill."""

from __future__ import annotations

import sqlite3

from exporter.store import jobs, submissions
from exporter.store.jobs import JobRow
from exporter.store.submissions import Submission


def without_job(connection: sqlite3.Connection) -> list[Submission]:
    """Returns the submissions that may become a job, or have become one that isn't known yet, oldest first."""
    rows = connection.execute(
        "SELECT s.token FROM submissions s WHERE s.job_id IS NULL AND s.state != 'absent' ORDER BY s.created, s.token"
    )
    return [submissions.get(connection, row["token"]) for row in rows.fetchall()]


def unpaid(connection: sqlite3.Connection) -> list[JobRow]:
    """Returns the jobs that have not ended, and those that have and whose bill is awaited, by site and id."""
    rows = connection.execute(
        "SELECT j.site, j.job_id FROM jobs j WHERE j.final = 0 OR (j.final = 1"
        " AND EXISTS (SELECT 1 FROM awaited_reports a WHERE a.site = j.site AND a.job_id = j.job_id)"
        " AND NOT EXISTS (SELECT 1 FROM bills b WHERE b.site = j.site AND b.job_id = j.job_id AND b.final = 1))"
        " ORDER BY j.site, CAST(j.root_id AS INTEGER), j.job_id"
    )
    return [jobs.find(connection, row["job_id"], row["site"])[0] for row in rows.fetchall()]


def submission_of(connection: sqlite3.Connection, site: str, job_id: str) -> Submission | None:
    """Returns the submission that a job came of; None where it was submitted by hand."""
    row = connection.execute(
        "SELECT token FROM submissions WHERE site = ? AND job_id = ? ORDER BY created DESC LIMIT 1", (site, job_id)
    ).fetchone()
    return None if row is None else submissions.get(connection, row["token"])
