"""The jobs whose remains are on their way to the archive, or there. What waits survives whatever happens."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from exporter.store import counters

PATIENCE_SECONDS = 3600.0
"""How long after a job's end its report, its summary and its waste are waited for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A job on its way.

    Attributes:
        end_time: of the attempt that is kept, epoch seconds.
        state: `waiting` for its files to be fetched, `spooled` on this machine, `kept`, `given_up`.
        objects: how many objects are on their way.
        tries: how often it went wrong in this state.
        after: it isn't tried before, epoch seconds.
        key: of its manifest once it is kept.
        since: when it was queued.
    """

    site: str
    job_id: str
    end_time: int
    state: str
    objects: int
    tries: int
    after: float
    error: str | None
    key: str | None
    since: float
    updated: float


def queue_ended(connection: sqlite3.Connection, site: str, *, now: float, patience: float = PATIENCE_SECONDS) -> int:
    """Queues the ended jobs of a site of which all is known that will be, and that are not kept as they ended.

    Args:
        connection: of a write transaction.
        site: the site's name.
        now: epoch seconds.
        patience: seconds after a job's end from which on nothing is waited for.

    Returns:
        How many there were.
    """
    return connection.execute(
        "INSERT INTO archive_jobs (site, job_id, end_time, state, since, updated)"
        " SELECT j.site, j.job_id, CAST(coalesce(j.end_time, j.seen) AS INTEGER), 'waiting', :now, :now FROM jobs j"
        " JOIN tracked t ON t.site = j.site AND t.root_id = j.root_id"
        " LEFT JOIN archive_jobs a ON a.site = j.site AND a.job_id = j.job_id"
        " WHERE j.site = :site AND j.final = 1"
        " AND (a.job_id IS NULL OR a.end_time != CAST(coalesce(j.end_time, j.seen) AS INTEGER))"
        " AND (coalesce(j.end_time, 0) < :now - :patience OR ("
        "   NOT EXISTS (SELECT 1 FROM awaited_reports w WHERE w.site = j.site AND w.job_id = j.job_id)"
        "   AND (t.token IS NULL OR ("
        "     (j.start_time IS NULL"
        "       OR EXISTS (SELECT 1 FROM runs r WHERE r.site = j.site AND r.job_id = j.job_id AND r.settled = 1))"
        "     AND EXISTS (SELECT 1 FROM waste w WHERE w.site = j.site AND w.job_id = j.job_id)))))"
        " ON CONFLICT (site, job_id) DO UPDATE SET end_time = excluded.end_time, state = 'waiting', objects = 1,"
        " tries = 0, after = 0, error = NULL, since = excluded.since, updated = excluded.updated",
        {"site": site, "now": now, "patience": patience},
    ).rowcount


def due(connection: sqlite3.Connection, state: str, *, now: float, site: str | None = None) -> list[Entry]:
    """Returns what is in a state and may be tried now, oldest first."""
    rows = connection.execute(
        "SELECT * FROM archive_jobs WHERE state = ? AND (? IS NULL OR site = ?)"
        # What lies further ahead than the longest wait was written while the clock was wrong.
        " AND NOT (after > ? AND after <= ? + 86400) ORDER BY since, site, job_id",
        (state, site, site, now, now),
    )
    return [Entry(**dict(row)) for row in rows]


def entries(connection: sqlite3.Connection, *, unfinished: bool = False) -> list[Entry]:
    """Returns all jobs that were ever queued, or those that are not kept yet, oldest first."""
    where = "WHERE state != 'kept'" if unfinished else ""
    rows = connection.execute(f"SELECT * FROM archive_jobs {where} ORDER BY since, site, job_id")  # noqa: S608 - ours
    return [Entry(**dict(row)) for row in rows]


def pending(connection: sqlite3.Connection) -> tuple[int, float | None]:
    """Returns how many objects are on their way, and since when the oldest is; what was given up counts too."""
    row = connection.execute("SELECT coalesce(sum(objects), 0), min(since) FROM archive_jobs WHERE state != 'kept'")
    count, oldest = row.fetchone()
    return int(count), oldest


def become(
    connection: sqlite3.Connection,
    entry: Entry,
    state: str,
    *,
    now: float,
    objects: int = 1,
    key: str | None = None,
    error: str | None = None,
) -> None:
    """Notes that a job went on to another state, unless it was queued anew meanwhile."""
    connection.execute(
        "UPDATE archive_jobs SET state = ?, objects = ?, key = ?, error = ?, tries = 0, after = 0, updated = ?"
        " WHERE site = ? AND job_id = ? AND end_time = ?",
        (state, objects, key, error, now, entry.site, entry.job_id, entry.end_time),
    )


def postpone(connection: sqlite3.Connection, entry: Entry, error: str, *, until: float, now: float) -> None:
    """Notes that something went wrong with a job, and when to try again."""
    connection.execute(
        "UPDATE archive_jobs SET tries = tries + 1, error = ?, after = ?, updated = ?"
        " WHERE site = ? AND job_id = ? AND end_time = ?",
        (error, until, now, entry.site, entry.job_id, entry.end_time),
    )


def retry(connection: sqlite3.Connection, site: str | None, job_id: str | None, *, spooled: Sequence[str]) -> int:
    """Has jobs that wait or were given up tried at once, one or all; returns how many.

    Args:
        connection: of a write transaction.
        site: the job's; None for all.
        job_id: the job.
        spooled: those that are on this machine already, as `SITE/ID`.
    """
    changed = 0
    for entry in entries(connection, unfinished=True):
        if site is not None and (entry.site, entry.job_id) != (site, job_id):
            continue
        state = "spooled" if f"{entry.site}/{entry.job_id}" in spooled else "waiting"
        changed += connection.execute(
            "UPDATE archive_jobs SET state = ?, after = 0, tries = 0, since = updated WHERE site = ? AND job_id = ?",
            (state, entry.site, entry.job_id),
        ).rowcount
    return changed


def count(connection: sqlite3.Connection, outcome: str, amount: int = 1) -> None:
    """Counts objects by what became of them: `uploaded`, `present`, `failed`, `given_up`."""
    counters.add(connection, "archive_objects_total", amount, outcome=outcome)


# --- a job's rows, to be kept and to be put back ----------------------------------------------------------------------

_OF_JOB = ("jobs", "bills", "reports", "runs", "waste", "consequences", "ledger")
_IN_ORDER = ("submissions", "tracked", *_OF_JOB)

Rows = dict[str, list[dict[str, Any]]]


def rows_of(connection: sqlite3.Connection, site: str, job_id: str) -> Rows:
    """Returns all rows of a job by table, as they stand."""
    found: Rows = {}
    for table in _OF_JOB:
        query = f"SELECT * FROM {table} WHERE site = ? AND job_id = ? ORDER BY rowid"  # noqa: S608 - our tables
        found[table] = [dict(row) for row in connection.execute(query, (site, job_id))]
    root = found["jobs"][0]["root_id"] if found["jobs"] else job_id
    found["tracked"] = [
        dict(row) for row in connection.execute("SELECT * FROM tracked WHERE site = ? AND root_id = ?", (site, root))
    ]
    found["submissions"] = [
        dict(row)
        for tracked in found["tracked"]
        for row in connection.execute("SELECT * FROM submissions WHERE token = ?", (tracked["token"],))
    ]
    return {table: found[table] for table in _IN_ORDER}


def put_back(connection: sqlite3.Connection, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Puts a job's rows back; what is there already stays. Columns that this version doesn't know are left out."""
    for table in _IN_ORDER:
        known = {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}
        for row in found.get(table, ()):
            kept = {name: value for name, value in row.items() if name in known}
            if table == "submissions" and kept.get("chain") is not None:
                first = connection.execute("SELECT 1 FROM submissions WHERE token = ?", (kept["chain"],)).fetchone()
                if first is None:
                    kept["chain"] = None
            connection.execute(
                f"INSERT INTO {table} ({', '.join(kept)}) VALUES ({', '.join('?' * len(kept))})"  # noqa: S608
                " ON CONFLICT DO NOTHING",
                tuple(kept.values()),
            )


