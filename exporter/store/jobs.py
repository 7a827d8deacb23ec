"""The jobs that are followed, and what is known about each."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.records import FINAL_STATES
from exporter.store import counters


@dataclass(frozen=True, slots=True)
class Tracked:
    """An id that is followed: a job, or all tasks of an array.

    Attributes:
        root_id: the number that all its parts share.
        since: when it began to be followed.
        sacct_tries: how often in a row accounting had no last word.
        sacct_after: accounting isn't asked before.
    """

    site: str
    root_id: str
    campaign: str
    token: str | None
    since: float
    done: bool
    sacct_tries: int
    sacct_after: float


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as the store knows it; see the table `jobs`.

    Attributes:
        tres: what it is allocated, or asks for while it waits, by the queue; as JSON, see `tres_by_name`.
        accounted_tres: what it was allocated by accounting, as JSON.
    """

    site: str
    job_id: str
    root_id: str
    job_name: str | None
    user: str | None
    project: str | None
    partition: str | None
    campaign: str
    state: str
    state_since: float
    pending_reason: str | None
    submit_time: int | None
    expected_start_time: int | None
    start_time: int | None
    end_time: int | None
    elapsed_seconds: float | None
    time_limit_seconds: float | None
    exit_code: int | None
    signal: int | None
    restarts: int | None
    nodes: int | None
    cpus: int | None
    gpus: int | None
    node_list: str | None
    final: bool
    counted: bool
    seen: float
    tres: str | None = None
    accounted_tres: str | None = None

    @property
    def tres_by_name(self) -> dict[str, float] | None:
        """What it is allocated by Slurm's names, memory in bytes; None where that isn't known."""
        return None if self.tres is None else json.loads(self.tres)


def root_of(job_id: str) -> str:
    """Returns the number that all parts of a job share: `123` of `123`, `123_4`, `123_[5-9]` and `123+1`.

    Raises:
        ValueError: the id starts with no number.
    """
    match = re.fullmatch(r"(\d+)(?:[_+.].*)?", job_id)
    if match is None:
        raise ValueError(f"{job_id!r} is no job id; one looks like 4285795 or 4285795_3")
    return match[1]


def is_collective(job_id: str) -> bool:
    """Tells whether an id names array tasks that have not begun, such as `123_[5-9]`."""
    return "[" in job_id


def track(
    connection: sqlite3.Connection, site: str, root_id: str, *, campaign: str = "", token: str | None = None, now: float
) -> bool:
    """Follows an id from now on.

    Returns:
        False where it was followed already; one that turns out to be a submission's is that one's from now on.
    """
    cursor = connection.execute(
        "INSERT INTO tracked (site, root_id, campaign, token, since) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (site, root_id, campaign, token, now),
    )
    if cursor.rowcount == 0 and token is not None:
        connection.execute(
            "UPDATE tracked SET token = ?, campaign = ?, done = 0 WHERE site = ? AND root_id = ?",
            (token, campaign, site, root_id),
        )
    return cursor.rowcount == 1


def expect(
    connection: sqlite3.Connection,
    site: str,
    job_id: str,
    *,
    job_name: str,
    project: str | None,
    partition: str | None,
    campaign: str,
    new: bool,
    now: float,
) -> None:
    """Shows a job that was just accepted as pending, until the queue says more.

    Args:
        connection: of a write transaction.
        site: where it is.
        job_id: its number.
        job_name: what it is called.
        project: who pays.
        partition: where it is to run.
        campaign: whose it is.
        new: whether the site has just given it that number. One that has ended under it is another job then, of before
            the site was set up anew, and nothing that was said, used or paid of that one is this one's.
        now: epoch seconds.
    """
    if new:
        connection.execute("DELETE FROM jobs WHERE site = ? AND job_id = ? AND final = 1", (site, job_id))
    connection.execute(
        "INSERT INTO jobs (site, job_id, root_id, job_name, project, partition, campaign, state, state_since, seen)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?) ON CONFLICT DO NOTHING",
        (site, job_id, root_of(job_id), job_name, project, partition, campaign, now, now),
    )


