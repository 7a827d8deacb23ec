"""What a job costs by its site's rates: amounts times prices times hours.

Everything is reckoned in decimals, since bills are compared to the last digit. An amount that a rate needs and nobody
knows makes the charge unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from exporter.records import AccountingRecord, Bill
from exporter.sites.rates import Largest, Part, Rate, Term

BILLING_KIND = "billing"
BILLING_UNIT = "billing-hours"
"""What is counted where a site has no rates: Slurm's `billing` TRES, by which it weighs an allocation, times hours."""

_GIB = Decimal(1 << 30)
_HOUR_SECONDS = Decimal(3600)


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a job was allocated, in all; None is unknown.

    Attributes:
        nodes: whole or in part.
        cores: cores, not hardware threads.
        memory: in GiB.
        nvme: storage that was reserved, in GiB.
        gpus: how many of each type as Slurm calls it; those without a type under "".
    """

    nodes: int | None = None
    cores: Decimal | None = None
    memory: Decimal | None = None
    nvme: Decimal | None = None
    gpus: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Charge:
    """What something costs.

    Attributes:
        units: the sum.
        components: what each part of the rate adds, named by what is counted (of the largest of several, by that one;
            GPUs that have a price of their own by their type), in the rate's order.
    """

    units: Decimal
    components: tuple[tuple[str, Decimal], ...]


def amounts_of(record: AccountingRecord, *, threads_per_core: int = 1) -> Amounts:
    """Returns what accounting says a job was allocated.

    Args:
        record: a job, not a step.
        threads_per_core: hardware threads that the site's accounting counts as CPUs for a core.
    """
    if record.tres_allocated is None:
        return Amounts()
    return amounts_of_tres(record.tres_allocated, nodes=record.alloc_nodes, threads_per_core=threads_per_core)


def amounts_of_tres(tres: Mapping[str, float], *, nodes: int | None = None, threads_per_core: int = 1) -> Amounts:
    """Returns the amounts that Slurm's words for an allocation name.

    Args:
        tres: by name as Slurm has it (`cpu`, `mem` in bytes, `node`, `gres/gpu:a100`).
        nodes: how many there are where `node` isn't among them.
        threads_per_core: hardware threads that the site counts as CPUs for a core.
    """
    return Amounts(
        nodes=int(tres["node"]) if "node" in tres else nodes,
        cores=Decimal(tres["cpu"]) / threads_per_core if "cpu" in tres else None,
        memory=Decimal(tres["mem"]) / _GIB if "mem" in tres else None,
        nvme=_reserved_storage(tres),
        gpus=_gpus(tres),
    )


def charge(rate: Rate, amounts: Amounts, seconds: float) -> Charge | None:
    """Returns what these amounts cost for so many seconds; None where the rate needs an amount that is unknown."""
    hours = Decimal(str(seconds)) / _HOUR_SECONDS
    named = _named_types(rate)
    components = []
    for part in rate.parts:
        per_hour = _part(part, amounts, named)
        if per_hour is None:
            return None
        components.append((per_hour[0], per_hour[1] * hours))
    return Charge(sum((units for _, units in components), Decimal(0)), tuple(components))


def unknown_amounts(rate: Rate, amounts: Amounts) -> list[str]:
    """Returns what of the amounts a rate needs and isn't known, in the rate's order."""
    named = _named_types(rate)
    return list(dict.fromkeys(term.of for term in _terms(rate) if _term(term, amounts, named) is None))


def counted_amounts(rate: Rate) -> list[str]:
    """Returns what a rate counts: fields of `Amounts`, in the rate's order."""
    return list(dict.fromkeys(term.of for term in _terms(rate)))


def bill_by_formula(rate: Rate | None, record: AccountingRecord, *, threads_per_core: int = 1) -> Bill | None:
    """Returns the bill of an ended job by its site's rate, all attempts of a requeued one added up.

    Args:
        rate: what its partition costs; None where that is unknown.
        record: the job, with its earlier attempts.
        threads_per_core: hardware threads that the site's accounting counts as CPUs for a core.

    Returns:
        None where the rate, an amount or an attempt is unknown.
    """
    if rate is None:
        return None

    def cost(attempt: AccountingRecord, seconds: float) -> Decimal | None:
        found = charge(rate, amounts_of(attempt, threads_per_core=threads_per_core), seconds)
        return None if found is None else found.units

    units = _all_attempts(record, cost)
    return None if units is None else Bill("formula", rate.kind, rate.unit, float(units), record.project)


