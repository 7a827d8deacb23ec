"""The owner: takes the lock, settles what a dead process left, and keeps the workers busy."""

from __future__ import annotations

import logging
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from exporter.campaigns.endings import end_unconfigured
from exporter.campaigns.files import CampaignFiles
from exporter.client.client import CONNECT_OUTCOMES, ssh_client
from exporter.config import Config, Site
from exporter.launch.bundle import sweep as sweep_bundles
from exporter.owner.clock import ClockWatch
from exporter.owner.lock import OwnerLock
from exporter.owner.worker import SiteWorker, answer_request
from exporter.probes import ProbeContext
from exporter.store import commands, counters, requests, submissions
from exporter.store.db import Store
from exporter.store.requests import Request

_log = logging.getLogger(__name__)

JOBS = "jobs"
"""The probe that looks at the queue."""

_LOOK_SECONDS = 0.5
"""Between two looks for requests and at the clock; a read of a local file."""

_END_SECONDS = 5.0
"""How long a worker may take to end before it is left behind."""

_END_FOR_PERSON_SECONDS = 90.0
"""The same while it submits or cancels: cut short, it would not be known what came of it."""


class Owner:
    """Acts on all sites of the configuration until `stop`.

    Args:
        config: the configuration.
        store: the store.
        clock: gives UTC epoch seconds.

    Raises:
        OwnerError: another process owns the sites.
    """

    def __init__(self, config: Config, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._clock_watch = ClockWatch(clock)
        self._lock = OwnerLock(config.state_dir, "serve")
        settle(config, store)
        for ended in store.write(lambda connection: end_unconfigured(connection, config.sites, now=time.time())):
            _log.warning("%s", ended)
        # In UTC, with no misfire grace: a probe that is late runs late instead of never.
        self._scheduler = BackgroundScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True})
        files = CampaignFiles(config, store)
        self._workers = {
            name: SiteWorker(probe_context(site, store), config, self._schedule, files)
            for name, site in config.resolved_sites.items()
        }
        self._stopping = threading.Event()
        self._dispatcher = threading.Thread(target=self._dispatch, name="requests", daemon=True)

    def start(self) -> None:
        """Starts the workers; every probe runs at once, unless what it brought before is still good."""
        self._scheduler.start()
        for name, worker in self._workers.items():
            worker.start()
            for probe, seconds in worker.first_delays().items():
                if seconds:
                    self._schedule(name, probe, seconds)
                else:
                    worker.enqueue_probe(probe)
        self._dispatcher.start()

    def stop(self) -> None:
        """Ends the workers and gives the lock back; what is being done for a person is waited for."""
        self._stopping.set()
        self._scheduler.shutdown(wait=False)
        self._dispatcher.join()
        for worker in self._workers.values():
            worker.end()
        started = time.monotonic()
        while any(worker.is_alive() for worker in self._workers.values()):
            waited = time.monotonic() - started
            busy = any(worker.busy_for_person for worker in self._workers.values())
            if waited > (_END_FOR_PERSON_SECONDS if busy else _END_SECONDS):
                # Not released: the kernel does that when the process ends, and the worker with it.
                _log.warning("a site is still busy after %d s; left behind", waited)
                return
            time.sleep(_LOOK_SECONDS / 10)
        self._lock.release()

    def look_early(self, site: str) -> None:
        """Has a site's queue looked at early, within its limits: a tunnel of a job there was lost."""
        self._workers[site].hurry(JOBS)

    def ready(self) -> bool:
        """Tells whether every worker lives."""
        return all(worker.is_alive() for worker in self._workers.values())

    def _schedule(self, site: str, probe: str, seconds: float) -> None:
        if self._stopping.is_set():
            return
        self._scheduler.add_job(
            self._workers[site].enqueue_probe,
            "date",
            args=(probe,),
            run_date=datetime.fromtimestamp(self._clock(), UTC) + timedelta(seconds=seconds),
            id=f"{site}/{probe}",
            replace_existing=True,
        )

    def _dispatch(self) -> None:
        handed_over: set[int] = set()
        while True:
            # By the kernel's own clock. `_stopping.wait` goes by the one that may be set, with an old C library.
            select.select((), (), (), _LOOK_SECONDS)
            if self._stopping.is_set():
                return
            try:
                self._heed_clock()
                with self._store.snapshot() as connection:
                    waiting = {request.id: request for request in requests.waiting(connection)}
                for number in sorted(waiting.keys() - handed_over):
                    self._hand_over(waiting[number])
                # A request waits until its worker begins with it, so that none is lost with this process.
                handed_over = set(waiting)
            except Exception:  # noqa: BLE001 - whatever it was, people still wait
                _log.exception("requests could not be looked for; tried again")

    def _heed_clock(self) -> None:
        """Lets no probe wait longer because the clock was set: APScheduler knows times of that clock alone."""
        jump = self._clock_watch.jump()
        if jump > 0:
            _log.warning("this machine's clock was set forward by %.0f s; what is due by it runs now", jump)
            self._scheduler.wakeup()
        elif jump < 0:
            _log.warning("this machine's clock was set back by %.0f s; probes run when they would have", -jump)
            for job in self._scheduler.get_jobs():
                with suppress(JobLookupError):  # it runs right now
                    job.modify(next_run_time=job.next_run_time + timedelta(seconds=jump))

    def _hand_over(self, request: Request) -> None:
        worker = self._workers.get(request.site)
        if worker is not None:
            worker.enqueue_request(request)
            return
        outcome = {"error": f"site {request.site} is not in the configuration that serve runs with", "exit_code": 2}
        self._store.write(
            lambda connection: requests.finish(connection, request.id, "failed", outcome, now=time.time())
        )


def settle(config: Config, store: Store) -> None:
    """Settles what a process that died left behind, and starts the counters; the lock must be held."""

    def change(connection: sqlite3.Connection) -> None:
        now = time.time()
        commands.close_lost(connection)
        requests.close_interrupted(connection, now=now)
        submissions.close_interrupted(connection, now=now)
        for site in config.sites:
            counters.add(connection, "jobs_submitted_total", 0, site=site, campaign="")
            counters.add(connection, "remote_commands_throttled_total", 0, site=site)
            for outcome in CONNECT_OUTCOMES:
                counters.add(connection, "ssh_connections_total", 0, site=site, outcome=outcome)
            for parser in ("sacct", "squeue"):
                counters.add(connection, "parse_errors_total", 0, site=site, parser=parser)

    store.write(change)
    sweep_bundles(config.state_dir, store, now=time.time())


def probe_context(site: Site, store: Store) -> ProbeContext:
    """Returns what a site's probes and requests work with."""
    ledger = commands.CommandLedger.for_site(store, site)
    return ProbeContext(site=site, client=ssh_client(site, ledger), store=store, ledger=ledger)


@contextmanager
def acting_alone(config: Config, store: Store, role: str) -> Iterator[None]:
    """Owns the sites for one command, where no `serve` runs.

    Raises:
        OwnerError: another process owns the sites.
    """
    with OwnerLock(config.state_dir, role):
        settle(config, store)
        yield


def carry_out(config: Config, store: Store, number: int, *, tell: Callable[[str], None] = lambda _: None) -> None:
    """Carries out one waiting request in this process; the lock must be held. `tell` is told how far it is."""
    request = store.write(lambda connection: requests.take(connection, number, now=time.time()))
    if request is None:
        return
    context = probe_context(config.site(request.site), store)
    try:
        answer_request(request, context, config, tell=tell)
    finally:
        context.client.close()
