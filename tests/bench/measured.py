"""What was measured, as a table for people and as evidence for programs."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        what: what was measured.
        ours: what it took, with its unit.
        against: what it stands beside, and what that took.
        ratio: how often the one contains the other; None where they cannot be compared.
        target: the most that it may be.
        met: whether that is kept; None where there is no target.
    """

    what: str
    ours: str
    against: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None


def beside(what: str, ours: str, against: str, ratio: float, most: float | None = None) -> Line:
    """Returns a line of two things measured side by side, with the ratio that may be at most so much."""
    if most is None:
        return Line(what, ours, against, ratio)
    return Line(what, ours, against, ratio, f"<= {most:g} x", ratio <= most)


def show(lines: Iterable[Line]) -> str:
    """Returns the table."""
    head = ("WHAT", "OURS", "AGAINST", "RATIO", "TARGET", "MET")
    said = {True: "yes", False: "NO", None: ""}
    cells = [head] + [
        (line.what, line.ours, line.against, "" if line.ratio is None else f"{line.ratio:.2f}", line.target,
         said[line.met]) for line in lines
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def write(lines: Iterable[Line], path: Path) -> None:
    """Writes the evidence."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"lines": [asdict(line) for line in lines]}, indent=2) + "\n", encoding="utf-8")


def taking_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns the median seconds of each, all measured one after the other in every round.

    What slows the machine down for a while slows all of them down, and their ratios stay.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            gc.collect()
            start = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def milliseconds(seconds: float) -> str:
    """Returns a time as the table has it."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