def open_tracked(connection: sqlite3.Connection, site: str) -> list[Tracked]:
    """Returns the ids of a site that lack a final record, oldest first."""
    rows = connection.execute("SELECT * FROM tracked WHERE site = ? AND done = 0 ORDER BY since, root_id", (site,))
    return [Tracked(**{**dict(row), "done": bool(row["done"])}) for row in rows]


def jobs_of(connection: sqlite3.Connection, site: str, root_id: str) -> list[JobRow]:
    """Returns what is known of the parts of an id."""
    # The + keeps SQLite from walking through all of the site's jobs for the sake of their order.
    rows = connection.execute("SELECT * FROM jobs WHERE site = ? AND root_id = ? ORDER BY +job_id", (site, root_id))
    return [_job(row) for row in rows]


def find(connection: sqlite3.Connection, job_id: str, site: str | None = None) -> list[JobRow]:
    """Returns the jobs of that id, at one site or at any."""
    rows = connection.execute(
        "SELECT * FROM jobs WHERE job_id = ? AND (? IS NULL OR site = ?) ORDER BY site", (job_id, site, site)
    )
    return [_job(row) for row in rows]


def visible(
    connection: sqlite3.Connection, *, now: float, keep_finished: float, max_finished: int
) -> tuple[list[JobRow], int]:
    """Returns the jobs to show and how many finished ones are left out.

    All unfinished jobs, then finished ones that ended within `keep_finished` seconds, newest first, at most
    `max_finished`.
    """
    unfinished = [
        _job(row)
        for row in connection.execute(
            "SELECT * FROM jobs WHERE final = 0 ORDER BY site, CAST(root_id AS INTEGER), job_id"
        )
    ]
    recent = connection.execute(
        "SELECT * FROM jobs WHERE final = 1 AND end_time > ? ORDER BY end_time DESC, site, job_id",
        (now - keep_finished,),
    ).fetchall()
    return unfinished + [_job(row) for row in recent[:max_finished]], max(0, len(recent) - max_finished)


def projects_of(connection: sqlite3.Connection, site: str) -> list[str]:
    """Returns the projects of a site's followed jobs: of those that go on or ended in the last month."""
    rows = connection.execute(
        "SELECT DISTINCT project FROM jobs WHERE site = ? AND project IS NOT NULL"
        " AND (final = 0 OR end_time > (SELECT max(seen) FROM jobs) - 30 * 86400) ORDER BY project",
        (site,),
    )
    return [row["project"] for row in rows]


def restarted(connection: sqlite3.Connection, site: str, root_ids: Sequence[str]) -> bool:
    """Tells whether Slurm is known to have started a part of one of these ids again."""
    marks = ", ".join("?" * len(root_ids))
    row = connection.execute(
        f"SELECT 1 FROM jobs WHERE site = ? AND root_id IN ({marks}) AND restarts > 0 LIMIT 1",  # noqa: S608 - marks
        (site, *root_ids),
    ).fetchone()
    return row is not None


def tracked(connection: sqlite3.Connection, site: str, root_id: str) -> Tracked | None:
    """Returns an id that is followed, or was; None where it never was."""
    row = connection.execute("SELECT * FROM tracked WHERE site = ? AND root_id = ?", (site, root_id)).fetchone()
    return None if row is None else Tracked(**{**dict(row), "done": bool(row["done"])})


def open_finished_counters(
    connection: sqlite3.Connection, site: str, project: str | None, partition: str | None, campaign: str
) -> None:
    """Starts the counters of finished jobs at 0, so that `increase()` sees the first job that ends."""
    labels = finished_labels(site, project, partition, campaign)
    for state in sorted(FINAL_STATES):
        counters.add(connection, "jobs_finished_total", 0, **labels, state=state.lower())


def finished_labels(site: str, project: str | None, partition: str | None, campaign: str) -> dict[str, str]:
    """Returns the labels of the counters of finished jobs, but for the state."""
    return {"site": site, "project": project or "", "partition": partition or "", "campaign": campaign}


def _job(row: sqlite3.Row) -> JobRow:
    return JobRow(**{**dict(row), "final": bool(row["final"]), "counted": bool(row["counted"])})