def waiting_sites(connection: sqlite3.Connection) -> list[str]:
    """Returns the sites with jobs of which nothing is in the spool yet: their raw texts are still needed."""
    rows = connection.execute(
        "SELECT DISTINCT site FROM archive_jobs WHERE state != 'kept' AND state = 'waiting' ORDER BY site"
    )
    return [row["site"] for row in rows]


def is_empty(connection: sqlite3.Connection) -> bool:
    """Tells whether the store knows of no job yet."""
    return connection.execute("SELECT 1 FROM tracked UNION ALL SELECT 1 FROM ledger LIMIT 1").fetchone() is None


def set_counters(connection: sqlite3.Connection, known: Sequence[counters.Counter]) -> None:
    """Sets the lifetime counters to what they were; one that is further already stays."""
    for counter in known:
        connection.execute(
            "INSERT INTO counters (name, labels, value) VALUES (?, ?, ?)"
            " ON CONFLICT (name, labels) DO UPDATE SET value = max(value, excluded.value)",
            (counter.name, json.dumps(dict(counter.labels), sort_keys=True), counter.value),
        )


def note_kept(connection: sqlite3.Connection, site: str, job_id: str, end_time: int, key: str, *, now: float) -> None:
    """Notes that a job is kept already."""
    connection.execute(
        "INSERT OR REPLACE INTO archive_jobs (site, job_id, end_time, state, objects, key, since, updated)"
        " VALUES (?, ?, ?, 'kept', 0, ?, ?, ?)",
        (site, job_id, end_time, key, now, now),
    )


# --- raw texts --------------------------------------------------------------------------------------------------------


def raw_texts(
    connection: sqlite3.Connection, site: str, job_id: str, root_id: str, *, most: int
) -> list[dict[str, Any]]:
    """Returns what the site printed of a job's accounting and report, and the latest of each balance, newest first."""
    named = re.compile(rf"(?<!\d)(?:{re.escape(job_id)}|{re.escape(root_id)})(?!\d)")
    likely = connection.execute(
        "SELECT * FROM raw_outputs WHERE site = ? AND source IN ('sacct', 'seff') AND instr(text, ?)"
        " ORDER BY last_seen DESC",
        (site, root_id),
    )
    rows = list(islice((row for row in likely if named.search(row["text"])), most))
    rows += connection.execute(
        "SELECT *, max(last_seen) FROM raw_outputs WHERE site = ?"
        " AND source IN ('csc-projects', 'lumi-allocations', 'project-file') GROUP BY source",
        (site,),
    ).fetchall()
    names = ("source", "sha256", "first_seen", "last_seen", "text")
    return [{name: row[name] for name in names} for row in rows]


def put_raw_back(connection: sqlite3.Connection, site: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Puts raw texts back, by which numbers are explained."""
    for raw in found:
        connection.execute(
            "INSERT INTO raw_outputs (sha256, site, source, text, first_seen, last_seen) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (raw["sha256"], site, raw["source"], raw["text"], raw["first_seen"], raw["last_seen"]),
        )
