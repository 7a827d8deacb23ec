"""`rayslurm store check`: what is wrong is told, and nothing is changed."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from exporter.config import Config
from exporter.errors import StoreError
from exporter.owner.lock import OwnerLock
from exporter.store import (
    counters,
)
from exporter.store.checkup import check
from exporter.store.db import Store, known_schema
from tests.unit.store.upkeep import DAMAGES, answer, listing, rows, run


def test_a_sound_store_is_told_with_what_is_in_it_and_left_as_it_is(config_path: Path, filled: Path) -> None:
    before = listing(filled.parent)
    told = answer("check", config=config_path)
    assert listing(filled.parent) == before, "nothing is made or changed"
    assert (told["ok"], told["problems"], told["integrity"]) == (True, [], ["ok"])
    assert (told["mode"], told["schema"], told["known_schema"]) == ("0600", known_schema(), known_schema())
    assert told["bytes"] == filled.stat().st_size
    assert (told["held"], told["held_by"]) == (False, None)
    inside = rows(filled)
    assert {name: table["rows"] for name, table in told["tables"].items()} == {
        name: len(inside[name]) for name in told["tables"]
    }
    assert told["tables"]["jobs"]["rows"] > 0
    assert told["tables"]["raw_outputs"]["oldest"] == 1
    assert told["tables"]["raw_outputs"]["newest"] == max(row[-1] for row in inside["raw_outputs"])
    assert "all is well" in run("check", config=config_path).stdout


def test_a_store_in_use_is_looked_through_as_it_is_and_its_owner_is_told(
    config_path: Path, config: Config, store: Store
) -> None:
    store.write(lambda connection: counters.add(connection, "x_total"))
    with OwnerLock(config.state_dir, "serve"):
        told = answer("check", config=config_path)
        assert told["held"] is True
        assert "`rayslurm serve`" in told["held_by"]
        assert told["tables"]["counters"]["rows"] == 1, "what is only in the log is seen too"
        assert told["log_bytes"] > 0
    OwnerLock(config.state_dir, "serve").release()


def test_a_store_that_is_not_there_is_told_and_not_made(config_path: Path, config: Config) -> None:
    done = run("check", config=config_path)
    assert done.exit_code == 1
    assert "is not there" in done.stderr
    assert "`rayslurm serve` makes an empty one" in done.stderr
    assert not config.state_dir.exists()


def test_what_a_crash_left_is_read_and_left_as_it_is(store: Store, tmp_path: Path) -> None:
    store.write(lambda connection: counters.add(connection, "x_total"))
    crashed = tmp_path / "crashed"
    crashed.mkdir(mode=0o700)
    for one in store.path.parent.iterdir():
        shutil.copy(one, crashed)
    before = listing(crashed)
    assert before[f"{store.path.name}-wal"]
    found = check(crashed / store.path.name)
    assert (found.problems, found.tables["counters"].rows) == ([], 1)
    after = listing(crashed)
    for name in (store.path.name, f"{store.path.name}-wal"):
        assert after[name] == before[name]


@pytest.mark.parametrize("how", ["page", "index"])
def test_damage_is_told(config_path: Path, path: Path, how: str) -> None:
    DAMAGES[how](path)
    done = run("check", "--json", config=config_path)
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert not told["ok"]
    assert told["integrity"] != ["ok"]
    assert "is damaged" in told["problems"][0]["cause"]
    assert "backup" in told["problems"][0]["cure"]


@pytest.mark.parametrize(("text", "said"), [(b"not a database" * 100, "is damaged"), (b"", "is empty")])
def test_a_file_of_another_kind_is_told(config_path: Path, tmp_path: Path, text: bytes, said: str) -> None:
    other = tmp_path / "other"
    other.write_bytes(text)
    other.chmod(0o600)
    done = run("check", str(other), config=config_path)
    assert done.exit_code == 1
    assert said in done.stderr
    assert other.read_bytes() == text


def test_a_database_of_another_program_is_no_store(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other")) as connection:
        connection.execute("CREATE TABLE t (x)")
    assert "is no store of rayslurm" in " ".join(problem.cause for problem in check(tmp_path / "other").problems)


def set_schema(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()


def test_a_newer_schema_cannot_be_used_and_an_older_one_is_left_for_later(config_path: Path, path: Path) -> None:
    set_schema(path, known_schema() + 1)
    done = run("check", config=config_path)
    assert done.exit_code == 1
    assert "written by a newer rayslurm" in done.stderr
    assert "upgrade rayslurm" in done.stderr
    set_schema(path, known_schema() - 1)
    done = run("check", config=config_path)
    assert done.exit_code == 0, done.output
    assert "is brought up to date when" in done.stdout
    assert check(path).schema == known_schema() - 1
    for arguments in (("prune", "--dry-run"), ("prune", "--yes")):
        refused = run(*arguments, config=config_path)
        assert isinstance(refused.exception, StoreError)
        assert "older rayslurm" in str(refused.exception)
    assert check(path).schema == known_schema() - 1


def test_what_others_can_read_is_told(config_path: Path, path: Path) -> None:
    path.chmod(0o640)
    done = run("check", config=config_path)
    assert done.exit_code == 1
    assert f"chmod 600 {path}" in done.stderr


def test_a_row_that_names_one_that_is_gone_is_told(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(
            "INSERT INTO bills (site, job_id, source, kind, unit, units, final, created)"
            " VALUES ('s', '1', 'seff', 'cpu', 'BU', 1, 1, 1)"
        )
        connection.commit()
    found = check(path)
    assert found.integrity == ["ok"]
    assert found.lost_references == ["bills row 1 names a row of jobs"]
    assert "1 rows name others that aren't there" in found.problems[0].cause
