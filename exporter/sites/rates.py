"""What a partition costs, as data: `Rate` is a sum of terms, and of the largest of terms.

Everything is per hour. A price is worked out as: for each term its amount, over `per`, rounded up where the site does,
times `times`; of a `Largest` the greatest of its terms, times its own `times`; all parts of the rate added, times the
hours. Figures are decimals, because bills are compared to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from exporter.sites.source import Source

Amount = Literal["nodes", "cores", "memory", "nvme", "gpus"]
"""What is counted, as a total over the job: memory and NVMe (or other storage that is reserved) in GiB, or in the GB
that the site means by it."""

Kind = Literal["cpu", "gpu"]
Unit = Literal["BU", "core-hours", "gpu-hours"]

_WORDS = {"nodes": "nodes", "cores": "cores", "memory": "GiB", "nvme": "NVMe GiB", "gpus": "GPUs"}


@dataclass(frozen=True, slots=True)
class Term:
    """One amount at a price.

    Attributes:
        of: what is counted.
        times: units per hour for each.
        per: how many of the amount make one.
        rounded_up: whether a part of `per` counts as a whole.
        gpu_type: of `gpus`, those that Slurm calls by this type; None: all that no other term of the rate names.
    """

    of: Amount
    times: Decimal = Decimal(1)
    per: int = 1
    rounded_up: bool = False
    gpu_type: str | None = None


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest of several terms.

    Attributes:
        of: the terms.
        times: what the largest is multiplied by.
    """

    of: tuple[Term, ...]
    times: Decimal = Decimal(1)


Part = Term | Largest


@dataclass(frozen=True, slots=True)
class Rate:
    """What the jobs of some partitions cost.

    Attributes:
        name: a word for it, unique at its site; what an override names.
        partitions: where it holds.
        kind: which of the project's budgets pays.
        unit: what is paid in.
        parts: what is added up.
        source: where it was read.
    """

    name: str
    partitions: tuple[str, ...]
    kind: Kind
    unit: Unit
    parts: tuple[Part, ...]
    source: Source


def term(of: Amount, times: str = "1", per: int = 1, *, rounded_up: bool = False, gpu_type: str | None = None) -> Term:
    """Returns a term; its price as text, so that no digit is lost."""
    return Term(of, Decimal(times), per, rounded_up, gpu_type)


def rule(rate: Rate) -> str:
    """Returns a rate as people write it: `max(0.75 * cores, 0.375 * GiB) + 0.02 * NVMe GiB` (per hour)."""
    return " + ".join(_part(part) for part in rate.parts)


def _part(part: Part) -> str:
    if isinstance(part, Term):
        return _term(part)
    inside = f"max({', '.join(_term(inner) for inner in part.of)})"
    return inside if part.times == 1 else f"{part.times} * {inside}"


def _term(part: Term) -> str:
    amount = _WORDS[part.of] if part.gpu_type is None else part.gpu_type
    if part.per != 1:
        amount = f"{amount}/{part.per}"
    if part.rounded_up:
        amount = f"ceil({amount})"
    return amount if part.times == 1 else f"{part.times} * {amount}"
