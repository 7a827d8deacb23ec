"""`rayslurm store`: a copy is whole, what is wrong is told, and nothing goes that anybody needs."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from exporter.cli.store_command import register
from exporter.config import Config
from exporter.errors import RefusedError, StoreError
from exporter.owner.lock import OwnerLock
from exporter.store import (
    backup,
    counters,
    probe_runs,
    requests,
)
from exporter.store.checkup import check
from exporter.store.db import Store, known_schema
from tests.unit.conftest import Clock, MakeSite
from tests.unit.filled import SITE, as_puhti, fill

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


# --- backup -----------------------------------------------------------------------------------------------------------


def test_a_copy_that_is_made_while_somebody_writes_is_of_one_moment(config_path: Path, path: Path) -> None:
    """Each change adds one to two counters: in a copy that mixes moments they differ."""
    stop, going = threading.Event(), threading.Event()

    def change(connection: sqlite3.Connection) -> None:
        for name in ("a_total", "b_total"):
            counters.add(connection, name)
        probe_runs.keep_raw(connection, "s", "squeue", str(counters.read(connection)[0].value), now=1.0)

    def work() -> None:
        with Store(path) as store:
            while not stop.is_set():
                store.write(change)
                going.set()

    writer = threading.Thread(target=work)
    writer.start()
    try:
        assert going.wait(60)
        values = []
        for number in range(5):
            target = path.parent / f"copy-{number}"
            told = answer("backup", str(target), config=config_path)
            assert told == {
                "file": str(target), "bytes": target.stat().st_size, "schema": known_schema(), "integrity": "ok",
            }  # fmt: skip
            found = rows(target)
            first, second = (value for _, _, value in found["counters"])
            assert first == second
            values.append((first, len(found["raw_outputs"])))
    finally:
        stop.set()
        writer.join()
    assert values == sorted(values)
    assert all(texts == min(count, probe_runs.RAW_KEPT) for count, texts in values)
    copies = [one for one in path.parent.iterdir() if "copy-" in one.name]
    assert sorted(one.name for one in copies) == [f"copy-{number}" for number in range(5)], "nothing else is left"
    assert {one.stat().st_mode & 0o777 for one in copies} == {0o600}


def test_a_copy_has_everything_and_can_be_put_in_the_stores_place(
    config_path: Path, filled: Path, tmp_path: Path
) -> None:
    before = rows(filled)
    answer("backup", str(tmp_path / "copy"), config=config_path)
    assert rows(filled) == before
    filled.unlink()
    (tmp_path / "copy").rename(filled)
    with Store(filled) as store:
        store.write(lambda connection: counters.add(connection, "x_total"))
        assert rows(filled) == before | {"counters": sorted([*before["counters"], ("x_total", "{}", 1.0)], key=repr)}


def test_a_copy_takes_what_is_only_in_the_log_yet(config_path: Path, store: Store, tmp_path: Path) -> None:
    store.write(lambda connection: counters.add(connection, "x_total"))
    answer("backup", str(tmp_path / "copy"), config=config_path)
    assert rows(tmp_path / "copy")["counters"] == [("x_total", "{}", 1.0)]


def test_nothing_is_overwritten_unless_it_is_said(config_path: Path, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.write_text("mine")
    with pytest.raises(RefusedError, match="is there already"):
        backup.back_up(path, target)
    assert target.read_text() == "mine"
    answer("backup", str(target), "--force", config=config_path)
    assert rows(target)["counters"] == []
    assert target.stat().st_mode & 0o777 == 0o600


def test_one_who_makes_the_file_meanwhile_keeps_it(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out" / "copy"
    target.parent.mkdir()
    sync = backup._sync

    def make(one: Path) -> None:
        target.write_text("theirs")
        sync(one)

    monkeypatch.setattr(backup, "_sync", make)
    with pytest.raises(RefusedError, match="is there already"):
        backup.back_up(path, target)
    assert listing(target.parent) == {"copy": b"theirs"}


@pytest.mark.parametrize("name", ["rayslurm.sqlite3", "rayslurm.sqlite3-wal", "."])
def test_the_store_itself_is_no_place_for_its_copy(path: Path, name: str) -> None:
    with pytest.raises(RefusedError):
        backup.back_up(path, path.parent / name, force=True)
    assert check(path).problems == []


def test_a_log_of_another_file_would_be_read_as_the_copys(path: Path, tmp_path: Path) -> None:
    (tmp_path / "copy-wal").write_text("old")
    with pytest.raises(RefusedError, match="copy-wal lies there"):
        backup.back_up(path, tmp_path / "copy", force=True)


def test_what_cannot_be_copied_leaves_nothing(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(StoreError, match="is the folder there"):
        backup.back_up(path, folder / "copy")
    folder.mkdir()
    with pytest.raises(StoreError, match="there is no store yet"):
        backup.back_up(tmp_path / "none.sqlite3", folder / "copy")
    assert listing(folder) == {}
    assert not (tmp_path / "none.sqlite3").exists()


@pytest.mark.parametrize("how", ["page", "index"])
def test_a_damaged_store_is_not_taken_for_a_copy(path: Path, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "copy").write_text("the last good one")
    DAMAGES[how](path)
    with pytest.raises(StoreError, match="no copy was made"):
        backup.back_up(path, folder / "copy", force=True)
    assert listing(folder) == {"copy": b"the last good one"}


def test_a_copy_is_one_file_whoever_reads_it(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    backup.back_up(path, folder / "copy")
    with closing(sqlite3.connect(f"file:{folder}/copy?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
        assert set(listing(folder)) == {"copy"}


# --- check ------------------------------------------------------------------------------------------------------------


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


# --- prune ------------------------------------------------------------------------------------------------------------


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
