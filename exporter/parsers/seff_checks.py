"""Values of one `seff` report that must fit each other, within what its two decimals leave open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_HALF = 0.005
"""What rounding to two decimals takes or gives at most."""
_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Values of which at least one is wrong.

    Attributes:
        label: the line to name.
        reason: what does not fit.
        doubtful: the fields of which one is wrong; which one is not known.
    """

    label: str
    reason: str
    doubtful: tuple[str, ...]


def contradictions(
    read: Mapping[str, Any], components: Mapping[str, float], *, billed_on: bool
) -> Iterator[Contradiction]:
    """What does not fit in a report.

    Args:
        read: the report's fields.
        components: what the bill consists of, in one unit.
        billed_on: whether the report says on which one component the job was billed.
    """
    cores, wall = read.get("cores"), read.get("wall_clock_seconds")
    used, allotted = read.get("cpu_used_seconds"), read.get("core_walltime_seconds")
    if wall is not None and allotted is not None and not _is_product(allotted, wall, cores, read):
        yield Contradiction(
            "CPU Efficiency",
            "core-walltime is not wall-clock time times cores",
            ("cores", "cores_per_node", "nodes", "wall_clock_seconds", "core_walltime_seconds"),
        )
    ratio = read.get("cpu_efficiency_ratio")
    if used is not None and allotted and ratio is not None and not _fits(ratio, used, used, allotted, allotted):
        yield Contradiction(
            "CPU Efficiency",
            "not CPU Utilized over core-walltime",
            ("cpu_used_seconds", "cpu_efficiency_ratio", "core_walltime_seconds", *_told_by_walltime(cores, read)),
        )
    taken, had = read.get("memory_used_bytes"), read.get("memory_allocated_bytes")
    ratio = read.get("memory_efficiency_ratio")
    if taken is not None and had and ratio is not None and not _memory_fits(ratio, taken, had):
        yield Contradiction(
            "Memory Efficiency",
            "not Memory Utilized over the memory allocated",
            ("memory_used_bytes", "memory_efficiency_ratio", "memory_allocated_bytes"),
        )
    total = read.get("billing_units")
    if total is not None and components:
        sums = [sum(components.values())] + ([max(components.values())] if billed_on else [])
        if all(abs(total - each) > _rounding(len(components)) + _SLACK for each in sums):
            yield Contradiction("Job consumed", "not the sum of its components", ("billing_units",))


def _rounding(parts: int) -> float:
    """By how much the sum of rounded parts may miss a rounded total: 0.01 for one or two, 0.02 for three or four."""
    return 0.01 * ((parts + 1) // 2)


def _is_product(allotted: float, wall: float, cores: int | None, read: Mapping[str, Any]) -> bool:
    nodes, per_node = read.get("nodes"), read.get("cores_per_node")
    if cores is not None:
        return bool(allotted == wall * cores)
    if nodes is None or per_node is None:
        return wall == 0 or allotted % wall == 0
    return bool(wall == allotted == 0)  # the cores could not be told: no whole number of them fits


def _told_by_walltime(cores: int | None, read: Mapping[str, Any]) -> tuple[str, ...]:
    """`cores`, where core-walltime alone tells them: they are not spread evenly over the nodes."""
    nodes, per_node = read.get("nodes"), read.get("cores_per_node")
    uneven = nodes is not None and per_node is not None and nodes * per_node != cores
    return ("cores",) if uneven else ()


def _unit(size: float) -> float:
    """The unit in which seff prints a size; its smallest is the kilobyte."""
    unit = 1024.0
    while size >= unit * 1024 - unit * _HALF:
        unit *= 1024
    return unit


def _memory_fits(ratio: float, taken: float, had: float) -> bool:
    least, most = (taken + sign * _HALF * _unit(taken) for sign in (-1, 1))
    smallest, largest = (had + sign * _HALF * _unit(had) for sign in (-1, 1))
    return _fits(ratio, least, most, max(smallest, 1.0), largest)


def _fits(ratio: float, least: float, most: float, smallest: float, largest: float) -> bool:
    """Whether a ratio printed in percent is one of part and whole, both within bounds."""
    return least / largest - _SLACK <= ratio + _HALF / 100 and ratio - _HALF / 100 <= most / smallest + _SLACK
