"""How campaigns' budgets stand, said beforehand, and what follows when a running job costs more than its cap.

All of it is told by the store; only a cancel goes to the site, and only where the spec says so.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from exporter.billing.price import NoPrice
from exporter.budgets import Period
from exporter.campaigns.files import campaign_of
from exporter.campaigns.model import Campaign
from exporter.config import Config
from exporter.errors import ConfigError, OverBudgetError
from exporter.launch.guards import Ceiling, hold, spent_in
from exporter.launch.pricing import Commitment, committed, price_of_spec
from exporter.owner.canceller import Canceller
from exporter.probes import ProbeContext, Unhurried
from exporter.store import campaign_budgets, campaigns, consequences, estimates, partitions
from exporter.store.campaign_budgets import BudgetState, Overdraw
from exporter.store.campaigns import CampaignRow
from exporter.store.capped import Capped, capped
from exporter.store.consequences import Consequence

_log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""Between two looks into the store."""

FRESH_SECONDS = 1200.0
"""How old an estimate may be by which a job is said to cost more than its cap."""


@dataclass(slots=True)
class Budgets(Unhurried):
    """Looks after the money of one site's campaigns and capped jobs; run like a probe, in its site's worker.

    Attributes:
        config: the whole configuration.
        monotonic: a clock that never jumps, in seconds.
    """

    config: Config
    monotonic: Callable[[], float] = time.monotonic
    name: str = "budgets"
    keeps_seconds: float = 0
    _canceller: Canceller = field(init=False)

    def __post_init__(self) -> None:
        self._canceller = Canceller(self.monotonic)

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        site, now = context.site.name, context.clock()
        with context.store.snapshot() as connection:
            waiting = committed(connection, self.config.resolved_sites)
            known = [row for row in campaigns.campaigns(connection, site) if row.present]
            states: list[BudgetState] = []
            overdraws: list[Overdraw] = []
            for row in known:
                found, overdraw = self._stand(connection, row, waiting, now=now)
                states += found
                overdraws += [overdraw] if overdraw else []
            over = [
                (job, reason)
                for job in capped(connection, site)
                if (reason := _over_cap(connection, job, scaled=context.site.scaled, now=now))
            ]
            kept = (
                [one for one in campaign_budgets.states(connection) if one.site == site],
                [one for one in campaign_budgets.overdraws(connection) if one.site == site],
            )
        if kept != (sorted(states, key=lambda one: (one.campaign, one.period)), overdraws):
            context.store.write(
                lambda connection: campaign_budgets.replace_all(connection, site, states, overdraws, now=now)
            )
        self._canceller.keep_only({job.job_id for job, _ in over})
        for job, reason in over:
            self._follow(context, job, reason)
        return LOOK_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return LOOK_SECONDS

    def _stand(
        self, connection: sqlite3.Connection, row: CampaignRow, waiting: Sequence[Commitment], *, now: float
    ) -> tuple[list[BudgetState], Overdraw | None]:
        """Returns how a campaign's budgets stand, and whether its next run would be refused; None isn't known."""
        campaign = campaign_of(row)
        spec, count = campaign.spec(next(campaign.points())), sum(1 for _ in campaign.points())
        try:
            site = self.config.site(spec.site)
            price = price_of_spec(spec, site, partitions.listing(connection, spec.site))
        except ConfigError:
            return [], None
        if isinstance(price, NoPrice):
            return [], None
        going = [run for run in campaigns.active(connection, row.site) if run.campaign == row.name]
        limits = {} if campaign.budget is None else campaign.budget.limits
        ceiling = Ceiling(row.name, f"{going[0].due:.3f}" if going else "", limits, campaign.schedule.timezone)
        states = [
            _state(connection, row, ceiling, period, waiting, kind=price.kind, unit=price.unit, now=now)
            for period in limits
        ]
        overdraw = None
        if row.next_due is not None and not row.rests and _is_held(campaign, self.config, spec.site):
            overdraw = Overdraw(row.name, row.site, False, "")
            try:
                # A run of its own, at its time: by then another week or month may have begun.
                hold(
                    connection,
                    spec,
                    self.config,
                    ceiling=replace(ceiling, run=""),
                    now=max(now, row.next_due),
                    jobs=count,
                )
            except OverBudgetError as error:
                overdraw = Overdraw(row.name, row.site, True, str(error))
        return states, overdraw

    def _follow(self, context: ProbeContext, job: Capped, reason: str) -> None:
        """Notes that a job costs more than its cap, and has it cancelled where its spec says so."""
        with context.store.snapshot() as connection:
            known = {one.condition: one for one in consequences.of_job(connection, job.site, job.job_id)}
        if any(one.state == "cancelled" for one in known.values()):
            return
        cancels, before = job.spec.get("on_max_units") == "cancel", known.get("over_cap")
        state: Literal["cancelling", "reported"] = "cancelling" if cancels else "reported"
        following = Consequence(job.site, job.job_id, "over_cap", state, reason, context.clock())
        if before is None or before.state != state:
            context.store.write(lambda connection: consequences.note(connection, following))
            _log.warning("site %s: job %s: %s", job.site, job.job_id, reason)
        if cancels:
            self._canceller.cancel(context, following)


def _state(
    connection: sqlite3.Connection,
    row: CampaignRow,
    ceiling: Ceiling,
    period: Period,
    waiting: Sequence[Commitment],
    *,
    kind: str,
    unit: str,
    now: float,
) -> BudgetState:
    limit = ceiling.limits[period]
    spent = spent_in(connection, ceiling, period, waiting, kind=kind, unit=unit, now=now)
    return BudgetState(row.name, row.site, period, kind, unit, limit, limit - float(spent.total))


def _is_held(campaign: Campaign, config: Config, site: str) -> bool:
    """Tells whether anything is set that a run could overdraw."""
    project = campaign.cluster.project or config.site(site).settings.project
    return campaign.budget is not None or campaign.max_units is not None or project in config.floors


def _over_cap(
    connection: sqlite3.Connection, job: Capped, *, scaled: Callable[[float], float], now: float
) -> str | None:
    """Returns why a running job costs more than its cap; None where it doesn't, or that isn't known."""
    estimate = estimates.of_job(connection, job.site, job.job_id)
    if estimate is None or estimate.units is None or not 0 <= now - estimate.at <= scaled(FRESH_SECONDS) + 60:
        return None
    cap = float(job.spec["max_units"])
    if estimate.units <= cap:
        return None
    return f"it has cost {estimate.units:.2f} {estimate.kind} {estimate.unit} so far, and its max_units is {cap:g}"
