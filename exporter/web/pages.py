"""The pages for people: what is known of all sites, and one job's life. They read the store and ask nobody."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from exporter import __version__
from exporter.config import Config
from exporter.efficiency import combined
from exporter.explain.gather import gather
from exporter.funds.projects import funds
from exporter.records import Bill, EfficiencyReport
from exporter.store import (
    bills,
    chains,
    clusters,
    consequences,
    estimates,
    exposure,
    jobs,
    probe_runs,
    reports,
    runs,
    samples,
    submissions,
    supervised,
    tunnel_failures,
    tunnels,
    waste,
)
from exporter.store.chains import Chain
from exporter.store.clusters import RayCluster
from exporter.store.commands import CommandLedger
from exporter.store.consequences import Consequence
from exporter.store.db import Store
from exporter.store.estimates import Estimate
from exporter.store.exposure import Exposure
from exporter.store.jobs import JobRow
from exporter.store.probe_runs import ProbeRun
from exporter.store.runs import Run
from exporter.store.submissions import Submission
from exporter.store.tunnel_failures import Failure
from exporter.store.tunnels import DASHBOARD, Health
from exporter.store.waste import Waste
from exporter.web import shown
from exporter.web.campaigns import schedules

_FULL = 0.95
"""From this share on an area or a balance is marked as nearly used up."""

_FAILURES = 100
"""How many failures of tunnels at one site are shown."""

AREAS_PROBE = "areas"
JOBS_PROBE = "jobs"


@dataclass(frozen=True, slots=True)
class JobView:
    """A job, what it costs, where its dashboard is, how its Ray is, what its supervisor says, its chain, its waste."""

    job: JobRow
    bill: Bill | None
    estimate: Estimate | None
    efficiency: list[EfficiencyReport]
    submission: Submission | None
    tunnels: list[Health]
    exposed: list[Exposure]
    ray: RayCluster | None
    nodes_expected: int | None
    run: Run | None
    chain: Chain | None
    consequences: list[Consequence]
    waste: list[Waste]
    now: float

    @property
    def tunnel(self) -> Health | None:
        """How its dashboard's tunnel is."""
        return next((health for health in self.tunnels if health.tunnel == DASHBOARD), None)

    @property
    def other_tunnels(self) -> list[Health]:
        """How its other tunnels are."""
        return [health for health in self.tunnels if health.tunnel != DASHBOARD]

    @property
    def lacks_nodes(self) -> bool:
        """Whether fewer nodes are alive in its Ray than there should be."""
        alive = self.ray.alive if self.ray else None
        return alive is not None and self.nodes_expected is not None and alive < self.nodes_expected

    @property
    def acted(self) -> str:
        """What rayslurm did about it, or has to say of it."""
        return consequences.in_words(self.job, self.consequences)

    @property
    def open_listeners(self) -> list[str]:
        """What of it everybody at the site reaches, or reached, a sentence each."""
        return supervised.warnings(self.run.open_listeners if self.run else None)

    @property
    def ending(self) -> str:
        """Why it ended."""
        return runs.ending(self.job, self.run, self.acted)

    @property
    def limit_at(self) -> float | None:
        """When a running job reaches its limit."""
        if self.job.state != "running" or self.job.start_time is None or self.job.time_limit_seconds is None:
            return None
        return self.job.start_time + self.job.time_limit_seconds

    @property
    def waited(self) -> float | None:
        """How long it waited, or has waited."""
        until = self.now if self.job.state == "pending" else self.job.start_time
        return None if until is None or self.job.submit_time is None else until - self.job.submit_time

    def ratio(self, name: str) -> float | None:
        """Returns an efficiency, by whichever source tells it."""
        return next((value for one in self.efficiency if (value := getattr(one, name)) is not None), None)

    def source(self, name: str) -> str:
        """Returns which source tells an efficiency; nothing where none does."""
        return next((one.source for one in self.efficiency if getattr(one, name) is not None), "")


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site: its probes, the commands left of this hour, and when its certificate ends."""

    name: str
    title: str
    remaining: int
    limit: int
    probes: list[ProbeRun]
    certificate_end: float | None

    @property
    def unheard(self) -> ProbeRun | None:
        """How asking it for its jobs went, where that failed: what is shown of them is old."""
        return next((run for run in self.probes if run.probe == JOBS_PROBE and not run.success), None)


@dataclass(frozen=True, slots=True)
class ProbesView:
    """A site, its tunnels as they were last found, and their last failures."""

    site: SiteView
    tunnels: list[Health]
    failures: list[Failure]


@dataclass(frozen=True, slots=True)
class AreaView:
    """A disk area, and when it was last read."""

    site: str
    path: str
    project: str
    values: dict[str, float]
    read: float | None

    def share(self, what: str) -> float | None:
        """Returns the used share of `bytes` or `files`."""
        used, limit = self.values.get(f"storage_used_{what}"), self.values.get(f"storage_limit_{what}")
        return None if used is None or not limit else used / limit

    @property
    def remark(self) -> str:
        """What is used up of it, or nearly; nothing where nothing is."""
        found = []
        for what, words in (("bytes", "space"), ("files", "files")):
            share = self.share(what) or 0
            if share > 1:
                found.append(f"{words} over the limit")
            elif share >= _FULL:
                found.append(f"{words} nearly used up")
        return ", ".join(found)


class Pages:
    """Makes the pages.

    Args:
        store: what is read.
        config: what bounds it.
        clock: gives UTC epoch seconds.
    """

    def __init__(self, store: Store, config: Config, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._templates = Environment(
            loader=PackageLoader("exporter.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._templates.globals.update(
            length=shown.length, moment=shown.moment, exactly=shown.exactly, at=shown.at, day=shown.day,
            amount=shown.amount, size=shown.size, percent=shown.percent, text=shown.text, tunnel=shown.tunnel,
            no_use=shown.no_use, version=__version__,
        )  # fmt: skip

    def front(self, *, still: bool = False) -> str:
        """Returns the page on everything.

        Args:
            still: whether it is one that doesn't renew itself.

        Raises:
            StoreError: the store cannot be read.
        """
        now = self._clock()
        with self._store.snapshot() as connection:
            rows, omitted = jobs.visible(
                connection,
                now=now,
                keep_finished=self._config.metrics.keep_finished,
                max_finished=self._config.metrics.max_jobs,
            )
            views = self._views(connection, [job for job in rows if job.site in self._config.sites], now)
            doubtful = submissions.unsettled(connection) + submissions.troubled(connection)
            sites = [self._site(connection, name, now) for name in self._config.sites]
            told = funds(connection, self._config, now=now)
            areas = self._areas(connection)
            planned = schedules(connection, self._config.sites, now=now)
        return self._render(
            "front.html", now, still, sites=sites, balances=told, areas=areas, omitted=omitted, doubtful=doubtful,
            schedules=planned,
            going=[view for view in views if not view.job.final], ended=[view for view in views if view.job.final],
        )  # fmt: skip

    def job(self, site: str, job_id: str, *, still: bool = False) -> str | None:
        """Returns the page on one job; None where none of that name is followed.

        Args:
            site: the site's name.
            job_id: the job's id there.
            still: whether it is a page that doesn't renew itself.

        Raises:
            StoreError: the store cannot be read.
        """
        now = self._clock()
        with self._store.snapshot() as connection:
            views = self._views(connection, jobs.find(connection, job_id, site), now)
            views = [replace(view, submission=_launched(connection, view.job)) for view in views]
            told = views and site in self._config.sites  # without its site's rate there is nothing to advise
            advised = gather(connection, self._config, site, job_id, now=now).advised if told else None
        return self._render("job.html", now, still, view=views[0], advised=advised) if views else None

    def probes(self, *, still: bool = False) -> str:
        """Returns the page on the probes: of sites how they last went, of tunnels their last failures.

        Args:
            still: whether it is a page that doesn't renew itself.

        Raises:
            StoreError: the store cannot be read.
        """
        now = self._clock()
        with self._store.snapshot() as connection:
            sites = [self._site(connection, name, now) for name in self._config.sites]
            opened = tunnels.current(connection, now=now)
            failures = {name: tunnel_failures.latest(connection, name, most=_FAILURES) for name in self._config.sites}
        views = [
            ProbesView(site, [health for health in opened if health.site == site.name], failures[site.name])
            for site in sites
        ]
        return self._render("probes.html", now, still, views=views)

    def message(self, title: str, words: str, *, still: bool = False) -> str:
        """Returns a page that says one thing.

        Args:
            title: what it is about.
            words: the thing.
            still: whether it is a page that doesn't renew itself.
        """
        return self._render("message.html", self._clock(), still, title=title, words=words)

    def style(self) -> str:
        """Returns the style sheet."""
        return self._templates.get_template("style.css").render()

    def _render(self, template: str, now: float, still: bool, **values: Any) -> str:
        # Who stopped the renewal has it stopped on the pages that this one leads to.
        return self._templates.get_template(template).render(now=now, query="?still" if still else "", **values)

    def _views(self, connection: sqlite3.Connection, rows: list[JobRow], now: float) -> list[JobView]:
        ours = {(row.site, row.job_id): row for row in submissions.settled(connection)}
        health = tunnels.by_job(connection, now=now)
        exposed = exposure.of_jobs(connection, now=now)
        rays, expected = clusters.current(connection, now=now), clusters.expected(connection)
        chained = chains.of_jobs(connection, rows)
        return [
            JobView(
                job,
                bills.of_job(connection, job.site, job.job_id) if job.final else None,
                None if job.final else estimates.of_job(connection, job.site, job.job_id),
                combined(reports.of_job(connection, job.site, job.job_id)) if job.final else [],
                ours.get(identity),
                health.get(identity, []),
                exposed.get(identity, []),
                rays.get(identity),
                expected.get(identity),
                runs.of_job(connection, job.site, job.job_id),
                chained.get(identity),
                consequences.of_job(connection, job.site, job.job_id),
                waste.of_job(connection, job),
                now,
            )
            for job in rows
            for identity in [(job.site, job.job_id)]
        ]

    def _site(self, connection: sqlite3.Connection, name: str, now: float) -> SiteView:
        site = self._config.resolved_sites[name]
        ledger = CommandLedger.for_site(self._store, site, clock=lambda: now)
        ends = [
            sample.value
            for at, sample in samples.read(connection)
            if at == name and sample.name == "ssh_certificate_expiry_timestamp_seconds"
        ]
        return SiteView(
            name,
            site.profile.title,
            ledger.remaining(connection),
            ledger.limit,
            [run for run in probe_runs.runs(connection) if run.site == name],
            ends[0] if ends else None,
        )

    def _areas(self, connection: sqlite3.Connection) -> list[AreaView]:
        # Each good run of a probe replaces what it found before, so what stands there is as old as that run.
        read = {run.site: run.last_success for run in probe_runs.runs(connection) if run.probe == AREAS_PROBE}
        found: dict[tuple[str, str], AreaView] = {}
        for site, sample in samples.read(connection):
            if site in self._config.sites and "area" in sample.labels:
                path = sample.labels["area"]
                view = found.setdefault(
                    (site, path), AreaView(site, path, sample.labels.get("project", ""), {}, read.get(site))
                )
                view.values[sample.name] = sample.value
        return list(found.values())


def _launched(connection: sqlite3.Connection, job: JobRow) -> Submission | None:
    """Returns the submission that a job came of, also when it has ended."""
    tracked = jobs.tracked(connection, job.site, job.root_id)
    return submissions.get(connection, tracked.token) if tracked is not None and tracked.token is not None else None
