"""The partitions of each site as its own Slurm last described them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields

from exporter.records import PartitionRecord

_COLUMNS = tuple(field.name for field in fields(PartitionRecord))


@dataclass(frozen=True, slots=True)
class Listing:
    """All partitions of a site.

    Attributes:
        partitions: by name, in the site's order.
        read: when the site was asked, epoch seconds.
    """

    partitions: Mapping[str, PartitionRecord]
    read: float


def replace(connection: sqlite3.Connection, site: str, records: Iterable[PartitionRecord], *, now: float) -> None:
    """Keeps a site's partitions, in place of those that were known before."""
    connection.execute("DELETE FROM partitions WHERE site = ?", (site,))
    names = ", ".join(("site", *_COLUMNS, "read"))
    marks = ", ".join("?" * (len(_COLUMNS) + 2))
    for record in records:
        connection.execute(
            f"INSERT INTO partitions ({names}) VALUES ({marks})",  # noqa: S608 - the record's own field names
            (site, *astuple(record), now),
        )


def listing(connection: sqlite3.Connection, site: str) -> Listing | None:
    """Returns a site's partitions; None where it was never asked."""
    rows = connection.execute("SELECT * FROM partitions WHERE site = ? ORDER BY rowid", (site,)).fetchall()
    if not rows:
        return None
    return Listing({row["name"]: _record(row) for row in rows}, rows[0]["read"])


def _record(row: sqlite3.Row) -> PartitionRecord:
    values = {name: row[name] for name in _COLUMNS}
    whole = values.pop("whole_nodes")
    return PartitionRecord(**values, whole_nodes=None if whole is None else bool(whole))
