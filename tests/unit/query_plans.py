"""How SQLite would carry out what a test asks the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from exporter.store.db import Store


def plans_of(store: Store, *questions: Callable[[sqlite3.Connection], object]) -> list[str]:
    """Returns the steps of all statements that these questions make: `SCAN ...`, `SEARCH ...`."""
    statements: list[str] = []
    with store.snapshot() as connection:
        connection.set_trace_callback(statements.append)
        for question in questions:
            question(connection)
        connection.set_trace_callback(None)
        plans = [
            row["detail"] for sql in statements for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
        ]
    assert plans
    return plans
