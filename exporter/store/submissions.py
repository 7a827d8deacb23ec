"""The journal: every intention to launch a job, on disk before anything leaves this machine."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from exporter.errors import RefusedError
from exporter.store import counters, jobs


@dataclass(frozen=True, slots=True)
class Submission:
    """One intention to launch, and what became of it.

    Attributes:
        token: its identity; part of the job's name at the site.
        name: the job's readable name.
        spec: the spec as understood.
        run_dir: the job's folder at the site.
        dashboard_port: the port on this machine that its dashboard's tunnel listens on; None where it has none.
        state: `intended`, `submitting`, `submitted`, `unknown`, `adopted` or `absent`.
        job_id: the job that came of it; None while there is none or it isn't known.
        error: why it is unknown or absent.
    """

    token: str
    site: str
    campaign: str
    name: str
    spec: dict[str, Any]
    run_dir: str
    dashboard_port: int | None
    state: str
    job_id: str | None
    error: str | None
    created: float
    updated: float


def intend(
    connection: sqlite3.Connection,
    *,
    token: str,
    site: str,
    campaign: str,
    name: str,
    spec: dict[str, Any],
    run_dir: str,
    dashboard_ports: Sequence[int],
    now: float,
) -> Submission:
    """Writes an intention down, with the first port of `dashboard_ports` that no unfinished job has.

    Raises:
        RefusedError: every port is taken.
    """
    port: int | None = None
    if dashboard_ports:
        taken = {
            row["dashboard_port"]
            for row in connection.execute(
                "SELECT dashboard_port FROM submissions s LEFT JOIN tracked t ON t.token = s.token"
                " WHERE dashboard_port IS NOT NULL AND s.state != 'absent' AND coalesce(t.done, 0) = 0"
            )
        }
        port = next((candidate for candidate in dashboard_ports if candidate not in taken), None)
        if port is None:
            raise RefusedError(
                f"all {len(dashboard_ports)} dashboard ports are held by unfinished jobs; widen vm.dashboard_ports"
            )
    connection.execute(
        "INSERT INTO submissions (token, site, campaign, name, spec, run_dir, dashboard_port, state, created, updated)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 'intended', ?, ?)",
        (token, site, campaign, name, json.dumps(spec, sort_keys=True), run_dir, port, now, now),
    )
    return get(connection, token)


def submitting(connection: sqlite3.Connection, token: str, run_dir: str, *, now: float) -> None:
    """Notes that the run folder is there and that `sbatch` runs next."""
    connection.execute(
        "UPDATE submissions SET state = 'submitting', run_dir = ?, updated = ? WHERE token = ?", (run_dir, now, token)
    )


def unsettle(connection: sqlite3.Connection, token: str, state: str, error: str, *, now: float) -> Submission:
    """Notes that a submission is `unknown` or `absent`, and why."""
    connection.execute(
        "UPDATE submissions SET state = ?, error = ?, updated = ? WHERE token = ?", (state, error, now, token)
    )
    return get(connection, token)


def is_open(connection: sqlite3.Connection, token: str) -> bool:
    """Tells whether a submission has a job that is followed, or may have one."""
    row = connection.execute(
        "SELECT 1 FROM submissions s LEFT JOIN tracked t ON t.token = s.token"
        " WHERE s.token = ? AND s.state != 'absent' AND coalesce(t.done, 0) = 0",
        (token,),
    ).fetchone()
    return row is not None


def in_doubt(connection: sqlite3.Connection, token: str) -> bool:
    """Tells whether there is a submission with that token of which no job is known."""
    row = connection.execute("SELECT state FROM submissions WHERE token = ? AND job_id IS NULL", (token,)).fetchone()
    return row is not None


def submitted(
    connection: sqlite3.Connection, token: str, job_id: str, *, now: float, state: str = "submitted"
) -> Submission:
    """Notes the job that came of a submission, counts it, and follows it from now on: all or nothing."""
    submission = get(connection, token)
    connection.execute(
        "UPDATE submissions SET state = ?, job_id = ?, error = NULL, updated = ? WHERE token = ?",
        (state, job_id, now, token),
    )
    counters.add(connection, "jobs_submitted_total", site=submission.site, campaign=submission.campaign)
    project, partition = submission.spec.get("project"), submission.spec.get("partition")
    jobs.open_finished_counters(connection, submission.site, project, partition, submission.campaign)
    jobs.track(connection, submission.site, job_id, campaign=submission.campaign, token=token, now=now)
    jobs.expect(
        connection,
        submission.site,
        job_id,
        job_name=submission.name,
        project=project,
        partition=partition,
        campaign=submission.campaign,
        now=now,
    )
    return get(connection, token)


def get(connection: sqlite3.Connection, token: str) -> Submission:
    """Returns a submission.

    Raises:
        KeyError: there is none with that token.
    """
    row = connection.execute("SELECT * FROM submissions WHERE token = ?", (token,)).fetchone()
    if row is None:
        raise KeyError(token)
    return _submission(row)


def unsettled(connection: sqlite3.Connection) -> list[Submission]:
    """Returns the submissions of which no job is known and that aren't absent, oldest first."""
    rows = connection.execute(
        "SELECT * FROM submissions WHERE state IN ('intended', 'submitting', 'unknown') ORDER BY created"
    )
    return [_submission(row) for row in rows]


def settled(connection: sqlite3.Connection) -> list[Submission]:
    """Returns the submissions that became a job which is still followed, oldest first."""
    rows = connection.execute(
        "SELECT s.* FROM submissions s JOIN tracked t ON t.token = s.token WHERE t.done = 0 ORDER BY s.created"
    )
    return [_submission(row) for row in rows]


def close_interrupted(connection: sqlite3.Connection, *, now: float) -> None:
    """Settles what a process that died left behind; to be called by the owner before it sends anything.

    What was only intended was never sent: absent. What was being submitted is unknown.
    """
    connection.execute(
        "UPDATE submissions SET state = 'absent', error = 'rayslurm ended before anything was sent', updated = ?"
        " WHERE state = 'intended'",
        (now,),
    )
    connection.execute(
        "UPDATE submissions SET state = 'unknown', error = 'rayslurm ended while sbatch ran', updated = ?"
        " WHERE state = 'submitting'",
        (now,),
    )


def _submission(row: sqlite3.Row) -> Submission:
    return Submission(
        **{name: row[name] for name in Submission.__dataclass_fields__ if name != "spec"}, spec=json.loads(row["spec"])
    )
