"""The campaigns of one site at work: their times become runs, runs become jobs, and what became of these is noted.

All of it is in the store before anything is sent, and a job's launch has a key: whatever dies, whenever, each time of a
schedule gives one run or one counted miss, and each job of a run is submitted once.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from exporter.campaigns.due import decide_times, moment
from exporter.campaigns.endings import ending, obsolete, outcome, withdraw
from exporter.campaigns.files import CampaignFiles, campaign_of
from exporter.campaigns.model import Campaign
from exporter.campaigns.schedule import times
from exporter.config import Config
from exporter.errors import (
    BudgetExhaustedError,
    CommandError,
    ConfigError,
    InputError,
    OverBudgetError,
    RayslurmError,
    RefusedError,
)
from exporter.launch.guards import Ceiling
from exporter.launch.launcher import Launcher
from exporter.owner.continuations import for_good
from exporter.probes import ProbeContext, Unhurried
from exporter.store import campaigns, submissions
from exporter.store.campaigns import CampaignRow, JobPoint, RunRow

_log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""Between two looks into the store, unless a time of a schedule comes earlier."""

LAUNCHES_PER_LOOK = 5
"""Other work of the site has its turn in between."""

RETRY_SECONDS = (60.0, 120.0, 240.0, 480.0, 900.0, 1800.0, 3600.0)
"""How long to wait after each time that a job could not be launched: the way to the site, its budget, a limit of it."""

TRIES_MOST = 40
"""After so many, which take more than a day, a job counts as refused by the site."""

_REFRESH_SECONDS = 3600.0

MACHINE_STATES = frozenset({"node_fail", "preempted", "boot_fail"})
"""How a job ends that may be launched again: not by itself."""


