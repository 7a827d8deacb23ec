"""What `make tunnel-test` leaves: of each case what was done, what was seen, and after how long."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.lab.lab import Lab

EVIDENCE = Path(__file__).parents[2] / "build/tunnel-test.json"
LEASES = Path(__file__).parents[2] / "build/tunnel-leases.json"

INTERVAL_SECONDS = 15.0
"""Between two probes of a tunnel."""


@dataclass(frozen=True)
class Case:
    """One thing that was done to a tunnel.

    Attributes:
        done: what.
        expected: what is to be seen then.
        seen: what was.
        seconds: after how long.
        within_seconds: how long it may take.
    """

    done: str
    expected: str
    seen: str
    seconds: float
    within_seconds: float

    @property
    def right(self) -> bool:
        """Whether it was seen in time."""
        return self.seen == self.expected and self.seconds <= self.within_seconds


@dataclass
class Cases:
    """The cases of a run, written down after each."""

    lab: Lab
    seen: list[Case] = field(default_factory=list)

    def expect(
        self, done: str, expected: str, look: Callable[[], str], *, within: float = 2 * INTERVAL_SECONDS
    ) -> None:
        """Waits for something to be seen, and for the next case to have a calm beginning.

        Args:
            done: what was done just before.
            expected: what is to be seen.
            look: says what is seen now.
            within: seconds.
        """
        began = time.monotonic()
        found = look()
        while found != expected and time.monotonic() < began + within + 5:
            time.sleep(0.1)
            found = look()
        self.seen.append(Case(done, expected, found, round(time.monotonic() - began, 2), within))
        EVIDENCE.parent.mkdir(exist_ok=True)
        rows = [{**asdict(case), "right": case.right} for case in self.seen]
        EVIDENCE.write_text(json.dumps({"cases": rows}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Prints the table of the last run and, as its last line, the counts; ends with 1 where something wasn't right."""
    rows = json.loads(EVIDENCE.read_text(encoding="utf-8"))["cases"]
    for row in rows:
        mark = "right" if row["right"] else "WRONG"
        sys.stdout.write(f"{mark}  {row['seconds']:>6.1f} s  {row['done']}: {row['seen']}\n")
    right = sum(row["right"] for row in rows)
    leases = json.loads(LEASES.read_text(encoding="utf-8")) if LEASES.exists() else {}
    counts = {
        name: leases[name] for name in ("launches", "kills", "shared", "lines", "keys", "leases") if name in leases
    }
    told = " ".join(f"{name}={value}" for name, value in counts.items())
    sys.stdout.write(f"tunnel-test: cases={len(rows)} right={right}" + (f" {told}" if told else "") + "\n")
    sys.exit(right != len(rows))


if __name__ == "__main__":
    main()
