"""How the jobs of campaigns' runs ended, and how they are ended where nothing more is to be launched."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from exporter.store import campaigns, chains, jobs, submissions
from exporter.store.campaigns import JobPoint, RunRow

FILE_REMOVED = "the campaign's file was removed"
"""Why a job was withdrawn."""


def ending(connection: sqlite3.Connection, run: RunRow, point: JobPoint) -> tuple[str, str | None] | None:
    """Returns how a job ended in one word, and why; None where it goes on or wasn't launched."""
    if point.state != "launched" or point.token is None:
        return None
    submission = submissions.get(connection, point.token)
    if submission.state == "absent":
        return "absent", submission.error
    if submission.job_id is None:
        return None
    chain = chains.of_job(connection, run.site, submission.job_id)
    if chain is not None:
        if chain.end is None or not chain.rests:
            return None
        submission = chain.last.submission
    found = jobs.find(connection, submission.job_id or "", run.site)
    if not found or not found[0].final:
        return None
    job = found[0]
    return job.state, f"job {job.job_id} ended as {job.state.upper()}"


def outcome(state: str) -> str:
    """Returns what a job that ended so counts as, one of `campaigns.OUTCOMES`."""
    return {"completed": "succeeded", "cancelled": "cancelled"}.get(state, "failed")


def withdraw(connection: sqlite3.Connection, runs: Iterable[RunRow], reason: str, *, now: float) -> None:
    """Cancels the jobs of runs that were not launched yet, or wait to be launched again.

    One whose launch may have come to a job, though its answer got lost, counts as launched and is followed.

    Args:
        connection: of a write.
        runs: those that go on.
        reason: why, for people.
        now: epoch seconds.
    """
    for run in runs:
        for point in campaigns.jobs_of(connection, run):
            if point.state != "waiting":
                continue
            sent = submissions.of_key(connection, point.key)
            if sent is not None:
                campaigns.launched(connection, point, sent.token, now=now)
            else:
                told = "; then ".join(part for part in (point.reason, reason) if part)
                campaigns.settle(connection, point, "cancelled", told)
