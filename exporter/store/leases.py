"""Leases: which ports of this machine belong to which job's tunnels."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from exporter.errors import RefusedError

DASHBOARD = "dashboard"
"""The tunnel to Ray's dashboard."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A port that one job's tunnel has.

    Attributes:
        port: on this machine.
        tunnel: which of the job's: `dashboard`, `client`, `serve` or `metrics-N`, of the N-th node.
        token: the submission's.
        site: where its job is.
        job_id: the job; None while none is known.
        job_name: what it is called.
        open: whether the job may still come to use it.
        created: since when, epoch seconds.
    """

    port: int
    tunnel: str
    token: str
    site: str
    job_id: str | None
    job_name: str
    open: bool
    created: float


def take(
    connection: sqlite3.Connection,
    token: str,
    wanted: Mapping[str, Sequence[int]],
    *,
    busy: Collection[int] = (),
    now: float,
) -> dict[str, int]:
    """Gives each of a job's tunnels a port that nobody else has.

    Args:
        connection: of a write transaction.
        token: the submission's.
        wanted: the ports that each tunnel may have.
        busy: ports on which somebody listens already.
        now: epoch seconds.

    Returns:
        The port of each tunnel.

    Raises:
        RefusedError: none is left for one of them; none was taken.
    """
    taken = {row["port"] for row in connection.execute("SELECT port FROM leases")} | set(busy)
    given: dict[str, int] = {}
    for tunnel, ports in wanted.items():
        port = next((candidate for candidate in ports if candidate not in taken), None)
        if port is None:
            purpose = tunnel.partition("-")[0]
            held = sum(candidate in taken for candidate in ports)
            raise RefusedError(
                f"all {held} {purpose} ports are held by jobs' tunnels or by other programs (`rayslurm tunnels list` "
                f"shows which); widen vm.{purpose}_ports"
            )
        given[tunnel] = port
        taken.add(port)
    connection.executemany(
        "INSERT INTO leases (port, tunnel, token, created) VALUES (?, ?, ?, ?)",
        [(port, tunnel, token, now) for tunnel, port in given.items()],
    )
    return given


def all_leases(connection: sqlite3.Connection) -> list[Lease]:
    """Returns all leases in the order of their ports."""
    return [_lease(row) for row in connection.execute(f"{_SELECT} ORDER BY l.port")]


def of_submission(connection: sqlite3.Connection, token: str) -> list[Lease]:
    """Returns the leases of one submission in the order of their ports."""
    return [_lease(row) for row in connection.execute(f"{_SELECT} WHERE l.token = ? ORDER BY l.port", (token,))]


def release(connection: sqlite3.Connection, busy: Collection[int]) -> list[Lease]:
    """Frees the ports of jobs that have ended, where nobody listens any more: an ssh can outlive its job.

    Args:
        connection: of a write transaction.
        busy: ports on which somebody listens.

    Returns:
        The leases that went.
    """
    gone = [lease for lease in all_leases(connection) if lease.port not in busy and not lease.open]
    connection.executemany("DELETE FROM leases WHERE port = ?", [(lease.port,) for lease in gone])
    return gone


_SELECT = (
    "SELECT l.port, l.tunnel, l.token, s.site, s.job_id, s.name AS job_name, l.created,"
    " s.state != 'absent' AND coalesce(t.done, 0) = 0 AS open"
    " FROM leases l JOIN submissions s ON s.token = l.token LEFT JOIN tracked t ON t.token = l.token"
)


def _lease(row: sqlite3.Row) -> Lease:
    return Lease(**{**dict(row), "open": bool(row["open"])})