def bill_by_billing(record: AccountingRecord) -> Bill | None:
    """Returns the bill of an ended job where the site has no rates: the billing TRES that Slurm gave it, times hours.

    Args:
        record: the job, with its earlier attempts.

    Returns:
        None where accounting tells no billing TRES, or not of every attempt.
    """

    def cost(attempt: AccountingRecord, seconds: float) -> Decimal | None:
        if attempt.billing_tres is None:
            return None
        return Decimal(str(attempt.billing_tres)) * Decimal(str(seconds)) / _HOUR_SECONDS

    units = _all_attempts(record, cost)
    return None if units is None else Bill("sacct", BILLING_KIND, BILLING_UNIT, float(units), record.project)


def _all_attempts(
    record: AccountingRecord, cost: Callable[[AccountingRecord, float], Decimal | None]
) -> Decimal | None:
    """Returns what all attempts of a job cost together; None where one is unknown."""
    attempts = (*record.attempts, record)
    if len(attempts) <= (record.restarts or 0):
        return None
    units = Decimal(0)
    for attempt in attempts:
        if attempt.elapsed_seconds is None:
            return None
        if attempt.elapsed_seconds == 0:  # it never ran, so nothing was allocated
            continue
        found = cost(attempt, attempt.elapsed_seconds)
        if found is None:
            return None
        units += found
    return units


def _terms(rate: Rate) -> list[Term]:
    return [term for part in rate.parts for term in (part.of if isinstance(part, Largest) else (part,))]


def _named_types(rate: Rate) -> set[str]:
    return {term.gpu_type for term in _terms(rate) if term.gpu_type is not None}


def _part(part: Part, amounts: Amounts, named: set[str]) -> tuple[str, Decimal] | None:
    """Returns what a part counts and what that costs an hour; of several the first that is largest."""
    if isinstance(part, Term):
        units = _term(part, amounts, named)
        return None if units is None else (part.gpu_type or part.of, units)
    inner = [_part(term, amounts, named) for term in part.of]
    known = [found for found in inner if found is not None]
    if len(known) < len(inner):
        return None
    name, units = max(known, key=lambda found: found[1])
    return name, units * part.times


def _term(term: Term, amounts: Amounts, named: set[str]) -> Decimal | None:
    amount = _gpu_amount(term, amounts.gpus, named) if term.of == "gpus" else getattr(amounts, term.of)
    if amount is None:
        return None
    counted = Decimal(amount) / term.per
    if term.rounded_up:
        counted = counted.to_integral_value(ROUND_CEILING)
    return counted * term.times


def _gpu_amount(term: Term, gpus: Mapping[str, int] | None, named: set[str]) -> int | None:
    if gpus is None or (named and gpus.get("")):  # without a type it isn't known which price they have
        return None
    if term.gpu_type is not None:
        return gpus.get(term.gpu_type, 0)
    return sum(amount for kind, amount in gpus.items() if kind not in named)


def _gpus(tres: Mapping[str, float]) -> dict[str, int]:
    prefix = "gres/gpu:"
    found = {name.removeprefix(prefix): int(amount) for name, amount in tres.items() if name.startswith(prefix)}
    without = int(tres.get("gres/gpu", sum(found.values()))) - sum(found.values())
    return {**found, "": without} if without > 0 else found


def _reserved_storage(tres: Mapping[str, float]) -> Decimal | None:
    """Returns the GiB of node-local storage; None where something is allocated that might be storage or might not."""
    others = [name for name in tres if name.startswith("gres/") and not name.startswith("gres/gpu")]
    if set(others) - {"gres/nvme"}:
        return None
    return Decimal(tres.get("gres/nvme", 0))
