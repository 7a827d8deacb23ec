"""The tunnels of running jobs: which there are to probe, and how each was found."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

DASHBOARD, CLIENT, METRICS, SERVE = "dashboard", "client", "metrics", "serve"
"""What tunnels lead to: Ray's dashboard, its server for clients, a node's metrics (`metrics-N`), Ray Serve."""

UP = "up"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A tunnel that a running job should have open.

    Attributes:
        tunnel: which of the job's.
        port: on this machine's loopback.
        token: the submission's; by it the secret of the job's Ray is found.
        may_be_open: whether the spec allows a Ray that asks for no secret.
    """

    site: str
    job_id: str
    tunnel: str
    port: int
    token: str
    may_be_open: bool


@dataclass(frozen=True, slots=True)
class MetricsTarget:
    """A port of this machine that leads to the metrics of one node of a job's Ray.

    Attributes:
        node: its name; where that isn't known its number in the job, of which 0 is the head.
        port: on this machine's loopback.
    """

    site: str
    job_id: str
    campaign: str
    node: str
    port: int


@dataclass(frozen=True, slots=True)
class Health:
    """How a tunnel was when it was last probed.

    Attributes:
        state: `up`, `refused`, `timeout`, `auth`, `foreign` or `target_down`.
        at: when the probe ended, epoch seconds.
        duration_seconds: how long the probe took.
        good_until: from when on it is not known any more, epoch seconds.
        last_success: when it was last up, epoch seconds; None where it never was.
    """

    site: str
    job_id: str
    tunnel: str
    state: str
    at: float
    duration_seconds: float
    good_until: float
    last_success: float | None = None

    @property
    def up(self) -> bool:
        """Whether this job's Ray answered."""
        return self.state == UP


def to_probe(connection: sqlite3.Connection, site: str) -> list[Tunnel]:
    """Returns the tunnels of a site's running jobs, the oldest job's first."""
    rows = connection.execute(
        "SELECT s.site, s.job_id, l.tunnel, l.port, s.token,"
        " coalesce(json_extract(s.spec, '$.ray.allow_unauthenticated_ray'), 0) AS may_be_open"
        " FROM tracked t JOIN submissions s ON s.token = t.token"
        " JOIN jobs j ON j.site = s.site AND j.job_id = s.job_id JOIN leases l ON l.token = s.token"
        " WHERE t.done = 0 AND t.site = ? AND j.state = 'running' ORDER BY s.created, l.port",
        (site,),
    )
    return [Tunnel(**{**dict(row), "may_be_open": bool(row["may_be_open"])}) for row in rows]


def metrics_targets(connection: sqlite3.Connection) -> list[MetricsTarget]:
    """Returns where the metrics of running jobs' nodes are: of those whose Ray is ready, the oldest job's first.

    Ready is what its supervisor says is, or what answers.
    """
    rows = connection.execute(
        "SELECT s.site, s.job_id, s.campaign, l.port, substr(l.tunnel, 9) AS number,"
        " json_extract(r.node_names, '$[' || substr(l.tunnel, 9) || ']') AS name"
        " FROM tracked t JOIN submissions s ON s.token = t.token"
        " JOIN jobs j ON j.site = s.site AND j.job_id = s.job_id JOIN leases l ON l.token = s.token"
        " LEFT JOIN runs r ON r.site = s.site AND r.job_id = s.job_id"
        " LEFT JOIN tunnel_health h ON h.site = s.site AND h.job_id = s.job_id AND h.tunnel = l.tunnel"
        " WHERE t.done = 0 AND j.state = 'running' AND substr(l.tunnel, 1, 8) = 'metrics-'"
        " AND (r.ready_time IS NOT NULL OR h.last_success IS NOT NULL) ORDER BY s.created, l.port"
    )
    return [
        MetricsTarget(row["site"], row["job_id"], row["campaign"], row["name"] or row["number"], row["port"])
        for row in rows
    ]


def keep(connection: sqlite3.Connection, found: Iterable[Health]) -> None:
    """Keeps what was found, with the last success that was known before; what is kept of ended jobs goes."""
    for health in found:
        connection.execute(
            "INSERT INTO tunnel_health (site, job_id, tunnel, state, at, duration_seconds, good_until, last_success)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (site, job_id, tunnel) DO UPDATE SET state = excluded.state,"
            " at = excluded.at, duration_seconds = excluded.duration_seconds, good_until = excluded.good_until,"
            " last_success = coalesce(excluded.last_success, last_success)",
            (
                health.site, health.job_id, health.tunnel, health.state, health.at, health.duration_seconds,
                health.good_until, health.at if health.up else None,
            ),
        )  # fmt: skip
    connection.execute(
        "DELETE FROM tunnel_health WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.site = tunnel_health.site"
        " AND j.job_id = tunnel_health.job_id AND j.final = 0)"
    )


def current(connection: sqlite3.Connection, *, now: float) -> list[Health]:
    """Returns what is known of the tunnels of running jobs: of those that were probed a short while ago."""
    rows = connection.execute(
        "SELECT h.* FROM tunnel_health h JOIN jobs j ON j.site = h.site AND j.job_id = h.job_id"
        " WHERE j.state = 'running' AND h.good_until > ?"
        " ORDER BY h.site, CAST(h.job_id AS INTEGER), h.job_id, h.tunnel",
        (now,),
    )
    return [Health(**dict(row)) for row in rows]


def dashboards(connection: sqlite3.Connection, *, now: float) -> dict[tuple[str, str], Health]:
    """Returns the same of the dashboards' tunnels alone, by site and job."""
    found = current(connection, now=now)
    return {(health.site, health.job_id): health for health in found if health.tunnel == DASHBOARD}


def by_job(connection: sqlite3.Connection, *, now: float) -> dict[tuple[str, str], list[Health]]:
    """Returns the same of all tunnels, by site and job."""
    found: dict[tuple[str, str], list[Health]] = {}
    for health in current(connection, now=now):
        found.setdefault((health.site, health.job_id), []).append(health)
    return found
