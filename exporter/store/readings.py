"""How balances were each time they were read, as far back as forecasts look."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from exporter.records import AllocationRecord

KEPT_SECONDS = 400 * 86400.0
"""How long they are kept: a grant lasts a year at most, and the cutter looks back six months."""

CLOSE_SECONDS = 9 * 86400.0
"""How long each change is kept; of what is older the last reading of a day."""

REPEAT_SECONDS = 3 * 3600.0
"""After how long a balance that didn't change is written down again, so that it is known that it didn't."""

Key = tuple[str, str, str, str]
"""Provider, project, kind and unit: which balance."""


def keep(connection: sqlite3.Connection, records: Iterable[AllocationRecord], *, now: float) -> None:
    """Writes balances down where they have changed, or were not written down for a while."""
    for record in records:
        if record.used is None:
            continue
        key = (record.provider, record.project, record.kind, record.unit)
        last = connection.execute(
            "SELECT at, used, granted FROM balance_readings WHERE provider = ? AND project = ? AND kind = ?"
            " AND unit = ? ORDER BY rowid DESC LIMIT 1",
            key,
        ).fetchone()
        changed = last is None or (last["used"], last["granted"]) != (record.used, record.granted)
        if changed or not 0 <= now - last["at"] < REPEAT_SECONDS:
            connection.execute(
                "INSERT OR REPLACE INTO balance_readings (provider, project, kind, unit, at, used, granted)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*key, now, record.used, record.granted),
            )
    forget_old(connection, now=now)


def forget_old(connection: sqlite3.Connection, *, now: float) -> int:
    """Removes the readings of long ago, and of older days all but the last; returns how many."""
    return connection.execute(
        "DELETE FROM balance_readings WHERE at < ? OR (at < ? AND rowid NOT IN (SELECT max(rowid) FROM balance_readings"
        " GROUP BY provider, project, kind, unit, CAST(at / 86400 AS INTEGER)))",
        (now - KEPT_SECONDS, now - CLOSE_SECONDS),
    ).rowcount


def all_readings(connection: sqlite3.Connection) -> dict[Key, list[tuple[float, float, float | None]]]:
    """Returns when each balance was read, with what was used and granted, oldest first."""
    found: dict[Key, list[tuple[float, float, float | None]]] = {}
    rows = connection.execute("SELECT * FROM balance_readings ORDER BY provider, project, kind, unit, at")
    for row in rows:
        key = (row["provider"], row["project"], row["kind"], row["unit"])
        found.setdefault(key, []).append((row["at"], row["used"], row["granted"]))
    return found


def cost_since(connection: sqlite3.Connection, *, since: float) -> dict[tuple[str, str, str], float]:
    """Returns what jobs cost that ended since then, by project, kind and unit; not those whose end isn't known."""
    rows = connection.execute(
        "SELECT coalesce(b.project, j.project, '') AS project, b.kind, b.unit, sum(b.units) AS units FROM bills b"
        " JOIN jobs j ON j.site = b.site AND j.job_id = b.job_id WHERE b.final = 1 AND j.end_time >= ?"
        " GROUP BY 1, 2, 3",
        (since,),
    )
    return {(row["project"], row["kind"], row["unit"]): row["units"] for row in rows}
