"""How the jobs of campaigns' runs ended, and how they are ended where nothing more is to be launched."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import replace

from exporter.campaigns.due import moment
from exporter.store import campaigns, chains, jobs, submissions
from exporter.store.campaigns import CampaignRow, JobPoint, RunRow
from exporter.store.submissions import Submission


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


def obsolete(row: CampaignRow | None, run: RunRow) -> str | None:
    """Returns why nothing more of a run is to be launched, for people; None where that isn't so.

    Args:
        row: its campaign, as its file says now; None where no file of it is known.
        run: the run.
    """
    if row is None or not row.present:
        return "the campaign's file was removed"
    return f"the campaign's file names site {row.site} now" if row.site != run.site else None


def withdraw_obsolete(connection: sqlite3.Connection, name: str, *, now: float) -> None:
    """Withdraws what waits of a campaign's runs of which nothing more is to be launched."""
    row = campaigns.find(connection, name)
    for run in campaigns.active(connection, campaign=name):
        reason = obsolete(row, run)
        if reason is not None:
            withdraw(connection, run, reason, now=now)


def withdraw(connection: sqlite3.Connection, run: RunRow, reason: str, *, now: float) -> None:
    """Cancels the jobs of a run that were not launched yet, or wait to be launched again.

    One whose launch may have come to a job, though that wasn't noted, counts as launched and is followed.

    Args:
        connection: of a write.
        run: one that goes on.
        reason: why, for people.
        now: epoch seconds.
    """
    for point in campaigns.jobs_of(connection, run):
        if point.state != "waiting":
            continue
        sent = submissions.of_key(connection, point.key)
        if sent is not None:
            campaigns.launched(connection, point, sent.token, now=now)
        else:
            told = "; then ".join(part for part in (point.reason, reason) if part)
            campaigns.settle(connection, point, "cancelled", told)


def end_unconfigured(connection: sqlite3.Connection, sites: Collection[str], *, now: float) -> list[str]:
    """Ends the runs at sites that aren't in the configuration any more; nobody looks after them, so they never would.

    Args:
        connection: of a write.
        sites: those that are in the configuration.
        now: epoch seconds.

    Returns:
        Of each of these runs, what it came to and why, for people.
    """
    told = []
    for run in campaigns.active(connection):
        if run.site in sites:
            continue
        reasons = []
        for point in campaigns.jobs_of(connection, run):
            if point.state in campaigns.OUTCOMES:
                continue
            sent = submissions.of_key(connection, point.key)
            if sent is not None:  # also where rayslurm died before that was noted
                campaigns.launched(connection, point, sent.token, now=now)
            state, reason = ("cancelled", _gone(run)) if sent is None else _last_word(connection, run, point, sent)
            campaigns.settle(connection, point, state, reason)
            reasons += [reason] if reason else []
        came_to = campaigns.finish(connection, run, campaigns.jobs_of(connection, run), now=now)
        why = "; ".join(dict.fromkeys(reasons)) or "its jobs have ended"
        told.append(f"campaign {run.campaign}: its run of {moment(run.due)}: {came_to}: {why}")
    return told


def _gone(run: RunRow) -> str:
    return f"its site {run.site} is not in the configuration any more"


def _last_word(
    connection: sqlite3.Connection, run: RunRow, point: JobPoint, sent: Submission
) -> tuple[str, str | None]:
    """Returns what a job at a site that isn't configured any more counts as, and why; it may be there, and cost."""
    ended = ending(connection, run, replace(point, state="launched", token=sent.token))
    if ended is not None:
        counted = outcome(ended[0])
        return counted, None if counted == "succeeded" else ended[1]
    chain = None if sent.job_id is None else chains.of_job(connection, run.site, sent.job_id)
    newest = (sent if chain is None else chain.last.submission).job_id
    found = [] if newest is None else jobs.find(connection, newest, run.site)
    if found and found[0].final:  # it would have been continued
        return "failed", f"job {newest} ended as {found[0].state.upper()}, and {_gone(run)}"
    what = "a job" if newest is None else f"job {newest}"
    return (
        "failed",
        f"{_gone(run)}; {what} may go on there, and costs what it costs: look there, and cancel it if it should end",
    )
