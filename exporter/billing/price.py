"""What something is going to cost: the site's rate of a partition, applied to amounts and a length of time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from exporter.billing.charge import BILLING_KIND, BILLING_UNIT, Amounts, charge, unknown_amounts
from exporter.sites.profile import SiteProfile
from exporter.sites.rates import rule

WHOLE_GPU = "gpu"
"""The type under which GPUs are counted that nobody gave one: whole ones, which are the dearest."""

_WORDS = {
    "nodes": "how many nodes it has",
    "cores": "how many cores it has",
    "memory": "how much memory it has",
    "nvme": "how much storage it has reserved",
    "gpus": "how many GPUs of which type it has",
}


@dataclass(frozen=True, slots=True)
class Price:
    """What something costs, in one kind of units; kinds and units are never added up.

    Attributes:
        units: how many.
        kind: which budget pays: `cpu`, `gpu`, or `billing` where the site has no rates.
        unit: what is paid in: `BU`, `core-hours`, `gpu-hours`, or `billing-hours` where the site has no rates.
        rule: the rate, per hour, as people write it.
        source: whose rate it is, with page and date.
        units_per_hour: how many an hour.
        components: what each part of the rate adds, by what it counts.
    """

    units: Decimal
    kind: str
    unit: str
    rule: str
    source: str
    units_per_hour: Decimal
    components: tuple[tuple[str, Decimal], ...] = ()

    def times(self, count: int) -> Price:
        """Returns the price of several that are alike."""
        parts = tuple((name, units * count) for name, units in self.components)
        return replace(self, units=self.units * count, units_per_hour=self.units_per_hour * count, components=parts)


@dataclass(frozen=True, slots=True)
class NoPrice:
    """A price that isn't known.

    Attributes:
        reason: why, as a part of a sentence for people.
    """

    reason: str


def price(profile: SiteProfile, partition: str, amounts: Amounts, seconds: float) -> Price | NoPrice:
    """Returns what amounts cost in a partition for so many seconds.

    Args:
        profile: the site, with what the user wrote over it.
        partition: one, or several separated by commas: the job runs in one of them, so the dearest counts.
        amounts: in all, not per node.
        seconds: for how long.
    """
    return dearest(_price(profile, name, amounts, seconds) for name in partition.split(","))


def price_by_billing(billing: float, seconds: float) -> Price:
    """Returns what a job costs where the site has no rates.

    Args:
        billing: the `billing` of what it is allocated.
        seconds: for how long.
    """
    per_hour = Decimal(str(billing))
    units = per_hour * Decimal(str(seconds)) / 3600
    rule_text = "billing TRES * hours"
    source = "Slurm's own weights (TRESBillingWeights); the site has no rates"
    return Price(units, BILLING_KIND, BILLING_UNIT, rule_text, source, per_hour, (("billing", units),))


def dearest(prices: Iterable[Price | NoPrice]) -> Price | NoPrice:
    """Returns the highest of prices of which one will be paid; unknown where one is, or where they differ in kind."""
    found: Price | None = None
    for one in prices:
        if isinstance(one, NoPrice):
            return one
        if found is not None and (one.kind, one.unit) != (found.kind, found.unit):
            return NoPrice(f"it may be paid in {found.kind} {found.unit} or in {one.kind} {one.unit}")
        if found is None or one.units > found.units:
            found = one
    return found or NoPrice("no partition is named")


def _price(profile: SiteProfile, partition: str, amounts: Amounts, seconds: float) -> Price | NoPrice:
    rate = profile.rate(partition)
    if rate is None:
        of_what = f"partition {partition} of {profile.name}" if profile.rates else f"the site {profile.name}"
        return NoPrice(f"no rate is known for {of_what}")
    cost = charge(rate, amounts, seconds)
    if cost is None:
        missing = " and ".join(_WORDS[amount] for amount in unknown_amounts(rate, amounts))
        return NoPrice(f"{partition} costs {rule(rate)} an hour, and {missing} isn't known")
    hourly = charge(rate, amounts, 3600)
    assert hourly is not None  # noqa: S101 - the same amounts
    return Price(cost.units, rate.kind, rate.unit, rule(rate), str(rate.source), hourly.units, cost.components)
