"""Stores to be copied, looked through and pruned, and how a person asks for that."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner, Result

from exporter.cli.store_command import register
from exporter.store import counters
from exporter.store.db import Store

DAY = 86400.0
EXPENDABLE = {"raw_outputs", "balance_readings", "requests", "tunnel_failures", "campaign_runs"}


def run(*arguments: str, config: Path, stdin: str | None = None) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["store", *arguments, "--config", str(config)], input=stdin)


def answer(*arguments: str, config: Path) -> Any:
    done = run(*arguments, "--json", config=config)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in a store, by table."""
    with closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr)
            for name in names
            if not name.startswith("sqlite_")
        }


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damage(path: Path) -> None:
    """Writes over a page in the middle, as a failing disk does."""
    with closing(sqlite3.connect(path)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'submissions'").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


def damage_index(path: Path) -> None:
    """Changes a value in an index alone: every statement goes well, and some don't find the row."""
    with Store(path) as store:
        store.write(lambda connection: counters.add(connection, "peculiar_total"))
    text = bytearray(path.read_bytes())
    places = [text.find(b"peculiar_total")]
    places.append(text.find(b"peculiar_total", places[0] + 1))
    assert -1 not in places, "once in the table, once in its index"
    text[places[1]] = ord("q")
    path.write_bytes(text)


DAMAGES = {"page": damage, "index": damage_index}
