"""How the Ray clusters of running jobs are, as their dashboards told; what is past its time is not known any more."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

GAP_SECONDS = 600.0
"""How long a cluster may go unseen, as while rayslurm is started anew, and still count as idle all the time."""

ALIVE = "alive"


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A job's Ray cluster as its dashboard last told.

    Attributes:
        at: when it was asked, epoch seconds.
        good_until: from when on it is not known any more, epoch seconds.
        nodes: how many are in each state, in Ray's words in lower case; empty where that isn't known.
        capacity: what there is of each resource; empty where that isn't known.
        used: what of that is in use.
        gcs_up: whether Ray's control store answers.
        idle: whether no CPU and no GPU is in use; None where that isn't known.
        idle_since: since when that is so, epoch seconds, as far as it was seen; None where it isn't.
    """

    site: str
    job_id: str
    at: float
    good_until: float
    nodes: Mapping[str, int]
    capacity: Mapping[str, float]
    used: Mapping[str, float]
    gcs_up: bool
    idle: bool | None
    idle_since: float | None = None

    @property
    def alive(self) -> int | None:
        """How many nodes are alive; None where that isn't known."""
        return self.nodes.get(ALIVE) if self.nodes else None

    @property
    def idle_seconds(self) -> float | None:
        """For how long no CPU and no GPU was in use when it was asked; 0 where one was, None where it isn't known."""
        if self.idle is None:
            return None
        return 0.0 if self.idle_since is None else max(0.0, self.at - self.idle_since)

    def as_json(self, expected: int | None) -> dict[str, Any]:
        """Returns what `rayslurm status --json` prints of it.

        Args:
            expected: how many nodes it should have.
        """
        return {
            "at": self.at,
            "nodes": dict(self.nodes),
            "nodes_expected": expected,
            "capacity": dict(self.capacity),
            "used": dict(self.used),
            "gcs_up": self.gcs_up,
            "idle_since": self.idle_since,
            "idle_seconds": self.idle_seconds,
        }


def keep(connection: sqlite3.Connection, found: Iterable[RayCluster]) -> None:
    """Keeps what was told; what is kept of ended jobs goes.

    A cluster that is idle has been so since it was first seen idle, without use or a longer gap since.
    """
    for cluster in found:
        before = connection.execute(
            "SELECT at, idle_since FROM ray_clusters WHERE site = ? AND job_id = ?", (cluster.site, cluster.job_id)
        ).fetchone()
        idle_since = cluster.at if cluster.idle else None
        if idle_since is not None and before is not None and before["idle_since"] is not None:
            seen_lately = 0 <= cluster.at - before["at"] <= GAP_SECONDS
            idle_since = before["idle_since"] if seen_lately else idle_since
        connection.execute(
            "INSERT OR REPLACE INTO ray_clusters (site, job_id, at, good_until, nodes, capacity, used, gcs_up,"
            " idle_since) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                cluster.site, cluster.job_id, cluster.at, cluster.good_until, json.dumps(dict(cluster.nodes)),
                json.dumps(dict(cluster.capacity)), json.dumps(dict(cluster.used)), int(cluster.gcs_up), idle_since,
            ),
        )  # fmt: skip
    connection.execute(
        "DELETE FROM ray_clusters WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.site = ray_clusters.site"
        " AND j.job_id = ray_clusters.job_id AND j.final = 0)"
    )


def doubt(connection: sqlite3.Connection, jobs: Iterable[tuple[str, str]]) -> None:
    """Makes what was told of these jobs' clusters, each a site and an id, not known any more."""
    connection.executemany("UPDATE ray_clusters SET good_until = 0 WHERE site = ? AND job_id = ?", list(jobs))


def current(connection: sqlite3.Connection, *, now: float) -> dict[tuple[str, str], RayCluster]:
    """Returns what is known of the clusters of running jobs, by site and job."""
    rows = connection.execute(
        "SELECT c.* FROM ray_clusters c CROSS JOIN jobs j ON j.site = c.site AND j.job_id = c.job_id"
        " WHERE j.state = 'running' AND c.good_until > ? ORDER BY c.site, CAST(c.job_id AS INTEGER), c.job_id",
        (now,),
    )
    return {(row["site"], row["job_id"]): _cluster(row) for row in rows}


def expected(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """Returns how many nodes the Ray of each running job of ours should have, by site and job."""
    rows = connection.execute(
        "SELECT s.site, s.job_id, json_extract(s.spec, '$.cluster.nodes') AS nodes"
        " FROM tracked t JOIN submissions s ON s.token = t.token"
        " JOIN jobs j ON j.site = s.site AND j.job_id = s.job_id WHERE t.done = 0 AND j.state = 'running'"
        " ORDER BY s.created"
    )
    return {(row["site"], row["job_id"]): row["nodes"] for row in rows if row["nodes"] is not None}


def _cluster(row: sqlite3.Row) -> RayCluster:
    texts = {name: json.loads(row[name]) for name in ("nodes", "capacity", "used")}
    idle = (row["idle_since"] is not None) if texts["used"] else None
    return RayCluster(**{**dict(row), **texts, "gcs_up": bool(row["gcs_up"]), "idle": idle})


def idle_since(connection: sqlite3.Connection, site: str, *, now: float) -> dict[str, float | None]:
    """Returns since when Ray has used no CPU and no GPU, by job; None where it uses one.

    Jobs of which that isn't known now are left out.
    """
    rows = connection.execute(
        "SELECT job_id, idle_since FROM ray_clusters WHERE site = ? AND good_until > ? AND used != '{}'", (site, now)
    )
    return {row["job_id"]: row["idle_since"] for row in rows}
