"""A look at a store's file that changes nothing in it: it is neither made nor brought to a newer schema.

SQLite may leave the two files of its log beside it, empty, as it does while the store is used.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import StoreError
from exporter.store.db import newest_schema

_WAIT_SECONDS = 5.0
_FAULTS = 5


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look showed.

    Attributes:
        schema: the number of the file's schema; 0 for a file that nothing was written to yet.
        newest: the one that this rayslurm knows.
        faults: what SQLite finds damaged, the first few.
    """

    schema: int
    newest: int
    faults: tuple[str, ...]


@contextmanager
def read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """Gives a connection to a store's file as it is, whatever its schema.

    Raises:
        StoreError: it can't be read, also while it is used.
    """
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=_WAIT_SECONDS)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from None


def look_at(path: Path) -> Seen:
    """Looks at a file, and has SQLite check it (`PRAGMA quick_check`).

    Raises:
        StoreError: it can't be read at all.
    """
    with read_only(path) as connection:
        schema: int = connection.execute("PRAGMA user_version").fetchone()[0]
        said = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({_FAULTS})")]
    return Seen(schema, newest_schema(), tuple(line for line in said if line != "ok"))
