"""A site's worker: when its probes first run, and what is noted of a run."""

from __future__ import annotations

import pytest

from exporter.config import Config
from exporter.owner.worker import SiteWorker
from exporter.probes.areas import INTERVAL_SECONDS as AREAS_SECONDS
from exporter.probes.balances import INTERVAL_SECONDS as BALANCES_SECONDS
from exporter.store import probe_runs, requests
from exporter.store.db import Store
from tests.unit.conftest import Clock, MakeSite

SITE = "puhti2"
PROBES = {"jobs", "reports", "balances", "areas", "certificate", "submissions", "runs", "continuations", "partitions"}


def note(store: Store, probe: str, at: float, reason: str | None = None) -> None:
    store.write(
        lambda connection: probe_runs.note_run(
            connection, SITE, probe, at=at, duration_seconds=1, error=reason, reason=reason
        )
    )


@pytest.fixture
def worker(make_site: MakeSite, config: Config) -> SiteWorker:
    return SiteWorker(make_site([])[0], config, lambda site, probe, seconds: None)


def test_every_probe_runs_at_once_at_first(worker: SiteWorker) -> None:
    assert worker.first_delays() == dict.fromkeys(PROBES, 0)


def test_what_is_still_good_is_not_asked_again_after_a_restart(worker: SiteWorker, store: Store, clock: Clock) -> None:
    note(store, "jobs", clock.now - 1)
    note(store, "balances", clock.now - 600)
    note(store, "areas", clock.now - 60, "unreachable")
    delays = worker.first_delays()
    assert delays == {**dict.fromkeys(PROBES, 0), "balances": BALANCES_SECONDS - 600, "areas": 3600 - 60}
    clock.now += AREAS_SECONDS
    assert worker.first_delays() == dict.fromkeys(PROBES, 0)


def test_a_run_noted_while_the_clock_was_wrong_keeps_nobody_waiting(
    worker: SiteWorker, store: Store, clock: Clock
) -> None:
    note(store, "balances", clock.now + 86400 * 365)
    assert worker.first_delays()["balances"] == 0


def test_a_practice_sites_clock_runs_faster(make_site: MakeSite, store: Store, clock: Clock, config: Config) -> None:
    ssh = {"host": "127.0.0.1", "user": "maija"}
    context, _ = make_site([], ssh=ssh, practice_clock_factor=60)
    note(store, "balances", clock.now - 1)
    worker = SiteWorker(context, config, lambda site, probe, seconds: None)
    assert worker.first_delays()["balances"] == pytest.approx(BALANCES_SECONDS / 60 - 1)


def test_a_request_that_cannot_be_begun_for_a_full_disk_waits(worker: SiteWorker, store: Store) -> None:
    number = store.write(lambda connection: requests.add(connection, "cancel", SITE, {"job_id": "1"}, now=1.0))
    with store.snapshot() as connection:
        waiting = requests.get(connection, number)
    store.write(lambda connection: connection.execute("ALTER TABLE requests RENAME TO elsewhere"))  # as bad as that
    worker._answer(waiting)
    store.write(lambda connection: connection.execute("ALTER TABLE elsewhere RENAME TO requests"))
    assert worker._tasks.get_nowait().work == waiting
    with store.snapshot() as connection:
        assert requests.get(connection, number).state == "waiting"
