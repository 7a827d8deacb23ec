"""The worker of one site: the only thread that talks to it."""

from __future__ import annotations

import itertools
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from exporter.archive.collect import Collecting
from exporter.campaigns.files import CampaignFiles
from exporter.config import Config
from exporter.errors import RayslurmError, StoreError
from exporter.launch.bundle import sweep as sweep_bundles
from exporter.owner.budgets import Budgets
from exporter.owner.campaigns import Campaigns
from exporter.owner.consequences import Consequences
from exporter.owner.continuations import Continuations
from exporter.owner.perform import perform
from exporter.probes import Probe, ProbeContext, probe_makers
from exporter.store import probe_runs, requests
from exporter.store.requests import Request
from exporter.tunnels.secrets import sweep_secrets

_log = logging.getLogger(__name__)

_PEOPLE, _PROBES, _END = 0, 1, -1

_STORE_PAUSE_SECONDS = 1.0
"""Before a store that could not be written is tried again."""

Schedule = Callable[[str, str, float], None]
"""Asks for a probe of a site to be enqueued in so many seconds."""


@dataclass(frozen=True, slots=True)
class _Hurry:
    """Something changed that a probe may look at early, within its own limits."""

    probe: str


@dataclass(order=True, slots=True)
class _Task:
    rank: int
    number: int
    work: Probe | Request | _Hurry | None = field(compare=False)


