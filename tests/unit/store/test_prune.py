"""`rayslurm store prune`: nothing goes that anybody needs."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporter.config import Config
from exporter.errors import RefusedError, StoreError
from exporter.owner.lock import OwnerLock
from exporter.store import (
    counters,
)
from exporter.store.checkup import check
from exporter.store.db import Store
from tests.unit.conftest import Clock
from tests.unit.filled import SITE
from tests.unit.store.upkeep import DAY, EXPENDABLE, answer, rows, run


@pytest.fixture
def at_that_time(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr("exporter.cli.store_command.time.time", clock)


@pytest.mark.usefixtures("at_that_time")
def test_what_is_past_its_time_goes_and_nothing_else(config_path: Path, filled: Path, clock: Clock) -> None:
    before = rows(filled)
    assert before["bills"]
    assert before["counters"]
    size = filled.stat().st_size
    told = answer("prune", "--yes", config=config_path)
    after = rows(filled)
    assert {name for name in before if before[name] != after[name]} == EXPENDABLE
    assert {name: len(before[name]) - len(after[name]) for name in EXPENDABLE} == told["rows"]
    assert all(set(after[name]) < set(before[name]) for name in EXPENDABLE)
    aged = sum(1 for row in before["raw_outputs"] if row[-1] < clock.now - 30 * DAY)
    assert aged > 0
    assert told["rows"] == {
        "raw_outputs": aged + 10, "balance_readings": 2, "requests": 1, "tunnel_failures": 1, "campaign_runs": 1,
    }  # fmt: skip
    assert "running" in {row[4] for row in after["campaign_runs"]}, "a run that goes on stays, however old"
    assert told["bytes_returned"] == size - filled.stat().st_size > 10 * 50_000
    assert (told["rewritten"], told["free_bytes"], told["held_by"]) == (True, 0, None)
    assert check(filled).problems == []
    assert set(answer("prune", "--yes", config=config_path)["rows"].values()) == {0}


@pytest.mark.usefixtures("at_that_time")
def test_a_dry_run_says_the_same_and_changes_nothing(config_path: Path, filled: Path) -> None:
    before = rows(filled)
    told = answer("prune", "--dry-run", config=config_path)
    assert rows(filled) == before
    assert told["free_bytes"] > 10 * 50_000
    assert "would be removed" in run("prune", "--dry-run", config=config_path).stdout
    assert rows(filled) == before
    assert answer("prune", "--yes", config=config_path)["rows"] == told["rows"]


@pytest.mark.usefixtures("at_that_time")
def test_nothing_goes_where_nobody_can_be_asked(config_path: Path, filled: Path) -> None:
    before = rows(filled)
    done = run("prune", config=config_path)
    assert isinstance(done.exception, RefusedError)
    assert "510" not in done.stdout
    assert rows(filled) == before


@pytest.mark.usefixtures("at_that_time")
@pytest.mark.parametrize(("said", "goes"), [("n\n", False), ("y\n", True)])
def test_a_person_is_asked(
    config_path: Path, filled: Path, monkeypatch: pytest.MonkeyPatch, said: str, *, goes: bool
) -> None:
    at_terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("exporter.cli.store_command.sys", at_terminal)
    before = rows(filled)
    done = run("prune", config=config_path, stdin=said)
    assert "rows of raw_outputs will be removed" in done.stderr
    assert (done.exit_code == 0) is goes
    assert (rows(filled) != before) is goes


@pytest.mark.usefixtures("at_that_time")
def test_beside_serve_the_file_is_not_written_anew_and_what_serve_writes_stays(
    config_path: Path, config: Config, filled: Path, clock: Clock
) -> None:
    stop, going = threading.Event(), threading.Event()
    written = 0

    def serve() -> None:
        nonlocal written
        with Store(filled) as store:
            while not stop.is_set():
                store.write(lambda connection: counters.add(connection, "served_total"))
                written += 1
                going.set()

    writer = threading.Thread(target=serve)
    with OwnerLock(config.state_dir, "serve"):
        writer.start()
        try:
            assert going.wait(60)
            told = answer("prune", "--yes", config=config_path)
        finally:
            stop.set()
            writer.join()
    assert told["rewritten"] is False
    assert "`rayslurm serve`" in told["held_by"]
    assert told["free_bytes"] > 10 * 50_000
    assert told["rows"]["raw_outputs"] > 10
    with Store(filled) as store, store.snapshot() as connection:
        assert {one.name: one.value for one in counters.read(connection)}["served_total"] == written
    assert check(filled).problems == []


@pytest.mark.usefixtures("at_that_time")
def test_raw_texts_stay_while_jobs_wait_there_for_the_archive(config_path: Path, filled: Path, clock: Clock) -> None:
    with Store(filled) as store:
        store.write(
            lambda connection: connection.execute(
                "INSERT INTO archive_jobs (site, job_id, end_time, state, since, updated) VALUES (?, '79', 1, ?, 1, 1)",
                (SITE, "waiting"),
            )
        )
    before = rows(filled)["raw_outputs"]
    assert answer("prune", "--dry-run", config=config_path)["spared"] == [SITE]
    assert answer("prune", "--yes", config=config_path)["rows"]["raw_outputs"] == 0
    assert rows(filled)["raw_outputs"] == before


def test_prune_makes_no_store(config_path: Path, config: Config) -> None:
    done = run("prune", "--yes", config=config_path)
    assert isinstance(done.exception, StoreError)
    assert not config.store_path.exists()
