"""`rayslurm store backup`: a copy is whole, and of one moment."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from exporter import whole_files
from exporter.errors import RefusedError, StoreError
from exporter.store import (
    backup,
    counters,
    probe_runs,
)
from exporter.store.checkup import check
from exporter.store.db import Store, known_schema
from tests.unit.store.upkeep import DAMAGES, answer, listing, rows


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
    sync = whole_files.sync

    def make(one: Path) -> None:
        target.write_text("theirs")
        sync(one)

    monkeypatch.setattr(whole_files, "sync", make)
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
