"""What is let go after a time, all at once, and its room given back.

Each part of the store lets go by itself what is past its time, whenever it takes in something new. Where nothing new
comes, what is old stays; and SQLite keeps the room for itself. This applies the parts' own limits and no others.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import StoreError
from exporter.store import archive, campaigns, probe_runs, readings, requests, tunnel_failures
from exporter.store.db import Store, bytes_on_disk, connect_as_it_is, known_schema, store_error

_CHECKPOINT_PATIENCE_MILLISECONDS = 5000


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What would go.

    Attributes:
        rows: how many rows of each table.
        free_bytes: how many bytes of the file would be free afterwards, those that are free already included.
        spared: sites whose raw texts stay, since jobs wait there for the archive.
    """

    rows: Mapping[str, int]
    free_bytes: int
    spared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Room:
    """What the disk has of it.

    Attributes:
        before: bytes of the store and its log before.
        after: the same after.
        free_bytes: bytes that are free inside the file, for what comes.
        log_emptied: whether the log could be emptied; a reader may have kept it.
    """

    before: int
    after: int
    free_bytes: int
    log_emptied: bool


def rehearse(path: Path, *, now: float) -> Rehearsal:
    """Lets go what is past its time in a transaction that is then taken back.

    Args:
        path: the store.
        now: epoch seconds.

    Raises:
        StoreError: the store cannot be read, or its schema isn't this rayslurm's.
    """
    ensure_current(path)
    try:
        with closing(connect_as_it_is(path, "rw")) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("BEGIN IMMEDIATE")
            try:
                spared = archive.waiting_sites(connection)
                rows = {table: let_go(connection, now) for table, let_go in _PARTS.items()}
                return Rehearsal(rows, _free_bytes(connection), tuple(spared))
            finally:
                connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise store_error(path, error) from None


def prune(store: Store, *, now: float) -> dict[str, int]:
    """Lets go what is past its time, each table in a transaction of its own so that nobody waits for long.

    Returns:
        How many rows of each table went.
    """
    return {
        table: store.write(lambda connection, let_go=let_go: let_go(connection, now))  # type: ignore[misc]
        for table, let_go in _PARTS.items()
    }


def give_back(path: Path, before: int, *, alone: bool) -> Room:
    """Gives the disk its room back.

    Args:
        path: the store.
        before: the bytes that it took before anything went.
        alone: whether nobody owns the sites, nor will meanwhile: the file is then written anew without what is free.
            Else only the log is emptied into it, and what is free in the file serves for what comes.

    Raises:
        StoreError: there is no room to write it anew; what went has gone all the same.
    """
    try:
        with closing(connect_as_it_is(path, "rw")) as connection:
            if alone:
                connection.execute("VACUUM")
            connection.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_PATIENCE_MILLISECONDS}")
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            return Room(before, bytes_on_disk(path), _free_bytes(connection), not busy)
    except sqlite3.Error as error:
        raise StoreError(
            f"what is past its time was removed, but its room was not given back ({store_error(path, error)}); do it "
            "again. To write the file anew takes its size once more beside it, and in /var/tmp or where SQLITE_TMPDIR "
            "says"
        ) from None


def ensure_current(path: Path) -> None:
    """Makes sure that the store is there and of this rayslurm's schema, without making or migrating it.

    Raises:
        StoreError: it isn't.
    """
    if not path.exists():
        raise StoreError(f"{path}: there is no store yet; `rayslurm serve` makes it")
    try:
        with closing(connect_as_it_is(path, "rw")) as connection:
            schema: int = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raise store_error(path, error) from None
    if schema > known_schema():
        raise StoreError(
            f"{path}: written by a newer rayslurm (schema {schema}, this one knows {known_schema()}); upgrade rayslurm"
        )
    if schema < known_schema():
        raise StoreError(
            f"{path}: written by an older rayslurm (schema {schema}, this one has {known_schema()}); `rayslurm serve` "
            "or `rayslurm status` brings it up to date first"
        )


def _free_bytes(connection: sqlite3.Connection) -> int:
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    size: int = connection.execute("PRAGMA page_size").fetchone()[0]
    return free * size


def _raw_texts(connection: sqlite3.Connection, now: float) -> int:
    spared = archive.waiting_sites(connection)
    gone = probe_runs.forget_old_raw(connection, now=now, spare=spared)
    sources = connection.execute("SELECT DISTINCT site, source FROM raw_outputs").fetchall()
    return gone + sum(
        probe_runs.forget_surplus_raw(connection, row["site"], row["source"])
        for row in sources
        if row["site"] not in spared
    )


_PARTS: Mapping[str, Callable[[sqlite3.Connection, float], int]] = {
    "raw_outputs": _raw_texts,
    "balance_readings": lambda connection, now: readings.forget_old(connection, now=now),
    "requests": lambda connection, now: requests.forget_old(connection, now=now),
    "tunnel_failures": lambda connection, now: tunnel_failures.forget_old(connection, now=now),
    "campaign_runs": lambda connection, now: campaigns.sweep(connection, now=now),
}
