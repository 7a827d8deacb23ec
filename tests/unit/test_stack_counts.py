"""The last line of `make stack-test` counts what ran, and what didn't go well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stack import evidence
from tests.stack.monitoring import HURRIED, hurry

FINE = '<testsuites><testsuite><testcase classname="a" name="b"/></testsuite></testsuites>'
ALERT = {"alert": "A", "text": "a", "done": "d", "right": True, "seconds": 1.0, "fired_at": 1.0, "resolved_at": 3.0}
PANEL = {"dashboard": "job", "panel": "CPU", "query": "A", "expr": "up", "series": 1, "right": True, "fault": None}
KNOWN = {
    "rules": [{"file": "a_test.yml", "alerts": ["A", "B"]}, {"file": "b_test.yml", "alerts": ["B", "C"]}],
    "alert": [ALERT],
    "panel": [PANEL, {**PANEL, "query": "B"}, {**PANEL, "panel": "variable site"}, {**PANEL, "panel": "GPU"}],
}


@pytest.mark.parametrize(
    ("changed", "junit", "line", "status"),
    [
        ({}, FINE, "alerts=3 panels=2 failed=0", 0),
        ({"panel": [PANEL, {**PANEL, "query": "B", "right": False}]}, FINE, "alerts=3 panels=0 failed=1", 1),
        ({"alert": [{**ALERT, "right": False}]}, FINE, "alerts=3 panels=2 failed=1", 1),
        ({}, FINE.replace("/>", '><failure message="no"/></testcase>', 1), "alerts=3 panels=2 failed=1", 1),
        ({}, FINE.replace("/>", '><skipped message="no"/></testcase>', 1), "alerts=3 panels=2 failed=1", 1),
        ({"alert": []}, FINE, "alerts=3 panels=2 failed=0", 1),
        ({"rules": []}, FINE, "alerts=0 panels=2 failed=0", 1),
    ],
)
def test_the_last_line_counts_what_ran(
    changed: dict[str, Any],
    junit: str,
    line: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(evidence, "EVIDENCE", tmp_path / "evidence.json")
    monkeypatch.setattr(evidence, "TESTS", tmp_path / "tests.xml")
    (tmp_path / "evidence.json").write_text(json.dumps(KNOWN | changed))
    (tmp_path / "tests.xml").write_text(junit)
    with pytest.raises(SystemExit) as ended:
        evidence.main()
    assert capsys.readouterr().out.splitlines()[-1] == f"stack-test: {line}"
    assert int(ended.value.code or 0) == status


def test_what_is_hurried_stands_in_the_rules_that_are_shipped(tmp_path: Path) -> None:
    """A rule that is rewritten is noticed here, and nothing but what is listed changes."""
    shipped = Path(__file__).parents[2] / "prometheus/rules"
    for path in shipped.glob("*.yml"):
        (tmp_path / path.name).write_text(path.read_text())
    hurry(tmp_path)
    changed = [
        (path.name, old.strip(), new.strip())
        for path in sorted(shipped.glob("*.yml"))
        for old, new in zip(path.read_text().splitlines(), (tmp_path / path.name).read_text().splitlines(), strict=True)
        if old != new
    ]
    assert sorted((file, before in old, after in new) for file, old, new in changed for before, after in [
        next((one[1], one[2]) for one in HURRIED.values() if one[0] == file)
    ]) == sorted((one[0], True, True) for one in HURRIED.values())  # fmt: skip
