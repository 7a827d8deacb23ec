"""Whether the Ray clusters of jobs are idle, by Ray's own account through the dashboards' tunnels."""

from __future__ import annotations

import sqlite3


def known(connection: sqlite3.Connection, site: str, *, now: float) -> dict[str, float | None]:
    """Returns since when Ray has used no CPU and no GPU, by job; None where it uses one.

    Jobs of which that isn't known now are left out.
    """
    rows = connection.execute(
        "SELECT job_id, idle_since FROM ray_clusters WHERE site = ? AND good_until > ? AND used != '{}'", (site, now)
    )
    return {row["job_id"]: row["idle_since"] for row in rows}
