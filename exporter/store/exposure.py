"""Whether others can reach the ports of tunnels, as the kernel of this machine has it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """A port of a job that runs, or has ended and is still leased: an ssh can outlive its job.

    Attributes:
        running: whether the job runs.
    """

    site: str
    job_id: str
    tunnel: str
    port: int
    running: bool


@dataclass(frozen=True, slots=True)
class Exposure:
    """Where a tunnel's port is listened on.

    Attributes:
        exposed: whether others can reach it.
        addresses: those by which they can, separated by commas.
        good_until: from when on that is not known any more, epoch seconds.
    """

    site: str
    job_id: str
    tunnel: str
    exposed: bool
    addresses: str
    good_until: float


def held(connection: sqlite3.Connection, site: str) -> list[Held]:
    """Returns the leased ports of a site's jobs that run or have ended."""
    rows = connection.execute(
        "SELECT s.site, s.job_id, l.tunnel, l.port, j.state = 'running' AS running FROM leases l"
        " CROSS JOIN submissions s ON s.token = l.token CROSS JOIN jobs j ON j.site = s.site AND j.job_id = s.job_id"
        " WHERE s.site = ? AND j.state != 'pending' ORDER BY l.port",
        (site,),
    )
    return [Held(**{**dict(row), "running": bool(row["running"])}) for row in rows]


def replace(connection: sqlite3.Connection, site: str, found: Iterable[Exposure]) -> None:
    """Keeps what was seen of a site's tunnels instead of what was seen before."""
    connection.execute("DELETE FROM tunnel_exposure WHERE site = ?", (site,))
    connection.executemany(
        "INSERT INTO tunnel_exposure (site, job_id, tunnel, addresses, exposed, good_until) VALUES (?, ?, ?, ?, ?, ?)",
        [(one.site, one.job_id, one.tunnel, one.addresses, int(one.exposed), one.good_until) for one in found],
    )


def current(connection: sqlite3.Connection, *, now: float) -> list[Exposure]:
    """Returns what was seen a short while ago."""
    rows = connection.execute(
        "SELECT * FROM tunnel_exposure WHERE good_until > ? ORDER BY site, CAST(job_id AS INTEGER), job_id, tunnel",
        (now,),
    )
    return [Exposure(**{**dict(row), "exposed": bool(row["exposed"])}) for row in rows]


def alive(connection: sqlite3.Connection, *, now: float) -> list[Exposure]:
    """Returns the tunnels that others can reach and behind which their own Ray answered a short while ago.

    So it is the jobs' sshd that listens there, and no other program that took a port.
    """
    rows = connection.execute(
        "SELECT e.* FROM tunnel_exposure e JOIN tunnel_health h ON h.site = e.site AND h.job_id = e.job_id"
        " AND h.tunnel = e.tunnel WHERE e.exposed = 1 AND e.good_until > ? AND h.state = 'up' AND h.good_until > ?"
        " ORDER BY e.site, CAST(e.job_id AS INTEGER), e.job_id, e.tunnel",
        (now, now),
    )
    return [Exposure(**{**dict(row), "exposed": True}) for row in rows]


def any_of(connection: sqlite3.Connection, site: str) -> bool:
    """Tells whether anything is kept of a site."""
    return connection.execute("SELECT 1 FROM tunnel_exposure WHERE site = ? LIMIT 1", (site,)).fetchone() is not None


def of_jobs(connection: sqlite3.Connection, *, now: float) -> dict[tuple[str, str], list[Exposure]]:
    """Returns the tunnels that others can reach, by site and job."""
    found: dict[tuple[str, str], list[Exposure]] = {}
    for one in current(connection, now=now):
        if one.exposed:
            found.setdefault((one.site, one.job_id), []).append(one)
    return found
