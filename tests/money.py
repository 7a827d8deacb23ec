"""What `make money-test` leaves: the bills, texts and prices that were held against each other, and what came out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tests import evidence

EVIDENCE = Path(__file__).parents[1] / "build/money-test.json"
KEEPS = os.environ.get("RAYSLURM_MONEY_EVIDENCE") == "1"
"""Whether the tests write down what they see; they check the same without."""

LEAST_JOBS = 4


def note(kind: str, row: dict[str, Any]) -> None:
    """Writes down what was seen, right or not: of a `price`, a `text` or a `job`."""
    if KEEPS:
        evidence.write_down(EVIDENCE, kind, row)


def main() -> None:
    """Prints the table of the last run and, as its last line, the counts; ends with 1 where something wasn't right."""
    known = evidence.read(EVIDENCE)
    prices, texts, jobs = (known.get(kind, []) for kind in ("price", "text", "job"))
    for row in prices:
        sys.stdout.write(f"{_mark(row)}  price {row['asked']}: {row['units']} {row['kind']} {row['unit']}\n")
    for row in texts:
        rule = f"; {row['rule']}" if row["rule"] else ""
        sys.stdout.write(f"{_mark(row)}  seff {row['name']} ({row['from']}): {row['units']}, {row['printed']}{rule}\n")
    for row in jobs:
        sys.stdout.write(
            f"{_mark(row)}  job {row['site']}/{row['job_id']} in {row['partition']}: bill {row['bill']}, site's print "
            f"{row['printed']}, ledger {row['ledger']} {row['kind']} {row['unit']} ({row['source']}); estimate "
            f"{row['behind_seconds']:.1f} s behind, interval {row['interval_seconds']:.0f} s\n"
        )
    counts = {
        "jobs": len(jobs),
        "exact": sum(row["right"] for row in jobs),
        "texts": sum(row["right"] for row in texts),
    }
    sys.stdout.write(f"money-test: {' '.join(f'{name}={value}' for name, value in counts.items())}\n")
    all_right = all(row["right"] for row in (*prices, *texts, *jobs))
    sys.exit(not (all_right and prices and texts and len(jobs) >= LEAST_JOBS))


def _mark(row: dict[str, Any]) -> str:
    return "right" if row["right"] else "WRONG"


if __name__ == "__main__":
    main()
