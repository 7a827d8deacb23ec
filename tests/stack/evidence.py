"""What `make stack-test` leaves: rules that passed their tests, alerts that came and went, panels that had data."""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from tests import evidence

BUILD = Path(__file__).parents[2] / "build"
EVIDENCE = BUILD / "stack-test.json"
TESTS = BUILD / "stack-test.xml"
KEEPS = os.environ.get("RAYSLURM_STACK_FULL") == "1"
"""Whether the long form runs, which writes down what it sees."""

_MARKS = {True: "right", False: "WRONG"}


def note(kind: str, row: dict[str, Any]) -> None:
    """Writes down what was seen, right or not.

    Args:
        kind: a file of `rules`, an `alert`, a `panel`, the `silence` before, the `metrics` that were there, or what was
            `hurried`.
        row: what was seen.
    """
    if KEEPS:
        evidence.write_down(EVIDENCE, kind, row)


def unfinished_tests(junit: Path) -> list[str]:
    """Returns the tests that did not pass, by what pytest wrote: failed, broken or left out."""
    if not junit.exists():
        return [f"pytest ended before it could write {junit}"]
    found = []
    for case in ET.parse(junit).getroot().iter("testcase"):
        for how in ("failure", "error", "skipped"):
            fault = case.find(how)
            if fault is not None:
                found.append(f"{how}: {case.get('classname')}.{case.get('name')}: {fault.get('message', '')[:300]}")
    return found


def main() -> None:
    """Prints what the last run saw and, as its last line, the counts; ends with 1 where something wasn't right.

    What failed is each alert that did not come or go, each panel, variable and annotation without data, and each test
    that did not pass, those among them that say the same of an alert or a panel.
    """
    known = evidence.read(EVIDENCE)
    alerts, panels = known.get("alert", []), known.get("panel", [])
    tested = {name for row in known.get("rules", []) for name in row["alerts"]}
    for row in alerts:
        sys.stdout.write(f"{_MARKS[row['right']]}  alert {row['alert']}: {row['text']}\n")
        if row["right"]:
            lasted = row["resolved_at"] - row["fired_at"]
            sys.stdout.write(f"       {row['seconds']:.1f} s after {row['done']}; resolved {lasted:.1f} s later\n")
    for row in known.get("silence", []):
        sys.stdout.write(f"{_MARKS[row['right']]}  silent, the watchdog apart, for {row['seconds']} s when idle\n")
    for row in panels:
        if not row["right"]:
            sys.stdout.write(f"{_MARKS[False]}  {row['dashboard']}: {row['panel']} {row['query']}: {row['fault']}\n")
    shown = _panels(panels)
    for dashboard in sorted({row["dashboard"] for row in panels}):
        own = [right for (name, _), right in shown.items() if name == dashboard]
        sys.stdout.write(f"{dashboard}: {sum(own)} of {len(own)} panels, variables and annotations have data\n")
    tests = unfinished_tests(TESTS)
    for line in tests:
        sys.stdout.write(f"{line}\n")
    failed = sum(not row["right"] for row in alerts) + sum(not right for right in shown.values()) + len(tests)
    right_panels = sum(
        right for (_, panel), right in shown.items() if not panel.startswith(("variable ", "annotation "))
    )
    sys.stdout.write(f"stack-test: alerts={len(tested)} panels={right_panels} failed={failed}\n")
    sys.exit(bool(failed) or not (alerts and panels and tested))


def _panels(rows: list[dict[str, Any]]) -> dict[tuple[str, str], bool]:
    """Returns of each panel, variable and annotation whether all its queries had data."""
    shown: dict[tuple[str, str], bool] = {}
    for row in rows:
        key = (row["dashboard"], row["panel"])
        shown[key] = shown.get(key, True) and row["right"]
    return shown


if __name__ == "__main__":
    main()
