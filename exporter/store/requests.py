"""What people ask of the owner of the sites: rows that the command line writes and the owner answers."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """Something a person asked for.

    Attributes:
        kind: `launch`, `run` (a campaign), `cancel`, `track` or `logs`.
        payload: what exactly, as the kind has it.
        state: `waiting`, `taken`, `done` or `failed`.
        outcome: what came of it; for `failed` with `error`, `exit_code`.
        progress: what its owner last said of it while it is carried out; None where that was nothing.
    """

    id: int
    kind: str
    site: str
    payload: dict[str, Any]
    state: str
    outcome: dict[str, Any] | None
    created: float
    progress: str | None = None


def add(connection: sqlite3.Connection, kind: str, site: str, payload: dict[str, Any], *, now: float) -> int:
    """Writes a request down and returns its number."""
    cursor = connection.execute(
        "INSERT INTO requests (kind, site, payload, created, updated) VALUES (?, ?, ?, ?, ?)",
        (kind, site, json.dumps(payload), now, now),
    )
    return int(cursor.lastrowid or 0)


def get(connection: sqlite3.Connection, number: int) -> Request:
    """Returns a request.

    Raises:
        KeyError: there is none of that number.
    """
    row = connection.execute("SELECT * FROM requests WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise KeyError(number)
    return _request(row)


PATIENCE_SECONDS = 300.0
"""How long a person waits for an answer. What is older is carried out by nobody: they may have asked again."""

KEEP_SECONDS = 7 * 86400.0
"""How long an answered request is kept."""


def take(connection: sqlite3.Connection, number: int, *, now: float) -> Request | None:
    """Takes one request, just before it is carried out; None where it doesn't wait any more.

    One whose person has gone fails instead.
    """
    stale = json.dumps({"error": "nobody took it in time", "exit_code": 1})
    connection.execute(
        "UPDATE requests SET state = 'failed', outcome = ?, updated = ?"
        " WHERE id = ? AND state = 'waiting' AND created < ?",
        (stale, now, number, now - PATIENCE_SECONDS),
    )
    cursor = connection.execute(
        "UPDATE requests SET state = 'taken', updated = ? WHERE id = ? AND state = 'waiting'", (now, number)
    )
    return get(connection, number) if cursor.rowcount else None


def waiting(connection: sqlite3.Connection) -> list[Request]:
    """Returns every request that waits, oldest first."""
    return [_request(row) for row in connection.execute("SELECT * FROM requests WHERE state = 'waiting' ORDER BY id")]


def open_ones(connection: sqlite3.Connection) -> list[Request]:
    """Returns every request that waits or is carried out, oldest first."""
    rows = connection.execute("SELECT * FROM requests WHERE state IN ('waiting', 'taken') ORDER BY id")
    return [_request(row) for row in rows]


def note_progress(connection: sqlite3.Connection, number: int, text: str) -> None:
    """Notes how far a request is, for whoever waits for it."""
    connection.execute("UPDATE requests SET progress = ? WHERE id = ?", (text, number))


def withdraw(connection: sqlite3.Connection, number: int, *, now: float) -> bool:
    """Takes a request back; False where it was taken already."""
    cursor = connection.execute(
        "UPDATE requests SET state = 'failed', outcome = ?, updated = ? WHERE id = ? AND state = 'waiting'",
        (json.dumps({"error": "withdrawn", "exit_code": 1}), now, number),
    )
    return cursor.rowcount == 1


def finish(connection: sqlite3.Connection, number: int, state: str, outcome: dict[str, Any], *, now: float) -> None:
    """Answers a request with `done` or `failed`."""
    connection.execute(
        "UPDATE requests SET state = ?, outcome = ?, updated = ? WHERE id = ?",
        (state, json.dumps(outcome), now, number),
    )


def forget(connection: sqlite3.Connection, number: int) -> None:
    """Removes a request with its answer."""
    connection.execute("DELETE FROM requests WHERE id = ?", (number,))


def close_interrupted(connection: sqlite3.Connection, *, now: float) -> None:
    """Fails the requests that a process took and didn't answer; to be called by the owner at its start."""
    outcome = {
        "error": "rayslurm ended while this was under way; `rayslurm status` shows what became of it",
        "exit_code": 1,
    }
    connection.execute(
        "UPDATE requests SET state = 'failed', outcome = ?, updated = ? WHERE state = 'taken'",
        (json.dumps(outcome), now),
    )
    forget_old(connection, now=now)


def forget_old(connection: sqlite3.Connection, *, now: float) -> int:
    """Removes the requests that were answered long ago; returns how many."""
    return connection.execute(
        "DELETE FROM requests WHERE state IN ('done', 'failed') AND updated < ?", (now - KEEP_SECONDS,)
    ).rowcount


def _request(row: sqlite3.Row) -> Request:
    return Request(
        id=row["id"],
        kind=row["kind"],
        site=row["site"],
        payload=json.loads(row["payload"]),
        state=row["state"],
        outcome=json.loads(row["outcome"]) if row["outcome"] else None,
        created=row["created"],
        progress=row["progress"],
    )
