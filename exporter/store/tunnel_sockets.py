"""By which sockets the ports of tunnels are listened on: where it is another one than before, ssh was started again."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping


def note(connection: sqlite3.Connection, site: str, seen: Mapping[tuple[str, str], str], *, now: float) -> None:
    """Notes what was seen of a site's tunnels; what is kept of ended jobs goes.

    Args:
        connection: of a write transaction.
        site: the site's name.
        seen: the sockets, by job and tunnel; a port on which nobody listens is left out.
        now: epoch seconds.
    """
    connection.executemany(
        "INSERT INTO tunnel_sockets (site, job_id, tunnel, sockets) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (site, job_id, tunnel) DO UPDATE SET sockets = excluded.sockets, changed = ?"
        " WHERE sockets != excluded.sockets",
        [(site, job_id, tunnel, sockets, now) for (job_id, tunnel), sockets in seen.items()],
    )
    connection.execute(
        "DELETE FROM tunnel_sockets WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.site = tunnel_sockets.site"
        " AND j.job_id = tunnel_sockets.job_id AND j.final = 0)"
    )
