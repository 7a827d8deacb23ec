"""A copy of the store that is whole, made while others write to it."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import RefusedError, StoreError
from exporter.store.db import connect_as_it_is, store_error
from exporter.whole_files import put_in_place

LOGS = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a file, by the ends of its names; it reads what it finds there as part of the file."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that was looked through.

    Attributes:
        file: where it is.
        bytes: how large.
        schema: the version of its schema, which is that of the store.
    """

    file: Path
    bytes: int
    schema: int


def back_up(store: Path, target: Path, *, force: bool = False) -> Copy:
    """Copies a store by SQLite's online backup, as it is at one moment; whoever writes to it goes on meanwhile.

    The copy is made beside its place, for the owner only, looked through, and put there by its name at the end: what
    has that name is whole.

    Args:
        store: the store; it is neither made nor migrated.
        target: the copy's place.
        force: whether a file that is there may be replaced.

    Returns:
        What was made.

    Raises:
        RefusedError: there is a file already, or it is the store itself.
        StoreError: there is no store, it is damaged, or the copy cannot be written.
    """
    _may_be_at(store, target, force=force)
    if not store.exists():
        raise StoreError(f"{store}: there is no store yet; `rayslurm serve` makes it")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror}; is the folder there and yours, and is there room?") from None
    beside = Path(name)
    try:
        schema = _copy(store, beside, target)
        size = beside.stat().st_size
        _put(beside, target, force=force)
    finally:
        for one in (beside, *(beside.with_name(beside.name + end) for end in LOGS)):
            one.unlink(missing_ok=True)
    return Copy(target, size, schema)


def _may_be_at(store: Path, target: Path, *, force: bool) -> None:
    own = {store.resolve(), *(store.resolve().with_name(store.name + end) for end in LOGS)}
    if target.resolve() in own:
        raise RefusedError(f"{target} is the store itself; name another file")
    if target.is_dir():
        raise RefusedError(f"{target} is a folder; name a file")
    if not force and (target.exists() or target.is_symlink()):
        raise RefusedError(f"{target} is there already; name another file, or say --force")
    for log in (target.with_name(target.name + end) for end in LOGS):
        if log.exists():
            raise RefusedError(
                f"{log} lies there and would be read as part of the copy; remove it, or name another file"
            )


def _copy(store: Path, beside: Path, target: Path) -> int:
    """Copies the store and looks the copy through; returns its schema version."""
    try:
        source = connect_as_it_is(store, "rw")
    except sqlite3.Error as error:
        raise store_error(store, error) from None
    with closing(source):
        try:
            source.execute("PRAGMA query_only = ON")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            raise store_error(store, error) from None
        try:
            with closing(connect_as_it_is(beside, "rw")) as copy:
                # All pages in one step: in several it would begin anew each time that somebody has written.
                source.backup(copy, pages=-1)
                # One file, without a log beside it, whoever opens it; the store takes its own mode again.
                copy.execute("PRAGMA journal_mode = DELETE")
                found = [row[0] for row in copy.execute("PRAGMA integrity_check")]
                schema: int = copy.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise StoreError(
                f"no copy was made: {store_error(target, error)}; `rayslurm store check` tells whether it is the store"
            ) from None
    if found != ["ok"]:
        raise StoreError(
            f"no copy was made: {store} is damaged ({found[0]}); keep the backups that you have, and see "
            "`rayslurm store check`"
        )
    return schema


def _put(beside: Path, target: Path, *, force: bool) -> None:
    try:
        put_in_place(beside, target, over=force)
    except FileExistsError:
        raise RefusedError(f"{target} is there already; name another file, or say --force") from None
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror}; where its file system has no hard links, say --force") from None
