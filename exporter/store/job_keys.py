"""The public halves of the keys by which jobs open their tunnels to this machine."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobKey:
    """A job's key.

    Attributes:
        token: the submission's.
        public: type and base64.
        expires: until when it is to be taken, as it was last written, epoch seconds.
        ports: what it may listen on.
        start_time: when its job started, epoch seconds; None while that isn't known.
        time_limit_seconds: how long its job may run; None where that isn't known.
    """

    token: str
    public: str
    expires: float
    ports: tuple[int, ...]
    start_time: int | None
    time_limit_seconds: float | None


def instance(connection: sqlite3.Connection) -> str:
    """Returns the name by which this rayslurm's lines are told from those of another one."""
    return str(connection.execute("SELECT name FROM instance").fetchone()["name"])


def keep(connection: sqlite3.Connection, token: str, public: str, *, expires: float) -> None:
    """Keeps a job's key, or until when it is taken now."""
    connection.execute(
        "INSERT INTO job_keys (token, public, expires) VALUES (?, ?, ?)"
        " ON CONFLICT (token) DO UPDATE SET public = excluded.public, expires = excluded.expires",
        (token, public, expires),
    )


def needed(connection: sqlite3.Connection) -> list[JobKey]:
    """Returns the keys of jobs that may still use them, oldest first."""
    rows = connection.execute(
        "SELECT k.token, k.public, k.expires, j.start_time, j.time_limit_seconds,"
        " (SELECT group_concat(l.port) FROM leases l WHERE l.token = k.token) AS ports"
        " FROM job_keys k JOIN submissions s ON s.token = k.token LEFT JOIN tracked t ON t.token = k.token"
        " LEFT JOIN jobs j ON j.site = s.site AND j.job_id = s.job_id AND j.state = 'running'"
        " WHERE s.state != 'absent' AND coalesce(t.done, 0) = 0 ORDER BY s.created"
    )
    return [
        JobKey(
            row["token"], row["public"], row["expires"],
            tuple(sorted(int(port) for port in (row["ports"] or "").split(",") if port)),
            row["start_time"], row["time_limit_seconds"],
        )
        for row in rows
    ]  # fmt: skip


def forget_others(connection: sqlite3.Connection) -> None:
    """Removes the keys of jobs that have ended, and of launches that became none."""
    connection.execute(
        "DELETE FROM job_keys WHERE token IN (SELECT k.token FROM job_keys k JOIN submissions s ON s.token = k.token"
        " LEFT JOIN tracked t ON t.token = k.token WHERE s.state = 'absent' OR t.done = 1)"
    )
