"""What projects may use and have used, as the provider last told."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace

from exporter.records import AllocationRecord
from exporter.store import readings


@dataclass(frozen=True, slots=True)
class Project:
    """A project as its provider last told of it.

    Attributes:
        accessible: whether the provider still tells us of it.
        end_time: when it ends, epoch seconds; None where that isn't told.
        last_grant_time: when it was last granted something; likewise.
        read: when the provider was last asked.
        start_time: when it began, likewise.
        status: in the provider's word, such as `open`; None where that isn't told.
    """

    provider: str
    project: str
    accessible: bool
    end_time: int | None
    last_grant_time: int | None
    read: float
    start_time: int | None = None
    status: str | None = None


def keep(
    connection: sqlite3.Connection,
    provider: str,
    project: str,
    records: Iterable[AllocationRecord],
    *,
    end_time: int | None = None,
    last_grant_time: int | None = None,
    start_time: int | None = None,
    status: str | None = None,
    now: float,
) -> None:
    """Keeps what the provider tells of a project, in place of what it told before."""
    records = list(records)
    _keep_project(connection, Project(provider, project, True, end_time, last_grant_time, now, start_time, status))
    readings.keep(connection, records, now=now)
    connection.execute("DELETE FROM balances WHERE provider = ? AND project = ?", (provider, project))
    for record in records:
        connection.execute(
            "INSERT OR REPLACE INTO balances (provider, project, kind, unit, used, granted, remaining, updated_time)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                provider, project, record.kind, record.unit, record.used, record.granted, record.remaining,
                record.updated_time,
            ),
        )  # fmt: skip


def lost(connection: sqlite3.Connection, provider: str, project: str, *, now: float) -> None:
    """Notes that the provider doesn't tell us of a project any more: what it has left is not known."""
    known = {row.project: row for row in projects(connection) if row.provider == provider}.get(project)
    gone = Project(provider, project, False, None, None, now)
    _keep_project(connection, replace(known, accessible=False, read=now) if known else gone)
    connection.execute("DELETE FROM balances WHERE provider = ? AND project = ?", (provider, project))


def projects(connection: sqlite3.Connection) -> list[Project]:
    """Returns all projects that a provider was asked about."""
    rows = connection.execute("SELECT * FROM projects ORDER BY provider, project")
    return [Project(**{**dict(row), "accessible": bool(row["accessible"])}) for row in rows]


def balances(connection: sqlite3.Connection) -> list[AllocationRecord]:
    """Returns the balances of the projects that are accessible."""
    rows = connection.execute(
        "SELECT provider, project, kind, unit, used, granted, remaining, updated_time FROM balances"
        " ORDER BY provider, project, kind, unit"
    )
    return [AllocationRecord(*row) for row in rows]


def _keep_project(connection: sqlite3.Connection, row: Project) -> None:
    connection.execute(
        "INSERT INTO projects (provider, project, accessible, end_time, last_grant_time, read, start_time, status)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (provider, project) DO UPDATE SET"
        " accessible = excluded.accessible, end_time = excluded.end_time, last_grant_time = excluded.last_grant_time,"
        " read = excluded.read, start_time = excluded.start_time, status = excluded.status",
        (
            row.provider, row.project, int(row.accessible), row.end_time, row.last_grant_time, row.read,
            row.start_time, row.status,
        ),
    )  # fmt: skip
