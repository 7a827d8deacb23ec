"""Whether an estimate was what a job cost in the end, and if not, why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.records import Bill

PRINTED_ROUNDING = 0.02
"""By how much a bill may miss the exact sum that the site prints with two decimals, its rounded components added up."""

_RELATIVE = 1e-9
_GIB = 1024**3
_WORTH_TELLING = ("cpu", "mem", "node", "billing")


@dataclass(frozen=True, slots=True)
class Estimated:
    """What an estimate comes to for the time that a job took.

    Attributes:
        units: how many.
        rule: the rate, and where it was read, for people.
        tres: what the queue had said that the job has; None where it didn't.
    """

    units: float
    kind: str
    unit: str
    rule: str
    tres: Mapping[str, float] | None


def agree(one: float, other: float, source: str) -> bool:
    """Tells whether two figures are the same but for rounding.

    Args:
        one: units.
        other: units.
        source: whose the second one is; `seff` prints two decimals.
    """
    allowed = PRINTED_ROUNDING if source == "seff" else 0.0
    return abs(one - other) <= allowed + _RELATIVE * max(abs(one), abs(other), 1.0)


def difference(
    estimated: Estimated, bill: Bill, by_formula: Bill | None, accounted: Mapping[str, float] | None
) -> str | None:
    """Returns why an estimate isn't what a job cost, for people; None where it is, but for rounding.

    Args:
        estimated: the estimate.
        bill: the final bill.
        by_formula: what the rates say of what accounting tells; None where that isn't known.
        accounted: what the job was allocated by accounting.
    """
    if (estimated.kind, estimated.unit) != (bill.kind, bill.unit):
        return (
            f"it was billed in {bill.kind} {bill.unit}, and the estimate was in {estimated.kind} {estimated.unit} "
            f"({estimated.rule})"
        )
    if agree(estimated.units, bill.units, bill.source):
        return None
    told = [f"estimated {estimated.units:.4f} and billed {bill.units:.4f} {bill.kind} {bill.unit} ({bill.source})"]
    other = changes(estimated.tres, accounted)
    if other:
        told.append(f"by accounting it had {other}")
    if by_formula is None:
        told.append(f"the rate ({estimated.rule}) needs more than accounting tells of it")
    elif not agree(by_formula.units, bill.units, bill.source):
        told.append(
            f"the rate ({estimated.rule}) on what accounting tells gives {by_formula.units:.4f}: it may have changed, "
            "or the site bills what accounting doesn't tell"
        )
    elif not other:
        told.append(f"the rate ({estimated.rule}) on what accounting tells gives {by_formula.units:.4f}, as billed")
    return "; ".join(told)


def changes(queue: Mapping[str, float] | None, accounting: Mapping[str, float] | None) -> str:
    """Returns in words what a job had otherwise by accounting than the queue had said; nothing where it is the same."""
    if queue is None or accounting is None:
        return ""
    both = [name for name in _WORTH_TELLING if name in queue and name in accounting]
    names = both + [name for name in (*queue, *accounting) if name.startswith("gres/")]
    return ", ".join(
        f"{_amount(name, accounting.get(name, 0))} instead of {_amount(name, queue.get(name, 0))}"
        for name in dict.fromkeys(names)
        if accounting.get(name, 0) != queue.get(name, 0)
    )


def _amount(name: str, value: float) -> str:
    return f"{name}={value / _GIB:.2f}G" if name == "mem" else f"{name}={value:g}"