@dataclass(slots=True)
class Campaigns(Unhurried):
    """Looks after the campaigns of one site; run like a probe, in its site's worker.

    Attributes:
        config: the whole configuration.
        files: the campaigns' files, for all sites.
    """

    config: Config
    files: CampaignFiles
    name: str = "campaigns"
    keeps_seconds: float = 0

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        site = context.site.name
        if self.files.changed():
            for path, error in self.files.take_in(now=context.clock()).items():
                _log.warning("campaigns: %s: the last good one stays: %s", path, error)
        next_due = self._decide(context)
        with context.store.snapshot() as connection:
            mine = {run.campaign for run in campaigns.active(connection, site)}
            going = [run for run in campaigns.active(connection) if run.campaign in mine]
        launches = LAUNCHES_PER_LOOK
        fault: RayslurmError | None = None
        for _, runs in itertools.groupby(going, key=lambda run: run.campaign):
            try:
                launches = self._go_on(context, list(runs), launches)
            except RayslurmError as error:  # the others' turn all the same
                fault = error
        if fault is not None:
            raise fault
        if next_due is None:
            return LOOK_SECONDS
        # Times are this machine's, also where a practice site's clock runs faster.
        left = max(next_due - context.clock(), 0.1)
        return min(LOOK_SECONDS, left * context.site.settings.practice_clock_factor)

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return LOOK_SECONDS

    def hurry(self, context: ProbeContext) -> bool:
        """See `Probe.hurry`: a file may have been written, or a campaign paused."""
        del context
        return True

    def run_now(self, context: ProbeContext, name: str) -> dict[str, Any]:
        """Begins a run of a campaign at once, and launches the first of its jobs.

        Args:
            context: of the campaign's site.
            name: the campaign's.

        Returns:
            `campaign`, `site`, `due`, the time it counts as in epoch seconds, and `jobs`: of each `point`,
            `parameters`, `state`, `job_id` and `reason`.

        Raises:
            ConfigError: its file is broken.
            InputError: there is no such campaign.
            RefusedError: a run of it goes on, and its file forbids another one beside that.
            RayslurmError: the site could not be reached; the run goes on when it can.
        """
        errors = self.files.take_in(now=context.clock())
        with context.store.snapshot() as connection:
            row = campaigns.find(connection, name)
        if row is None or not row.present:
            raise InputError(f"there is no campaign {name}; `rayslurm campaigns list` shows those there are")
        if row.file in errors:
            raise ConfigError(errors[row.file])
        campaign, due = campaign_of(row), context.clock()

        def begin(connection: sqlite3.Connection) -> RunRow:
            going = [run for run in campaigns.active(connection) if run.campaign == name]
            if going and campaign.concurrency == "forbid":
                raise RefusedError(
                    f"campaign {name}: its run of {moment(going[0].due)} still goes on (concurrency: forbid); cancel "
                    "its jobs, or wait"
                )
            campaigns.start(connection, row, due, campaign.points(), manual=True, now=due)
            return next(run for run in campaigns.active(connection, row.site) if (run.campaign, run.due) == (name, due))

        context.store.write(begin)
        with context.store.snapshot() as connection:
            going = [run for run in campaigns.active(connection) if run.campaign == name]
        self._go_on(context, going, LAUNCHES_PER_LOOK)
        with context.store.snapshot() as connection:
            run = next(run for run in campaigns.history(connection, name, most=1000) if run.due == due)
            jobs_told = [_point_json(connection, point) for point in campaigns.jobs_of(connection, run)]
        return {"campaign": name, "site": row.site, "due": due, "jobs": jobs_told}

    def _decide(self, context: ProbeContext) -> float | None:
        """Decides what comes of the times that have come; returns the site's next one."""
        site = context.site.name
        with context.store.snapshot() as connection:
            known = campaigns.campaigns(connection, site)
        upcoming: list[float] = []
        for row in known:
            if not row.present:
                continue
            try:
                campaign = campaign_of(row)
            except ConfigError:  # by an earlier version; its file is told as broken, or was mended since
                continue
            now = context.clock()
            next_due = next(times(campaign, after=now), None)

            def change(
                connection: sqlite3.Connection,
                row: CampaignRow = row,
                campaign: Campaign = campaign,
                now: float = now,
                next_due: float | None = next_due,
            ) -> None:
                decide_times(connection, row, campaign, now=now, next_due=next_due)

            if row.next_due != next_due or row.decided + _REFRESH_SECONDS < now:
                context.store.write(change)
            if next_due is not None and not row.rests:
                upcoming.append(next_due)
        return min(upcoming, default=None)

    def _go_on(self, context: ProbeContext, runs: Sequence[RunRow], launches: int) -> int:
        """Looks after the runs of one campaign, oldest first; returns how many jobs may still be launched now."""
        first = True
        for run in runs:
            if run.site != context.site.name:  # its file named another site then, whose worker looks after it
                first = False
                continue
            with context.store.snapshot() as connection:
                points = [(point, ending(connection, run, point)) for point in campaigns.jobs_of(connection, run)]
                row = campaigns.find(connection, run.campaign)
            campaign = campaign_of(run)
            for number, (point, seen) in enumerate(points):
                if seen is not None:
                    points[number] = (_settle(context, campaign, point, *seen), None)
            gone = obsolete(row, run)
            if gone is not None and any(point.state == "waiting" for point, _ in points):
                # It came back to wait after that was noted: the machine ended it, or it was found absent.
                context.store.write(
                    lambda connection, run=run, gone=gone: withdraw(connection, run, gone, now=context.clock())  # type: ignore[misc]  # a lambda with defaults
                )
            elif gone is None and first and row is not None and (run.manual or not row.rests):
                launches = self._launch_some(context, campaign, run, [point for point, _ in points], launches)
            with context.store.snapshot() as connection:
                now_points = campaigns.jobs_of(connection, run)
            if all(point.state in campaigns.OUTCOMES for point in now_points):
                came_to = context.store.write(
                    lambda connection, run=run, points=now_points: campaigns.finish(  # type: ignore[misc]  # a lambda with defaults
                        connection, run, points, now=context.clock()
                    )
                )
                _log.info("site %s: campaign %s: its run of %s: %s", run.site, run.campaign, moment(run.due), came_to)
            elif run.manual or row is None or not row.rests or any(point.state == "launched" for point in now_points):
                first = False  # what comes after it waits, unless it is itself held back
        return launches

    def _launch_some(
        self, context: ProbeContext, campaign: Campaign, run: RunRow, points: Sequence[JobPoint], launches: int
    ) -> int:
        going = sum(point.state == "launched" for point in points)
        for point in points:
            if point.state != "waiting" or point.not_before > context.clock():
                continue
            if going >= campaign.at_once or launches <= 0:
                break
            launches -= 1
            going += self._launch(context, campaign, run, point)
        return launches

    def _launch(self, context: ProbeContext, campaign: Campaign, run: RunRow, point: JobPoint) -> bool:
        """Launches one job; True where it goes on."""
        launcher = Launcher(self.config, context.store, context.clock)
        # One that was submitted when rayslurm died is there, whatever would be refused by now.
        with context.store.snapshot() as connection:
            found = submissions.of_key(connection, point.key)
        try:
            if found is None:
                with context.client.for_person(at_once=False):
                    found = launcher.launch(
                        context.client,
                        campaign.spec(dict(point.parameters)),
                        campaign=run.campaign,
                        ceiling=ceiling(campaign, run),
                        key=point.key,
                    )
        except BudgetExhaustedError as error:
            self._postpone(context, point, str(error))
        except OverBudgetError as error:
            self._refuse(context, run, point, "budget", str(error))
        except RefusedError as error:
            self._refuse(context, run, point, "policy", str(error))
        except ConfigError as error:
            self._refuse(context, run, point, "spec", str(error))
        except CommandError as error:
            if for_good(error) or point.tries >= TRIES_MOST:
                self._refuse(context, run, point, "site", str(error))
            else:
                self._postpone(context, point, str(error))
        except RayslurmError as error:
            self._postpone(context, point, str(error))
            raise
        else:
            token = found.token
            context.store.write(lambda connection: campaigns.launched(connection, point, token, now=context.clock()))
            name = found.job_id or f"({found.state})"
            _log.info("site %s: campaign %s: job %s is launched", run.site, run.campaign, name)
            return True
        return False

    def _postpone(self, context: ProbeContext, point: JobPoint, reason: str) -> None:
        wait = context.site.scaled(RETRY_SECONDS[min(point.tries, len(RETRY_SECONDS) - 1)])
        not_before = context.clock() + wait
        context.store.write(lambda connection: campaigns.postpone(connection, point, reason, not_before=not_before))

    def _refuse(self, context: ProbeContext, run: RunRow, point: JobPoint, why: str, reason: str) -> None:
        _log.warning("site %s: campaign %s: a job is refused: %s", run.site, run.campaign, reason)
        context.store.write(
            lambda connection: campaigns.refuse(connection, run.site, point, why, reason.partition("\n")[0])
        )


