"""The SQLite file: one writer thread, readers that never wait for it, migrations."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self, TypeVar

from exporter.errors import StoreError

ResultT = TypeVar("ResultT")

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_SECONDS = 30


class Store:
    """What rayslurm knows, on disk.

    Writes are durable when `write` returns: WAL with synchronous=FULL. Several processes may hold the same store;
    SQLite keeps their writes apart.

    Args:
        path: the file; its folder is made, for the owner only, where missing.

    Raises:
        StoreError: the file cannot be opened, is damaged, or was written by a newer rayslurm.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Created before SQLite does, so that it is never readable by others, not even for a moment.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; is the folder yours, and is there room?") from None
        if path.stat().st_mode & 0o077:
            raise StoreError(f"{path} can be read by others; run: chmod 600 {path}")
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-writer")
        try:
            self._connection = self._writer.submit(self._open_writer).result()
        except BaseException:
            self._writer.shutdown()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the writer."""
        if not self._writer._shutdown:  # noqa: SLF001 - the pool has no public way to ask
            self._writer.submit(self._connection.close).result()
            self._writer.shutdown()

    def write(self, change: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Runs a change in a transaction of its own on the writer thread.

        Args:
            change: what to do; an exception from it rolls everything back and is raised here.

        Returns:
            What the change returned, after it is on disk.

        Raises:
            StoreError: the store could not be written (a full disk, for example).
        """
        return self._writer.submit(self._transaction, change).result()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Gives a read-only connection that sees one state of the store throughout."""
        try:
            with closing(self._connect()) as connection:
                connection.execute("PRAGMA query_only = ON")
                connection.execute("BEGIN")
                # The snapshot is taken at the first read, so take it now.
                connection.execute("SELECT 1 FROM counters LIMIT 1").fetchone()
                yield connection
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {_words(error)}") from error

    def size_bytes(self) -> int:
        """Returns the bytes that the store takes on disk, its log included."""
        return bytes_on_disk(self.path)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        try:
            connection = self._connect()
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            self._migrate(connection)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {_words(error)}; if it is damaged, restore a backup") from None
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        scripts = _scripts()
        connection.execute("BEGIN IMMEDIATE")
        try:
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > len(scripts):
                raise StoreError(
                    f"{self.path}: written by a newer rayslurm (schema {version}, this one knows {len(scripts)}); "
                    "upgrade rayslurm"
                )
            for number, script in enumerate(scripts[version:], start=version + 1):
                for statement in _statements(script.read_text(encoding="utf-8")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def _transaction(self, change: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = change(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {_words(error)}") from error
        return result


def known_schema() -> int:
    """Returns the schema version that this rayslurm brings a store up to."""
    return len(_scripts())


def connect_as_it_is(path: Path, mode: str) -> sqlite3.Connection:
    """Opens a file that is there without making or migrating it.

    Args:
        path: the file.
        mode: what SQLite's URIs have: `ro` or `rw`, with further parameters after an `&`.

    Returns:
        A connection on which transactions are begun by hand; it waits as long for others as the store's own does.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None
    )
    connection.row_factory = sqlite3.Row
    return connection


def store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """Returns what a person is told where SQLite failed."""
    return StoreError(f"{path}: {_words(error)}")


def bytes_on_disk(path: Path) -> int:
    """Returns the bytes that a store takes on disk, its log included; 0 where it isn't there."""
    return sum(one.stat().st_size for one in (path, path.with_name(path.name + "-wal")) if one.exists())


def _scripts() -> list[Path]:
    return sorted(_MIGRATIONS.glob("*.sql"))


def _words(error: sqlite3.Error) -> str:
    """Returns what SQLite says, and what to look at where it means the disk."""
    return f"{error}: is there room on its disk?" if "disk" in str(error) else str(error)


def _statements(script: str) -> Iterator[str]:
    """Gives the statements of a script one by one; `executescript` would commit the transaction around them."""
    buffer = ""
    for line in script.splitlines(keepends=True):
        buffer += line
        if sqlite3.complete_statement(buffer):
            if buffer.strip():
                yield buffer
            buffer = ""