class SiteWorker(threading.Thread):
    """Runs the probes of one site, and what people ask of it first, one after the other.

    Args:
        context: the site, the client that lives in this thread alone, and the store.
        config: the whole configuration.
        schedule: asks for the next run of a probe.
        files: the campaigns' files, which all workers share; of its own where left out.
    """

    def __init__(
        self, context: ProbeContext, config: Config, schedule: Schedule, files: CampaignFiles | None = None
    ) -> None:
        super().__init__(name=f"site-{context.site.name}", daemon=True)
        self._context = context
        self._config = config
        self._schedule = schedule
        self._tasks: queue.PriorityQueue[_Task] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._probes: dict[str, Probe] = {name: make() for name, make in probe_makers().items()}
        campaigns = Campaigns(config, files or CampaignFiles(config, context.store))
        looking_after: list[Probe] = [Consequences(), Continuations(config), campaigns, Budgets(config)]
        if config.archive is not None:
            looking_after.append(Collecting(config))
        for probe in looking_after:
            self._probes[probe.name] = probe
        self._queued: set[str] = set()
        self._lock = threading.Lock()
        self.busy_for_person = False
        """Whether it carries out a request right now."""

    def first_delays(self) -> dict[str, float]:
        """Returns in how many seconds each probe should first run.

        At once, unless what the store has of it is still good: a process that is started again and again must not ask
        the site each time.
        """
        context = self._context
        with context.store.snapshot() as connection:
            last = {run.probe: run for run in probe_runs.runs(connection) if run.site == context.site.name}
        delays = {}
        for name, probe in self._probes.items():
            delay = 0.0
            if probe.keeps_seconds and name in last:
                wait = probe.keeps_seconds if last[name].success else probe.delay_after_failure()
                left = last[name].at + context.site.scaled(wait) - context.clock()
                delay = left if 0 < left <= context.site.scaled(wait) else 0.0
            delays[name] = delay
        return delays

    def enqueue_probe(self, name: str) -> None:
        """Puts a probe in the queue; one that waits there already is not put again."""
        with self._lock:
            if name in self._queued:
                return
            self._queued.add(name)
        self._put(_PROBES, self._probes[name])

    def hurry(self, name: str) -> None:
        """Has a probe run early, if it may; from any thread, at once."""
        self._put(_PROBES, _Hurry(name))

    def enqueue_request(self, request: Request) -> None:
        """Puts what a person asked for in the queue, before every probe."""
        self._put(_PEOPLE, request)

    def end(self) -> None:
        """Asks the thread to end after what it is doing."""
        self._put(_END, None)

    def run(self) -> None:
        """Works until it is told to end."""
        while True:
            work = self._tasks.get().work
            if work is None:
                break
            try:
                if isinstance(work, Request):
                    self._answer(work)
                elif isinstance(work, _Hurry):
                    self._let_hurry([work.probe])
                else:
                    self._probe(work)
            except Exception:  # noqa: BLE001 - the worker must live on
                _log.exception("site %s: a task failed in a way it should not", self._context.site.name)
        self._context.client.close()

    def _progress_of(self, request: Request) -> Callable[[str], None]:
        """Returns what writes down how far a request is, and says the first of it in the log."""
        told: list[str] = []

        def tell(text: str) -> None:
            if not told:
                _log.info("site %s: %s: %s", request.site, request.kind, text)
            told[:] = [text]
            with suppress(StoreError):  # it is only for whoever waits
                self._context.store.write(lambda connection: requests.note_progress(connection, request.id, text))

        return tell

    def _let_hurry(self, names: Iterable[str]) -> None:
        for name in names:
            if self._probes[name].hurry(self._context):
                self.enqueue_probe(name)

    def _put(self, rank: int, work: Probe | Request | _Hurry | None) -> None:
        self._tasks.put(_Task(rank, next(self._numbers), work))

    def _probe(self, probe: Probe) -> None:
        with self._lock:
            self._queued.discard(probe.name)
        site, store = self._context.site, self._context.store
        started = time.monotonic()
        error: str | None = None
        reason: str | None = None
        try:
            delay = probe.run(self._context)
        except RayslurmError as fault:
            error, reason = str(fault), fault.reason
            delay = probe.delay_after_failure()
            _log.warning("site %s: probe %s: %s", site.name, probe.name, error)
        except Exception as fault:  # noqa: BLE001 - the worker must live on
            error, reason = f"{type(fault).__name__}: {fault}", "internal"
            delay = probe.delay_after_failure()
            _log.exception("site %s: probe %s failed in a way it should not", site.name, probe.name)
        self._schedule(site.name, probe.name, site.scaled(delay))
        duration = time.monotonic() - started

        def note(connection: sqlite3.Connection) -> None:
            probe_runs.note_run(
                connection,
                site.name,
                probe.name,
                at=self._context.clock(),
                duration_seconds=duration,
                error=error,
                reason=reason,
            )

        store.write(note)
        sweep_secrets(self._config.state_dir, store)
        sweep_bundles(self._config.state_dir, store, now=time.time())

    def _answer(self, waiting: Request) -> None:
        self.busy_for_person = True
        try:
            try:
                request = self._context.store.write(
                    lambda connection: requests.take(connection, waiting.id, now=self._context.clock())
                )
            except StoreError as error:  # a full disk: nothing was begun, and somebody waits
                _log.warning("site %s: the %s waits: %s", waiting.site, waiting.kind, error)
                time.sleep(_STORE_PAUSE_SECONDS)
                self.enqueue_request(waiting)
                return
            if request is None:  # taken back meanwhile
                return
            done = answer_request(request, self._context, self._config, tell=self._progress_of(request))
        finally:
            self.busy_for_person = False
        if done:
            self._let_hurry(self._probes)


def answer_request(request: Request, context: ProbeContext, config: Config, *, tell: Callable[[str], None]) -> bool:
    """Carries out a request and writes down what came of it, whatever that is; True where it was done.

    `tell` is told in words how far it is.
    """
    state = "failed"
    outcome: dict[str, object] = {"error": "rayslurm failed in a way it should not; its log says how", "exit_code": 1}
    try:
        outcome = perform(request, context, config, tell=tell)
        state = "done"
        _log.info("site %s: %s: %s", request.site, request.kind, outcome.get("job_id") or outcome.get("error"))
    except RayslurmError as error:
        outcome = {"error": str(error), "exit_code": error.exit_code}
        _log.warning("site %s: %s failed: %s", request.site, request.kind, error)
    finally:
        context.store.write(
            lambda connection: requests.finish(connection, request.id, state, outcome, now=context.clock())
        )
    return state == "done"
