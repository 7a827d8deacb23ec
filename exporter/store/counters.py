"""Lifetime counters: sums that survive whatever happens to the process."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counter:
    """One lifetime counter.

    Attributes:
        name: the metric's name without prefix, `jobs_finished_total`.
        labels: its label values.
        value: the sum.
    """

    name: str
    labels: Mapping[str, str]
    value: float


def add(connection: sqlite3.Connection, name: str, amount: float = 1, /, **labels: str) -> None:
    """Adds to a counter, in the caller's transaction; 0 makes the label set known.

    Args:
        connection: of a write transaction.
        name: the metric's name without prefix.
        amount: what to add, not negative.
        **labels: label values.
    """
    connection.execute(
        "INSERT INTO counters (name, labels, value) VALUES (?, ?, ?)"
        " ON CONFLICT (name, labels) DO UPDATE SET value = value + excluded.value",
        (name, json.dumps(labels, sort_keys=True), amount),
    )


def read(connection: sqlite3.Connection) -> list[Counter]:
    """Returns all counters, ordered by name and labels."""
    rows = connection.execute("SELECT name, labels, value FROM counters ORDER BY name, labels")
    return [Counter(row["name"], json.loads(row["labels"]), row["value"]) for row in rows]
