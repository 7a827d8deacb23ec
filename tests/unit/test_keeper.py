"""What jobs have on this machine is kept no longer than they need it: their keys, and the ports of their tunnels."""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from exporter.config import Config, load_config
from exporter.errors import StoreError
from exporter.store import leases, submissions
from exporter.store.db import Store
from exporter.tunnels import keeper as keeper_module
from exporter.tunnels.keeper import MARGIN_SECONDS, RENEW_SECONDS, WAITING_SECONDS, Keeper, authorized
from tests.unit.conftest import Clock
from tests.unit.test_leases import PUBLIC, SITE, absent, end, held, intend, needed, submit

OTHERS = f"{PUBLIC} me@laptop\n# a note\nrestrict {PUBLIC} rayslurm-another-one\n"
TOKENS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc")
ONE, TWO, THREE = TOKENS


@pytest.fixture
def own_keys(config_path: Path, tmp_path: Path) -> Config:
    """A configuration by which each job gets a key of its own."""
    file = tmp_path / "ssh/authorized_keys"
    file.parent.mkdir()
    file.write_text(OTHERS)
    written = config_path.read_text().replace("identity_file: /home/maija/.ssh/id_vm", f"authorized_keys: {file}")
    config_path.write_text(written)
    return load_config(config_path)


@pytest.fixture
def keeper(own_keys: Config, store: Store, clock: Clock) -> Keeper:
    return Keeper(own_keys, store, clock=clock)


@pytest.fixture
def ended_ssh() -> Iterator[int]:
    """A port of which a lease may be had, and on which nobody listens."""
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def launch(config: Config, store: Store, clock: Clock, token: str, job_id: str | None = None) -> bytes | None:
    intend(store, token)
    with store.snapshot() as connection:
        ports = {lease.tunnel: lease.port for lease in leases.of_submission(connection, token)}
    private = authorized(config, store, token, ports, now=clock())
    if job_id is not None:
        submit(store, token, job_id)
    return private


def run(store: Store, job_id: str, *, start: float, limit: float | None) -> None:
    def change(connection: sqlite3.Connection) -> None:
        connection.execute(
            "UPDATE jobs SET state = 'running', start_time = ?, time_limit_seconds = ? WHERE job_id = ?",
            (start, limit, job_id),
        )

    store.write(change)


def file_of(config: Config) -> Path:
    assert config.vm is not None
    return config.vm.keys_file


def lines(config: Config) -> dict[str, str]:
    """Returns our lines by token."""
    found = [line for line in file_of(config).read_text().splitlines() if "expiry-time" in line]
    return {line.rpartition("-")[2]: line for line in found}


def expiry(config: Config, token: str) -> float:
    match = re.search(r'expiry-time="(\d{14})Z"', lines(config)[token])
    assert match
    return datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()


def test_a_launch_lets_its_job_in(own_keys: Config, store: Store, clock: Clock) -> None:
    private = launch(own_keys, store, clock, ONE)
    assert private is not None
    assert private.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert 'permitlisten="127.0.0.1:8100"' in lines(own_keys)[ONE]
    assert expiry(own_keys, ONE) == clock() + WAITING_SECONDS
    (key,) = needed(store)
    assert key.public in lines(own_keys)[ONE]
    assert key.ports == (8100,)
    database = b"".join(path.read_bytes() for path in own_keys.state_dir.glob("rayslurm.sqlite3*"))
    assert private.splitlines()[1] not in database, "the private half is the job's alone"


def test_who_manages_the_keys_is_left_alone(config: Config, store: Store, clock: Clock, tmp_path: Path) -> None:
    assert launch(config, store, clock, ONE) is None
    assert needed(store) == []
    Keeper(config, store, clock=clock).look()
    assert not (tmp_path / "ssh").exists()


def test_lines_of_ended_jobs_go_and_no_others(own_keys: Config, store: Store, clock: Clock, keeper: Keeper) -> None:
    for number, token in enumerate(TOKENS):
        launch(own_keys, store, clock, token, str(77 + number) if token != THREE else None)
    keeper.look()
    assert set(lines(own_keys)) == set(TOKENS)
    end(store, "77")
    absent(store, THREE)
    keeper.look()
    assert set(lines(own_keys)) == {TWO}
    assert [key.token for key in needed(store)] == [TWO]
    end(store, "78")
    keeper.look()
    assert file_of(own_keys).read_text() == OTHERS
    with store.snapshot() as connection:
        assert connection.execute("SELECT count(*) FROM job_keys").fetchone()[0] == 0


def test_a_line_that_a_crash_left_is_swept(own_keys: Config, store: Store, clock: Clock, keeper: Keeper) -> None:
    launch(own_keys, store, clock, ONE)
    absent(store, ONE)
    store.write(lambda connection: connection.execute("DELETE FROM job_keys").rowcount)
    keeper.look()
    assert file_of(own_keys).read_text() == OTHERS


def test_a_line_that_went_missing_is_there_again(own_keys: Config, store: Store, clock: Clock, keeper: Keeper) -> None:
    launch(own_keys, store, clock, ONE, "77")
    before = lines(own_keys)
    file_of(own_keys).write_text(OTHERS)
    keeper.look()
    assert lines(own_keys) == before
    assert file_of(own_keys).read_text().startswith(OTHERS)


