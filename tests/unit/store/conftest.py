"""Stores to be copied, looked through and pruned."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from exporter.config import Config
from exporter.store import requests
from exporter.store.db import Store
from tests.unit.conftest import Clock, MakeSite
from tests.unit.filled import SITE, as_puhti, fill
from tests.unit.store.upkeep import DAY


@pytest.fixture
def path(config: Config) -> Path:
    Store(config.store_path).close()
    return config.store_path


@pytest.fixture
def filled(config_path: Path, config: Config, store: Store, make_site: MakeSite, clock: Clock) -> Path:
    """A store of jobs, reports, bills and counters, and of all that is let go: of long ago, and of today."""
    as_puhti(config_path)
    fill(store, make_site, clock)

    def age(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE raw_outputs SET last_seen = ?", (clock.now - 31 * DAY,))
        for day in (0, 1, 500):  # of 500 days ago: nothing; the others are near
            number = requests.add(connection, "track", SITE, {}, now=clock.now - day * DAY)
            if day:
                requests.finish(connection, number, "done", {}, now=clock.now - day * DAY)
        requests.add(connection, "track", SITE, {}, now=clock.now - 500 * DAY)  # nobody answered it
        for days in (500, 20.5, 20.4, 1):
            connection.execute(
                "INSERT INTO balance_readings (provider, project, kind, unit, at, used) VALUES (?, ?, ?, ?, ?, ?)",
                ("csc", "p", "cpu", "BU", (clock.now // DAY - days) * DAY, days),
            )
            connection.execute(
                "INSERT INTO campaign_runs (campaign, due, site, state, file, text, created) VALUES (?,?,?,?,?,?,?)",
                ("nightly", clock.now - days * DAY, SITE, "succeeded", "f", "t", 1.0),
            )
        connection.execute(
            "INSERT INTO campaign_runs (campaign, due, site, state, file, text, created) VALUES (?,?,?,?,?,?,?)",
            ("nightly", clock.now - 600 * DAY, SITE, "running", "f", "t", 1.0),
        )
        connection.executemany(
            "INSERT INTO tunnel_failures (site, job_id, tunnel, state, first_at, last_at, times, said)"
            " VALUES (?, '77', 'dashboard', 'refused', ?, ?, 1, 'no')",
            [(SITE, clock.now - days * DAY, clock.now - days * DAY) for days in (8, 6)],
        )

    store.write(age)
    probe_text = "x" * 50_000
    store.write(
        lambda connection: connection.executemany(
            "INSERT INTO raw_outputs (sha256, site, source, text, first_seen, last_seen)"
            " VALUES (?, ?, 'squeue', ?, 1, ?)",
            [(str(number), SITE, probe_text, clock.now - number) for number in range(510)],
        )
    )
    store.close()
    return config.store_path
