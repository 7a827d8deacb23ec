"""Whether a launch may cost what it does: held against its own cap, its campaign's budget and its project's floor.

What it may cost is its price at the time limit. It is added to what is paid and to what the jobs that wait or run may
cost, each at its own limit. That is written down in the same transaction as the intention, so of two launches that race
for the last units one is refused. What isn't known holds nothing: a launch whose price isn't known is refused where
anything is to be held.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from zoneinfo import ZoneInfo

from exporter.billing.price import NoPrice, Price
from exporter.budgets import PERIODS, Period, period_start
from exporter.config import Config, Site
from exporter.errors import OverBudgetError
from exporter.launch.pricing import Commitment, committed, price_of_spec
from exporter.launch.render import project_of
from exporter.launch.spec import Spec
from exporter.store import balances, holds, partitions
from exporter.store.chains import Chain
from exporter.store.db import Store
from exporter.store.holds import Cost, Hold

LAG_SECONDS = 2 * 3600.0
"""How far a balance may lag behind what was used: it is refreshed about hourly, and read twice an hour."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A campaign's budget, as one of its launches is held against it.

    Attributes:
        campaign: its name.
        run: which of its runs is launched; what a run cost is known by this name.
        limits: what may be spent, by period.
        timezone: by whose clock weeks and months begin.
    """

    campaign: str
    run: str = ""
    limits: Mapping[Period, float] = field(default_factory=dict)
    timezone: str = "UTC"


def ceiling_of(connection: sqlite3.Connection, chain: Chain) -> Ceiling | None:
    """Returns the budget by which a chain began, which holds for each job that goes on with it; None where none did."""
    kept = holds.of_token(connection, chain.token)
    if kept is None or not kept.limits:
        return None
    limits = {period: kept.limits[period] for period in PERIODS if period in kept.limits}
    return Ceiling(chain.links[0].submission.campaign, kept.run, limits, kept.timezone)


@dataclass(frozen=True, slots=True)
class Sum:
    """What is spent of something and held for it.

    Attributes:
        paid: the bills that are there.
        held: what jobs may cost that wait or run, or whose bill isn't there.
        jobs: how many those are.
        unknown: what of them costs nobody knows what, by name.
    """

    paid: Decimal
    held: Decimal
    jobs: int
    unknown: tuple[str, ...] = ()

    @property
    def total(self) -> Decimal:
        """Both together."""
        return self.paid + self.held


def hold(
    connection: sqlite3.Connection,
    spec: Spec,
    config: Config,
    *,
    ceiling: Ceiling | None = None,
    over_budget: bool = False,
    now: float | None = None,
    jobs: int = 1,
) -> tuple[Hold | None, list[str]]:
    """Holds a launch against all that is set for its money.

    Args:
        connection: of the transaction that writes its journal row; or of a snapshot, to know beforehand.
        spec: what is to be launched.
        config: where floors stand.
        ceiling: its campaign's budget; None where it belongs to none.
        over_budget: launch all the same, because a person says so.
        now: epoch seconds; this machine's clock where left out.
        jobs: how many such jobs there are to be.

    Returns:
        What is to be kept with the journal row, None where the price isn't known; and what to tell whoever launches it
        over a budget.

    Raises:
        OverBudgetError: it would cost more than is set; says how the sum comes about.
        ConfigError: neither spec nor site names a project or a partition.
    """
    now = time.time() if now is None else now
    site = config.site(spec.site)
    price = price_of_spec(spec, site, partitions.listing(connection, site.name))
    if isinstance(price, Price) and jobs != 1:
        price = price.times(jobs)
    project = project_of(spec, site)
    refused = list(_refusals(connection, spec, config, price, project=project, ceiling=ceiling, jobs=jobs, now=now))
    if refused and not over_budget:
        way = "rayslurm launch --over-budget" if ceiling is None else "raise what is set, or wait for the next period"
        raise OverBudgetError("; ".join(refused) + f". Nothing was submitted. To launch it all the same: {way}")
    warnings = [f"launched all the same, though {text}" for text in refused]
    if isinstance(price, NoPrice):
        return None, warnings
    kept = Hold(price.kind, price.unit, float(price.units), over=bool(refused))
    if ceiling is not None:
        kept = replace(kept, run=ceiling.run, limits=dict(ceiling.limits.items()), timezone=ceiling.timezone)
    return kept, warnings


def held(
    spec: Spec,
    config: Config,
    store: Store | None,
    *,
    over_budget: bool = False,
    ceiling: Ceiling | None = None,
    jobs: int = 1,
) -> list[str]:
    """Holds a launch as `hold` does, to know beforehand; returns what to tell whoever launches it over a budget.

    Where there is no store yet nothing is known of balances, and nothing is paid or waits.

    Raises:
        OverBudgetError: it would be refused.
        ConfigError: neither spec nor site names a project or a partition.
    """
    if store is None:
        return []
    with store.snapshot() as connection:
        return hold(connection, spec, config, over_budget=over_budget, ceiling=ceiling, jobs=jobs)[1]


def _refusals(
    connection: sqlite3.Connection,
    spec: Spec,
    config: Config,
    price: Price | NoPrice,
    *,
    project: str,
    ceiling: Ceiling | None,
    jobs: int,
    now: float,
) -> Iterator[str]:
    """Yields why a launch may not cost what it does."""
    floors = config.floors.get(project, {})
    held = [
        *(["max_units"] if spec.max_units is not None else []),
        *([f"the budget of campaign {ceiling.campaign}"] if ceiling is not None and ceiling.limits else []),
        *([f"floors.{project}"] if floors else []),
    ]
    if not held:
        return
    if isinstance(price, NoPrice):
        yield f"what it costs isn't known ({price.reason}), so {' and '.join(held)} can't be held"
        return
    if spec.max_units is not None and price.units > Decimal(str(spec.max_units)) * jobs:
        yield (
            f"it may cost {_units(price.units)} {price.kind} {price.unit} at its time limit, and its max_units is "
            f"{spec.max_units:g}"
        )
    waiting = committed(connection, config.resolved_sites)
    if ceiling is not None and ceiling.limits:
        yield from _over_budget(connection, ceiling, price, waiting, now=now)
    for kind, floor in floors.items():
        if kind == price.kind:
            site = config.site(spec.site)
            yield from _under_floor(connection, site, price, waiting, project=project, floor=floor, now=now)


def _over_budget(
    connection: sqlite3.Connection, ceiling: Ceiling, price: Price, waiting: Sequence[Commitment], *, now: float
) -> Iterator[str]:
    for period, limit in ceiling.limits.items():
        spent = spent_in(connection, ceiling, period, waiting, kind=price.kind, unit=price.unit, now=now)
        what = f"campaign {ceiling.campaign}: its budget.{period} is {limit:g} {price.kind} {price.unit}"
        if spent.unknown:
            yield f"{what}, and what {', '.join(spent.unknown)} costs isn't known, so it can't be held"
        elif spent.total + price.units > Decimal(str(limit)):
            yield (
                f"{what}; {_units(spent.paid)} are paid, {_jobs(spent)} may cost {_units(spent.held)}, and this launch "
                f"{_units(price.units)} at its time limit: {_units(spent.total + price.units)} together"
            )


def spent_in(
    connection: sqlite3.Connection,
    ceiling: Ceiling,
    period: Period,
    waiting: Sequence[Commitment],
    *,
    kind: str,
    unit: str,
    now: float,
) -> Sum:
    """Returns what a campaign's jobs of a period cost, in one kind and unit.

    Of a job without a bill it is the most of what it was priced at its launch and is now.

    Args:
        connection: of a snapshot or a transaction.
        ceiling: the campaign, and which of its runs counts as `run`.
        period: which.
        waiting: all that isn't paid, from `pricing.committed`.
        kind: of what is added up; bills of another kind count for nothing here.
        unit: likewise.
        now: epoch seconds.
    """
    since = period_start(period, now, ZoneInfo(ceiling.timezone))
    costs = holds.costs_of_campaign(
        connection,
        ceiling.campaign,
        since=float("inf") if period == "run" else since,
        run=ceiling.run if period == "run" else "",
    )
    now_priced = {one.token: one for one in waiting if one.token is not None}
    paid = held = Decimal(0)
    count, unknown = 0, []
    for cost in costs:
        if cost.paid is not None:
            paid += Decimal(str(cost.paid[2])) if cost.paid[:2] == (kind, unit) else 0
            continue
        amounts = _amounts(cost, now_priced.get(cost.token), kind, unit)
        if amounts:
            held += max(amounts)
            count += 1
        elif cost.held is None and not cost.ended:
            waits = now_priced.get(cost.token)
            if waits is None or isinstance(waits.price, NoPrice):
                unknown.append(f"{waits.site}/{waits.job_id}" if waits and waits.job_id else cost.token)
    return Sum(paid, held, count, tuple(unknown))


def _amounts(cost: Cost, waits: Commitment | None, kind: str, unit: str) -> list[Decimal]:
    """Returns what a job may cost, by its launch and by the queue."""
    found = []
    if cost.held is not None and cost.held[:2] == (kind, unit):
        found.append(Decimal(str(cost.held[2])))
    if waits is not None and isinstance(waits.price, Price) and (waits.price.kind, waits.price.unit) == (kind, unit):
        found.append(waits.price.units)
    return found


def _under_floor(
    connection: sqlite3.Connection,
    site: Site,
    price: Price,
    waiting: Sequence[Commitment],
    *,
    project: str,
    floor: float,
    now: float,
) -> Iterator[str]:
    what = f"{project}: floors keeps {floor:g} {price.kind} {price.unit}"
    provider = None if site.profile.balance is None else site.profile.balance.provider
    told = [
        one
        for one in balances.balances(connection)
        if (one.provider, one.project, one.kind, one.unit) == (provider, project, price.kind, price.unit)
    ]
    read = next(
        (one.read for one in balances.projects(connection) if (one.provider, one.project) == (provider, project)), None
    )
    if not told or told[0].remaining is None or read is None:
        why = "it was never read" if read is None else "nothing is granted, or the provider doesn't tell"
        yield f"{what}, and what is left isn't known ({why}), so it can't be held"
        return
    mine = [one for one in waiting if one.project in {None, project}]
    unknown = [f"{one.site}/{one.job_id or one.token}" for one in mine if isinstance(one.price, NoPrice)]
    if unknown:
        yield f"{what}, and what {', '.join(unknown)} may cost isn't known, so it can't be held"
        return
    held = [
        one.price.units
        for one in mine
        if isinstance(one.price, Price) and (one.price.kind, one.price.unit) == (price.kind, price.unit)
    ]
    reckoned = min(told[0].updated_time or read, read)
    late = holds.late_costs(connection, project, price.kind, price.unit, since=reckoned - LAG_SECONDS)
    remaining = Decimal(str(told[0].remaining))
    taken = sum(held, Decimal(0)) + sum((Decimal(str(units)) for units in late), Decimal(0))
    left = remaining - taken - price.units
    if left < Decimal(str(floor)):
        parts = [f"{_units(remaining)} are left by its provider ({_ago(now - read)} ago)"]
        parts += [f"{_count(len(held))} that wait or run may cost {_units(sum(held, Decimal(0)))}"] if held else []
        parts += [f"{_count(len(late))} ended lately and cost {_units(taken - sum(held, Decimal(0)))}"] if late else []
        parts += [f"this launch may cost {_units(price.units)} at its time limit"]
        yield f"{what}; {', '.join(parts)}: {_units(left)} would be left"


def _jobs(spent: Sum) -> str:
    return f"{_count(spent.jobs)} without a bill yet"


def _count(number: int) -> str:
    return "1 job" if number == 1 else f"{number} jobs"


def _units(units: Decimal) -> str:
    return f"{units:.2f}"


def _ago(seconds: float) -> str:
    minutes = max(0, int(seconds // 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"  # noqa: PLR2004 - up to two hours minutes read well
