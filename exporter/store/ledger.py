"""The ledger: one row for each job's final bill, for good. What was paid is read here; nothing stands in it twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields


@dataclass(frozen=True, slots=True)
class Entry:
    """What one job cost.

    Attributes:
        token: of its submission; empty where it was submitted by hand. Ids of jobs come again when a site is set up
            anew, so site, job and token together are what tells an entry from others.
        job_name: the readable one.
        project: who paid; None where that isn't known.
        campaign: whose it was; empty for none.
        end_time: epoch seconds.
        kind: which budget paid; kinds are never added up, nor units.
        units: all attempts of a job that Slurm started again.
        source: whose figure it is: `seff`, `formula` (the site's rates on what accounting tells) or `sacct` (Slurm's
            billing TRES).
        raw_sha256: of the text that it was read from, which `raw_outputs` and the archive know by it; None where that
            wasn't kept.
        entered: when it was written, epoch seconds.
    """

    site: str
    job_id: str
    token: str
    job_name: str | None
    partition: str | None
    project: str | None
    campaign: str
    end_time: int | None
    kind: str
    unit: str
    units: float
    source: str
    raw_sha256: str | None
    entered: float


_COLUMNS = tuple(field.name for field in fields(Entry))
_NAMES = ", ".join(_COLUMNS)
_MARKS = ", ".join("?" * len(_COLUMNS))


def enter(connection: sqlite3.Connection, entry: Entry) -> None:
    """Writes what a job cost, in place of what was written of the same job before."""
    connection.execute(f"INSERT OR REPLACE INTO ledger ({_NAMES}) VALUES ({_MARKS})", astuple(entry))  # noqa: S608 - our columns


def written(connection: sqlite3.Connection, entry: Entry) -> Entry | None:
    """Returns what is written already of an entry's job; None where nothing is."""
    row = connection.execute(
        f"SELECT {_NAMES} FROM ledger WHERE site = ? AND job_id = ? AND token = ?",  # noqa: S608 - our columns
        (entry.site, entry.job_id, entry.token),
    ).fetchone()
    return None if row is None else Entry(*row)


def insert(connection: sqlite3.Connection, entries: Iterable[Entry]) -> int:
    """Adds entries that were kept elsewhere; those that are there already stay as they are.

    Args:
        connection: of a write transaction.
        entries: as `entries` returns them.

    Returns:
        How many were new.
    """
    before = connection.total_changes
    connection.executemany(
        f"INSERT INTO ledger ({_NAMES}) VALUES ({_MARKS}) ON CONFLICT DO NOTHING",  # noqa: S608 - our columns
        [astuple(entry) for entry in entries],
    )
    return connection.total_changes - before


def entries(
    connection: sqlite3.Connection,
    *,
    project: str | None = None,
    campaign: str | None = None,
    since: float | None = None,
    until: float | None = None,
) -> list[Entry]:
    """Returns the entries, those that ended first first.

    Args:
        connection: of a snapshot or a transaction.
        project: who paid; None for all.
        campaign: whose they were; None for all, empty for those of none.
        since: the job ended then or later, epoch seconds.
        until: the job ended before.
    """
    rows = connection.execute(
        f"SELECT {_NAMES} FROM ledger WHERE (:project IS NULL OR project = :project)"  # noqa: S608 - our columns
        " AND (:campaign IS NULL OR campaign = :campaign) AND (:since IS NULL OR end_time >= :since)"
        " AND (:until IS NULL OR end_time < :until) ORDER BY end_time, site, job_id, token",
        {"project": project, "campaign": campaign, "since": since, "until": until},
    )
    return [Entry(*row) for row in rows]
