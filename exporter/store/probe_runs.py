"""The last run of each probe, and the raw texts that its numbers came from."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

RAW_RETENTION_SECONDS = 30 * 86400
"""How long a raw text is kept after it was last seen."""

RAW_KEPT = 500
"""How many raw texts are kept of each source of a site, newest first: `squeue` prints a new one each time."""


@dataclass(frozen=True, slots=True)
class ProbeRun:
    """How a probe went when it last ran.

    Attributes:
        at: when it ended, epoch seconds.
        last_success: when it last went well; None where it never did.
        error: why it failed; None where it didn't.
        reason: the same in one word.
    """

    site: str
    probe: str
    at: float
    success: bool
    duration_seconds: float
    last_success: float | None
    error: str | None
    reason: str | None


def note_run(
    connection: sqlite3.Connection,
    site: str,
    probe: str,
    *,
    at: float,
    duration_seconds: float,
    error: str | None = None,
    reason: str | None = None,
) -> None:
    """Notes a run of a probe; `error` None means that it went well."""
    success = error is None
    connection.execute(
        "INSERT INTO probe_runs (site, probe, at, success, duration_seconds, last_success, error, reason)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (site, probe) DO UPDATE SET at = excluded.at,"
        " success = excluded.success, duration_seconds = excluded.duration_seconds, error = excluded.error,"
        " reason = excluded.reason, last_success = coalesce(excluded.last_success, last_success)",
        (site, probe, at, success, duration_seconds, at if success else None, error, reason),
    )


def runs(connection: sqlite3.Connection) -> list[ProbeRun]:
    """Returns the last run of every probe."""
    rows = connection.execute("SELECT * FROM probe_runs ORDER BY site, probe")
    return [ProbeRun(**{**dict(row), "success": bool(row["success"])}) for row in rows]


def keep_raw(connection: sqlite3.Connection, site: str, source: str, text: str, *, now: float) -> str:
    """Keeps a text that a site printed: the same text once, and only as long as it is recent.

    Returns:
        Its SHA-256, by which it is found again.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()
    connection.execute(
        "INSERT INTO raw_outputs (sha256, site, source, text, first_seen, last_seen) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (site, source, sha256) DO UPDATE SET last_seen = excluded.last_seen",
        (digest, site, source, text, now, now),
    )
    forget_old_raw(connection, now=now)
    forget_surplus_raw(connection, site, source)
    return digest


def forget_old_raw(connection: sqlite3.Connection, *, now: float, spare: Collection[str] = ()) -> int:
    """Removes the texts that were last seen long ago, but for those of the sites in `spare`; returns how many."""
    return connection.execute(
        "DELETE FROM raw_outputs WHERE last_seen < ? AND site NOT IN (SELECT value FROM json_each(?))",
        (now - RAW_RETENTION_SECONDS, json.dumps(list(spare))),
    ).rowcount


def forget_surplus_raw(connection: sqlite3.Connection, site: str, source: str) -> int:
    """Removes what is more than is kept of a source of a site, the oldest first; returns how many texts that were."""
    return connection.execute(
        "DELETE FROM raw_outputs WHERE rowid IN (SELECT rowid FROM raw_outputs"
        " WHERE site = ? AND source = ? ORDER BY last_seen DESC LIMIT -1 OFFSET ?)",
        (site, source, RAW_KEPT),
    ).rowcount
