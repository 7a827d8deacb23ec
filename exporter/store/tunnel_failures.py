"""The last failures of the tunnels' probes, with what was said."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

KEPT = 10
"""How many are kept of one tunnel."""

KEPT_SECONDS = 7 * 86400.0
"""How long they are kept."""

RAY = "ray"
"""What stands for a tunnel where the dashboard was asked of its cluster."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A probe that failed, once or several times on end in the same way.

    Attributes:
        tunnel: which of the job's; `ray`: the dashboard was asked of its cluster.
        state: how it was found.
        first_at: when that began, epoch seconds.
        last_at: when it was last so, epoch seconds.
        times: how often.
        said: what was said the last time; at most 500 bytes, no secret.
    """

    site: str
    job_id: str
    tunnel: str
    state: str
    first_at: float
    last_at: float
    times: int
    said: str


@dataclass(frozen=True, slots=True)
class Failed:
    """One failure that is to be kept.

    Attributes:
        goes_on: whether the probe before it found the same.
    """

    site: str
    job_id: str
    tunnel: str
    state: str
    at: float
    said: str
    goes_on: bool


def keep(connection: sqlite3.Connection, failed: Iterable[Failed]) -> None:
    """Keeps failures, the last of each tunnel."""
    for one in failed:
        which = (one.site, one.job_id, one.tunnel)
        last = connection.execute(
            "SELECT id, state FROM tunnel_failures WHERE site = ? AND job_id = ? AND tunnel = ? ORDER BY id DESC"
            " LIMIT 1",
            which,
        ).fetchone()
        if one.goes_on and last is not None and last["state"] == one.state:
            connection.execute(
                "UPDATE tunnel_failures SET last_at = ?, times = times + 1, said = ? WHERE id = ?",
                (one.at, one.said, last["id"]),
            )
            continue
        connection.execute(
            "INSERT INTO tunnel_failures (site, job_id, tunnel, state, first_at, last_at, times, said)"
            " VALUES (?, ?, ?, ?, ?, ?, 1, ?)",
            (*which, one.state, one.at, one.at, one.said),
        )
        connection.execute(
            "DELETE FROM tunnel_failures WHERE site = ? AND job_id = ? AND tunnel = ? AND id NOT IN (SELECT id FROM"
            " tunnel_failures WHERE site = ? AND job_id = ? AND tunnel = ? ORDER BY id DESC LIMIT ?)",
            (*which, *which, KEPT),
        )
        forget_old(connection, now=one.at)


def forget_old(connection: sqlite3.Connection, *, now: float) -> int:
    """Removes the failures of long ago; returns how many."""
    return connection.execute("DELETE FROM tunnel_failures WHERE last_at < ?", (now - KEPT_SECONDS,)).rowcount


def latest(connection: sqlite3.Connection, site: str, *, most: int) -> list[Failure]:
    """Returns the last failures at a site, the newest first.

    Args:
        connection: of a snapshot.
        site: the site's name.
        most: how many at most.
    """
    rows = connection.execute(
        "SELECT site, job_id, tunnel, state, first_at, last_at, times, said FROM tunnel_failures WHERE site = ?"
        " ORDER BY last_at DESC, id DESC LIMIT ?",
        (site, most),
    )
    return [Failure(**dict(row)) for row in rows]


def of_job(connection: sqlite3.Connection, site: str, job_id: str) -> list[Failure]:
    """Returns the last failures of one job's tunnels, the newest first."""
    rows = connection.execute(
        "SELECT site, job_id, tunnel, state, first_at, last_at, times, said FROM tunnel_failures"
        " WHERE site = ? AND job_id = ? ORDER BY last_at DESC, id DESC",
        (site, job_id),
    )
    return [Failure(**dict(row)) for row in rows]
