"""Whole texts in every dialect, and what is read from them.

Each `tests/golden/KIND/NAME.txt` was written for this test in a form that the tool prints; `NAME.json` beside it is
what must come out. After a change that is meant, `UPDATE_GOLDEN=1` writes the latter anew for the diff to be read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from exporter.parsers import parsers
from exporter.parsers.as_json import to_json

GOLDEN = Path(__file__).parents[2] / "golden"
ZONES = {"autumn_night": "Europe/Helsinki", "spring_night": "Europe/Helsinki", "local_time": "Europe/Helsinki"}
TEXTS = sorted(path for kind in parsers() for path in (GOLDEN / kind).glob("*.txt"))


def test_there_are_texts() -> None:
    assert {path.parent.name for path in TEXTS} == set(parsers())
    assert len(TEXTS) > 15


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_golden(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    parsed = parsers()[path.parent.name](text, timezone=ZoneInfo(ZONES.get(path.stem, "UTC")))
    found = to_json(parsed)
    expected = path.with_suffix(".json")
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(expected.read_text(encoding="utf-8"))