def ceiling(campaign: Campaign, run: RunRow) -> Ceiling:
    """Returns the budget that the jobs of a run are held against; without limits where the campaign has none."""
    limits = {} if campaign.budget is None else campaign.budget.limits
    return Ceiling(run.campaign, f"{run.due:.3f}", limits, campaign.schedule.timezone)


def _settle(context: ProbeContext, campaign: Campaign, point: JobPoint, state: str, reason: str | None) -> JobPoint:
    """Notes how a job ended, or has it launched again; returns it as it is then."""
    if state == "absent":  # it never was a job: nothing was spent, so this is no retry of one
        not_before = context.clock() + context.site.scaled(RETRY_SECONDS[0])
        again = replace(point, state="waiting", not_before=not_before)
        context.store.write(
            lambda connection: campaigns.postpone(connection, point, reason or "", not_before=not_before)
        )
        return again
    if state in MACHINE_STATES and point.attempt < campaign.retries.times:
        wait = campaign.retries.back_off * 2**point.attempt
        not_before = context.clock() + context.site.scaled(wait)
        context.store.write(
            lambda connection: campaigns.postpone(
                connection,
                point,
                f"{reason}, so it is launched again",
                not_before=not_before,
                attempt=point.attempt + 1,
            )
        )
        return replace(point, state="waiting", attempt=point.attempt + 1, not_before=not_before)
    counted = outcome(state)
    told = None if counted == "succeeded" else reason
    context.store.write(lambda connection: campaigns.settle(connection, point, counted, told))
    return replace(point, state=counted)


def _point_json(connection: sqlite3.Connection, point: JobPoint) -> dict[str, Any]:
    submission = None if point.token is None else submissions.get(connection, point.token)
    return {
        "point": point.point,
        "parameters": dict(point.parameters),
        "state": point.state,
        "job_id": None if submission is None else submission.job_id,
        "reason": point.reason,
    }
