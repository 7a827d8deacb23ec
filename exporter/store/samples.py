"""What probes learn that needs no table of its own: values by metric and labels."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sample:
    """One value.

    Attributes:
        name: the metric's name without prefix.
        value: the value.
        labels: its label values, but for the site's.
    """

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


def replace(connection: sqlite3.Connection, site: str, probe: str, found: Iterable[Sample], *, now: float) -> None:
    """Keeps what a probe found at a site, in place of all that it found before."""
    connection.execute("DELETE FROM samples WHERE site = ? AND probe = ?", (site, probe))
    for sample in found:
        connection.execute(
            "INSERT OR REPLACE INTO samples (site, probe, name, labels, value, at) VALUES (?, ?, ?, ?, ?, ?)",
            (site, probe, sample.name, json.dumps(dict(sample.labels), sort_keys=True), sample.value, now),
        )


def read(connection: sqlite3.Connection) -> list[tuple[str, Sample]]:
    """Returns all samples with their sites, in an order that stays."""
    rows = connection.execute("SELECT site, name, labels, value FROM samples ORDER BY site, probe, name, labels")
    return [(row["site"], Sample(row["name"], row["value"], json.loads(row["labels"]))) for row in rows]
