"""A site's worker: when its probes first run, and what is noted of a run."""

from __future__ import annotations

import queue

import pytest

from exporter.client.replay import Exchange
from exporter.config import Config
from exporter.owner.worker import SiteWorker
from exporter.probes.areas import INTERVAL_SECONDS as AREAS_SECONDS
from exporter.probes.balances import INTERVAL_SECONDS as BALANCES_SECONDS
from exporter.probes.jobs import SQUEUE_UNHURRIED
from exporter.store import probe_runs, requests
from exporter.store.db import Store
from tests.slurm_texts import squeue
from tests.unit.conftest import Clock, MakeSite

SITE = "puhti2"
PROBES = {
    "jobs",
    "reports",
    "balances",
    "areas",
    "certificate",
    "submissions",
    "runs",
    "budgets",
    "campaigns",
    "continuations",
    "partitions",
    "reservations",
} | {"consequences"}


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


def test_a_lost_tunnel_has_the_queue_looked_at_early_within_its_limits(
    make_site: MakeSite, config: Config, clock: Clock
) -> None:
    context, transport = make_site([Exchange("queue", squeue(), repeat=True)])
    ran: queue.Queue[str] = queue.Queue()
    worker = SiteWorker(context, config, lambda site, probe, seconds: ran.put(probe))
    worker.start()
    looks = []
    for _ in range(SQUEUE_UNHURRIED + 6):
        worker.hurry("jobs")
        for _ in range(2):  # what a hurry puts in the queue comes after the first and before the second
            worker.enqueue_probe("certificate")
            while (probe := ran.get(timeout=20)) != "certificate":
                looks.append(probe)
        clock.now += 60
    worker.end()
    worker.join(20)
    assert looks == ["jobs"] * SQUEUE_UNHURRIED
    assert [verb for verb, _ in transport.asked] == ["queue"] * SQUEUE_UNHURRIED