def test_what_needs_no_change_is_not_written(own_keys: Config, store: Store, clock: Clock, keeper: Keeper) -> None:
    launch(own_keys, store, clock, ONE, "77")
    run(store, "77", start=clock(), limit=3600)
    keeper.look()
    before = file_of(own_keys).stat()
    clock.now += 1800
    keeper.look()
    after = file_of(own_keys).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_key_of_a_job_that_waits_is_renewed_before_it_ends(
    own_keys: Config, store: Store, clock: Clock, keeper: Keeper
) -> None:
    launch(own_keys, store, clock, ONE, "77")
    launched = clock()
    for _ in range(30):  # it waits a month
        clock.now += RENEW_SECONDS - 60
        keeper.look()
        assert expiry(own_keys, ONE) - clock() >= WAITING_SECONDS - RENEW_SECONDS
    assert expiry(own_keys, ONE) > launched + 30 * (RENEW_SECONDS - 60)


def test_a_job_that_started_is_let_in_for_its_time_and_no_longer(
    own_keys: Config, store: Store, clock: Clock, keeper: Keeper
) -> None:
    launch(own_keys, store, clock, ONE, "77")
    run(store, "77", start=clock() - 100, limit=7200)
    keeper.look()
    until = clock() - 100 + 7200 + MARGIN_SECONDS
    assert expiry(own_keys, ONE) == until < clock() + WAITING_SECONDS
    clock.now += 7000
    keeper.look()
    assert expiry(own_keys, ONE) == until
    run(store, "77", start=until - MARGIN_SECONDS, limit=7200)  # it was put back into the queue, and started again
    keeper.look()
    assert expiry(own_keys, ONE) == until + 7200


def test_a_job_of_which_the_limit_is_not_known_is_let_in_on_and_on(
    own_keys: Config, store: Store, clock: Clock, keeper: Keeper
) -> None:
    launch(own_keys, store, clock, ONE, "77")
    run(store, "77", start=clock(), limit=None)
    clock.now += 3 * RENEW_SECONDS
    keeper.look()
    assert expiry(own_keys, ONE) == clock() + WAITING_SECONDS


def test_ports_are_free_only_when_nobody_listens(
    own_keys: Config, store: Store, clock: Clock, keeper: Keeper, ended_ssh: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as outliving:
        listening: int = outliving.getsockname()[1]
        intend(store, ONE, {"dashboard": [listening], "client": [ended_ssh]}, busy=None)
        submit(store, ONE, "77")
        keeper.look()
        assert set(held(store)) == {listening, ended_ssh}, "the job goes on"
        end(store, "77")
        keeper.look()
        assert set(held(store)) == {listening}, "an ssh can outlive its job"
    keeper.look()
    assert held(store) == {}


def test_where_it_is_not_known_who_listens_no_port_is_freed(
    own_keys: Config, store: Store, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(keeper_module, "listeners", fails)
    intend(store, ONE)
    absent(store, ONE)
    with pytest.raises(OSError, match="no /proc"):
        keeper.look()
    assert set(held(store)) == {8100}


def test_a_file_that_cannot_be_written_is_told_and_tried_again(
    own_keys: Config, store: Store, clock: Clock, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch(own_keys, store, clock, ONE, "77")
    end(store, "77")
    file = file_of(own_keys)
    kept = file.read_text()
    file.unlink()
    file.mkdir()

    async def looks() -> None:
        told = asyncio.Event()

        def warn(*words: object) -> None:
            words_told.append(words)
            told.set()

        monkeypatch.setattr(keeper_module._log, "warning", warn)
        task = asyncio.create_task(keeper.run())
        await asyncio.wait_for(told.wait(), 20)
        assert not task.done(), "it goes on"
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    words_told: list[tuple[object, ...]] = []
    asyncio.run(looks())
    assert "authorized_keys: cannot be read" in str(words_told[0][1])
    with store.snapshot() as connection:
        assert connection.execute("SELECT count(*) FROM job_keys").fetchone()[0] == 1, "it is not forgotten"
    file.rmdir()
    file.write_text(kept)
    keeper.look()
    assert file.read_text() == OTHERS


def test_two_stores_of_one_account_leave_each_others_lines(
    own_keys: Config, store: Store, clock: Clock, keeper: Keeper, tmp_path: Path
) -> None:
    launch(own_keys, store, clock, ONE, "77")
    with Store(tmp_path / "other.sqlite3") as other:
        launch(own_keys, other, clock, TWO, "78")
        Keeper(own_keys, other, clock=clock).look()
        keeper.look()
        assert set(lines(own_keys)) == {ONE, TWO}
        end(store, "77")
        Keeper(own_keys, other, clock=clock).look()
        assert set(lines(own_keys)) == {ONE, TWO}
        keeper.look()
        assert set(lines(own_keys)) == {TWO}


def test_a_key_that_cannot_be_put_there(own_keys: Config, store: Store, clock: Clock) -> None:
    file_of(own_keys).unlink()
    file_of(own_keys).mkdir()
    with pytest.raises(StoreError, match="authorized_keys: cannot be"):
        launch(own_keys, store, clock, ONE)
    with store.snapshot() as connection:
        assert submissions.get(connection, ONE).site == SITE
