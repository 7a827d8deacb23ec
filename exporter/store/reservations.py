"""The nodes that each site has set aside, maintenance above all, as its own Slurm last told."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from exporter.records import ReservationRecord

AHEAD_SECONDS = 14 * 86400.0
"""How far ahead a maintenance is news."""


def replace(connection: sqlite3.Connection, site: str, records: Iterable[ReservationRecord], *, now: float) -> None:
    """Keeps a site's reservations, in place of those that were known before."""
    connection.execute("DELETE FROM reservations WHERE site = ?", (site,))
    connection.executemany(
        "INSERT OR REPLACE INTO reservations (site, name, start_time, end_time, nodes, partition, flags, read)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                site, record.name, record.start_time, record.end_time, record.nodes, record.partition,
                json.dumps(record.flags), now,
            )
            for record in records
        ],
    )  # fmt: skip


def maintenance(connection: sqlite3.Connection, site: str, *, now: float) -> list[ReservationRecord]:
    """Returns the maintenance of a site that goes on or is near, in the order of its beginning."""
    rows = connection.execute(
        "SELECT name, start_time, end_time, nodes, partition, flags FROM reservations"
        " WHERE site = ? AND coalesce(end_time, ?) >= ? AND coalesce(start_time, 0) < ? ORDER BY start_time",
        (site, now, now, now + AHEAD_SECONDS),
    )
    found = [ReservationRecord(**{**dict(row), "flags": tuple(json.loads(row["flags"]))}) for row in rows]
    return [record for record in found if record.is_maintenance]
