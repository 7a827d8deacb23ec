"""How a project stands, in a word or two, each told truly. Pure.

Overspent is not used up, nothing granted is neither, and of a project that we have lost, or that has ended, what is
left means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exporter.records import AllocationRecord

DAY_SECONDS = 86400.0

NEARLY = 0.95
"""From this used share on a balance is nearly used up."""

Word = Literal[
    "no access", "project ended", "nothing granted", "overspent", "used up", "nearly used up", "project closed", ""
]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a balance stands.

    Attributes:
        word: what there is to say of it; nothing where all is well.
        is_bad: whether somebody should do something about it.
    """

    word: Word
    is_bad: bool


def standing(
    balance: AllocationRecord | None, *, accessible: bool, end_time: float | None, status: str | None, now: float
) -> Standing:
    """Says how a balance stands.

    Args:
        balance: None where the provider tells none.
        accessible: whether the provider tells us of the project.
        end_time: midnight of the day on which it ends, epoch seconds; it is open on that day still.
        status: of the project, in the provider's word; None where it isn't told.
        now: epoch seconds.
    """
    if not accessible:
        return Standing("no access", True)
    if end_time is not None and now >= end_time + DAY_SECONDS:
        return Standing("project ended", True)
    if status is not None and status.lower() == "closed":
        return Standing("project closed", True)
    return Standing("", False) if balance is None else _of_balance(balance)


def _of_balance(balance: AllocationRecord) -> Standing:
    used, granted, remaining = balance.used, balance.granted, balance.remaining
    if granted is None or (not granted and not used):
        return Standing("nothing granted", bool(used))
    if remaining is not None and remaining <= 0:
        return Standing("overspent" if remaining < 0 else "used up", True)
    nearly = used is not None and granted > 0 and used / granted >= NEARLY
    return Standing("nearly used up" if nearly else "", nearly)


def blocks_submission(provider: str, storage: AllocationRecord | None) -> bool:
    """Tells whether a provider takes no job of a project for want of storage units.

    At CSC no Storage BU left blocks every submission. Where none are granted, or nothing is told of them, that isn't
    known.
    """
    if provider != "csc" or storage is None or storage.kind != "storage":
        return False
    told = bool(storage.granted or storage.used)
    return told and storage.granted is not None and storage.remaining is not None and storage.remaining <= 0
