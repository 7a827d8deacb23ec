"""Whether a store is sound, found out without changing anything: nothing is made or migrated by being looked at."""

from __future__ import annotations

import os
import pwd
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from exporter.store.backup import LOGS
from exporter.store.db import bytes_on_disk, connect_as_it_is, known_schema

_TOLD = 5
"""How many damages are told."""

_TIMES = {
    "jobs": ("coalesce(submit_time, state_since)", "seen"),
    "submissions": ("created", "updated"),
    "reports": ("created", "created"),
    "bills": ("created", "created"),
    "ledger": ("entered", "entered"),
    "counters": ("NULL", "NULL"),
    "requests": ("created", "updated"),
    "campaign_runs": ("due", "due"),
    "archive_jobs": ("since", "updated"),
    "raw_outputs": ("first_seen", "last_seen"),
    "samples": ("at", "at"),
    "balance_readings": ("at", "at"),
    "tunnel_failures": ("first_at", "last_at"),
}
"""The main tables, and by what their oldest and newest rows are known."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong: what, and what to do."""

    cause: str
    cure: str


@dataclass(frozen=True, slots=True)
class Table:
    """What is in a table.

    Attributes:
        rows: how many rows.
        oldest: the time of the oldest, epoch seconds; None where there is none.
        newest: the time of the newest.
    """

    rows: int
    oldest: float | None
    newest: float | None


@dataclass(slots=True)
class Checkup:
    """What was found.

    Attributes:
        bytes: what it takes on disk, its log included.
        log_bytes: what of that the log takes.
        free_bytes: what is free inside the file; None where that can't be told.
        schema: the version of its schema; None where that can't be told.
        known_schema: the one that this rayslurm has.
        mode: permissions in octal.
        owner: the account's name, or its number.
        integrity: what SQLite's integrity_check says; `ok`, or what is damaged.
        lost_references: rows that name rows of another table which aren't there.
        tables: what is in the main tables.
        problems: what is wrong; none where all is well.
    """

    file: Path
    bytes: int = 0
    log_bytes: int = 0
    free_bytes: int | None = None
    schema: int | None = None
    known_schema: int = field(default_factory=known_schema)
    mode: str | None = None
    owner: str | None = None
    integrity: list[str] = field(default_factory=list)
    lost_references: list[str] = field(default_factory=list)
    tables: Mapping[str, Table] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


_RESTORE = "put a backup in its place (see docs/operations.md), or fill an empty store by `rayslurm import`"


def check(path: Path) -> Checkup:
    """Looks a store or a copy of one through.

    Args:
        path: the file.

    Returns:
        What was found; what is wrong stands there, nothing is raised.
    """
    found = Checkup(path)
    if not path.is_file():
        cure = f"look at its name; where it is the store itself, `rayslurm serve` makes an empty one, or {_RESTORE}"
        found.problems.append(Problem(f"{path} is not there, or no file", cure))
        return found
    _look_at_file(found)
    if not path.stat().st_size:
        found.problems.append(Problem(f"{path} is empty", _RESTORE))
        return found
    mode = looking_mode(path)
    _look_inside(found, mode)
    if mode != "ro" and _has_log(path):  # somebody opened it meanwhile and may have changed it under our eyes
        found = Checkup(path)
        _look_at_file(found)
        _look_inside(found, "ro")
    return found


def looking_mode(path: Path) -> str:
    """Returns the mode of `connect_as_it_is` in which a store is read without anything being made beside it.

    Where no log lies beside the file nobody has it open, and SQLite would make one to read it but for `immutable`.
    Where one does, SQLite reads it by its index (-shm), which it makes anew only where a crash or a copy lost that.
    """
    return "ro" if _has_log(path) else "ro&immutable=1"


def _has_log(path: Path) -> bool:
    return any(path.with_name(path.name + end).exists() for end in ("-wal", "-journal"))


def _look_at_file(found: Checkup) -> None:
    path = found.file
    status = path.stat()
    found.bytes = bytes_on_disk(path)
    found.log_bytes = found.bytes - status.st_size
    found.mode = f"{status.st_mode & 0o777:04o}"
    found.owner = str(status.st_uid)
    with suppress(KeyError):
        found.owner = pwd.getpwuid(status.st_uid).pw_name
    if status.st_uid != os.geteuid():
        found.problems.append(
            Problem(
                f"{path} belongs to {found.owner}, not to you", f"run rayslurm as {found.owner}, or change its owner"
            )
        )
    for one in (path, *(path.with_name(path.name + end) for end in LOGS)):
        with suppress(FileNotFoundError):
            if one.stat().st_mode & 0o077:
                found.problems.append(Problem(f"{one} can be read by others", f"chmod 600 {one}"))


def _look_inside(found: Checkup, mode: str) -> None:
    try:
        with closing(connect_as_it_is(found.file, mode)) as connection:
            connection.execute("BEGIN")  # all that follows is of one moment
            found.schema = int(connection.execute("PRAGMA user_version").fetchone()[0])
            found.integrity = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            if found.integrity != ["ok"]:
                told = "; ".join(found.integrity[:_TOLD])
                found.problems.append(Problem(f"{found.file} is damaged: {told}", _RESTORE))
            _look_at_schema(found, connection)
            _look_at_references(found, connection)
            found.free_bytes = (
                connection.execute("PRAGMA freelist_count").fetchone()[0]
                * connection.execute("PRAGMA page_size").fetchone()[0]
            )
            found.tables = _tables(connection)
    except sqlite3.OperationalError as error:
        found.problems.append(
            Problem(f"{found.file} cannot be read: {error}", "look whether its folder is yours and its disk answers")
        )
    except sqlite3.Error as error:
        found.integrity = [*found.integrity, str(error)]
        found.problems.append(Problem(f"{found.file} is damaged: {error}", _RESTORE))


def _look_at_schema(found: Checkup, connection: sqlite3.Connection) -> None:
    names = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not found.schema or not {"jobs", "submissions", "counters"} <= names:
        found.problems.append(Problem(f"{found.file} is no store of rayslurm", _RESTORE))
    elif found.schema > found.known_schema:
        found.problems.append(
            Problem(
                f"{found.file} was written by a newer rayslurm: schema {found.schema}, this one knows "
                f"{found.known_schema}",
                "upgrade rayslurm, or restore a backup of before the upgrade",
            )
        )


def _look_at_references(found: Checkup, connection: sqlite3.Connection) -> None:
    lost = [tuple(row)[:3] for row in connection.execute("PRAGMA foreign_key_check")]
    found.lost_references = [f"{table} row {row} names a row of {parent}" for table, row, parent in lost]
    if lost:
        told = "; ".join(found.lost_references[:_TOLD])
        found.problems.append(Problem(f"{len(lost)} rows name others that aren't there: {told}", _RESTORE))


def _tables(connection: sqlite3.Connection) -> dict[str, Table]:
    names = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {
        table: Table(
            *connection.execute(
                f"SELECT count(*), min({oldest}), max({newest}) FROM {table}"  # noqa: S608 - names of this module's own
            ).fetchone()
        )
        for table, (oldest, newest) in _TIMES.items()
        if table in names
    }
