"""The owner: that its probes come when they should, also where the machine's clock is set."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest

from exporter.config import Config
from exporter.owner import owner as module
from exporter.owner.clock import ClockWatch
from exporter.owner.owner import Owner
from exporter.store.db import Store
from tests.unit.conftest import Clock
from tests.unit.jobs.harness import wait_until

HOUR = 3600.0


class WallClock:
    """This machine's clock, which a test sets; for APScheduler too."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead

    def now(self, timezone: tzinfo | None = None) -> datetime:
        return datetime.now(timezone) + timedelta(seconds=self.ahead)


class Worker:
    """In place of a site's: it has two probes, and does nothing but note which of them are to run."""

    busy_for_person = False

    def __init__(self, *_args: object) -> None:
        self.delays: dict[str, float] = {"soon": 2.0, "later": 2 * HOUR}
        self.runs: queue.Queue[str] = queue.Queue()

    def start(self) -> None:
        """There is no thread."""

    def end(self) -> None:
        """There is no thread."""

    def is_alive(self) -> bool:
        return False

    def first_delays(self) -> dict[str, float]:
        return self.delays

    def enqueue_probe(self, probe: str) -> None:
        self.runs.put(probe)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    wall = WallClock()
    monkeypatch.setattr("apscheduler.schedulers.base.datetime", wall)
    return wall


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    worker = Worker()
    monkeypatch.setattr(module, "SiteWorker", lambda *_: worker)
    return worker


@pytest.fixture
def owner(config: Config, store: Store, wall: WallClock, worker: Worker) -> Iterator[Owner]:
    del worker
    owner = Owner(config, store, clock=wall)
    owner.start()
    yield owner
    owner.stop()


def waits(owner: Owner, wall: WallClock) -> dict[str, float]:
    """In how many seconds each probe is to run, by the clock as it is now."""
    now = datetime.fromtimestamp(wall(), UTC)
    return {job.args[0]: (job.next_run_time - now).total_seconds() for job in owner._scheduler.get_jobs()}


def test_a_clock_that_is_set_back_keeps_no_probe_waiting(
    owner: Owner, wall: WallClock, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    wall.ahead -= 3 * HOUR
    assert worker.runs.get(timeout=20) == "soon"
    wait_until(lambda: caplog.messages, "a warning")
    assert caplog.messages == ["this machine's clock was set back by 10800 s; probes run when they would have"]
    wait_until(lambda: waits(owner, wall) == {"later": pytest.approx(2 * HOUR, abs=60)}, "the other as it was to be")


def test_a_clock_that_is_set_forward_runs_each_probe_once(
    owner: Owner, wall: WallClock, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    wall.ahead += 3 * HOUR
    assert {worker.runs.get(timeout=20) for _ in range(2)} == {"soon", "later"}
    wait_until(lambda: caplog.messages, "a warning")
    assert caplog.messages == ["this machine's clock was set forward by 10800 s; what is due by it runs now"]
    owner._schedule("puhti2", "later", 2 * HOUR)
    assert waits(owner, wall) == {"later": pytest.approx(2 * HOUR, abs=60)}
    assert worker.runs.empty()


def test_a_clock_that_was_wrong_for_a_moment_only(owner: Owner, wall: WallClock, worker: Worker) -> None:
    wall.ahead += 3 * HOUR
    assert {worker.runs.get(timeout=20) for _ in range(2)} == {"soon", "later"}
    owner._schedule("puhti2", "soon", 2)
    wall.ahead -= 3 * HOUR
    assert worker.runs.get(timeout=20) == "soon"


@pytest.fixture
def clocks(clock: Clock) -> tuple[Clock, Clock, ClockWatch]:
    steady = Clock(7.0)
    return clock, steady, ClockWatch(clock, steady)


def test_time_that_passes_is_no_jump(clocks: tuple[Clock, Clock, ClockWatch]) -> None:
    clock, steady, watch = clocks
    for seconds in (0.5, 86400.0):
        clock.now += seconds
        steady.now += seconds
        assert watch.jump() == 0


@pytest.mark.parametrize("seconds", [-3 * HOUR, -5.0, 5.0, 3 * HOUR])
def test_each_jump_is_told_once(clocks: tuple[Clock, Clock, ClockWatch], seconds: float) -> None:
    clock, steady, watch = clocks
    clock.now += seconds + 0.5
    steady.now += 0.5
    assert watch.jump() == pytest.approx(seconds)
    assert watch.jump() == 0


def test_many_small_steps_are_a_jump_in_the_end(clocks: tuple[Clock, Clock, ClockWatch]) -> None:
    clock, _, watch = clocks
    told: list[Any] = []
    for _ in range(30):
        clock.now -= 0.25
        told.append(watch.jump())
    assert sum(told) == pytest.approx(-7.5, abs=2)
    assert len([jump for jump in told if jump]) == 3
