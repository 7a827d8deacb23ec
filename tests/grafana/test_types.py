"""Every dashboard has the shape that Grafana's own types give it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.grafana.node import installed_or_skip
from tests.grafana.typing_check import type_errors
from tests.panels import each_panel

DASHBOARDS = sorted((Path(__file__).resolve().parents[2] / "grafana/dashboards").glob("*.json"))


@pytest.fixture(scope="module")
def folder() -> Path:
    return installed_or_skip("types")


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_has_grafanas_types(path: Path, folder: Path) -> None:
    assert type_errors(json.loads(path.read_text(encoding="utf-8")), folder) == []


def _first(dashboard: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(panel for panel in each_panel(dashboard["panels"]) if panel["type"] == kind)


def _cell(dashboard: dict[str, Any]) -> None:
    override = {
        "matcher": {"id": "byName", "options": "State"},
        "properties": [{"id": "custom.cellOptions", "value": {"type": "colour-text"}}],
    }
    _first(dashboard, "table")["fieldConfig"]["overrides"].append(override)


_BREAKAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "options: .*lists": lambda board: _first(board, "timeseries")["options"]["legend"].update(displayMode="lists"),
    "options: .*showLegends": lambda board: _first(board, "stat")["options"].update(showLegends=True),
    "candlestick": lambda board: _first(board, "stat").update(type="candlestick"),
    "field: .*colour": lambda board: _first(board, "stat")["fieldConfig"]["defaults"].update(colour="red"),
    "field: .*lineThickness": lambda board: _first(board, "timeseries")["fieldConfig"]["defaults"]["custom"].update(
        lineThickness=2
    ),
    "custom.cellOptions of 'State': ": _cell,
    "query A: .*legend": lambda board: _first(board, "stat")["targets"][0].update(legend="{{site}}"),
    "dashboard: .*rows": lambda board: board.update(rows=[]),
    "variable site: .*VariableSort": lambda board: board["templating"]["list"][-1].update(
        name="site", sort="ascending"
    ),
}


@pytest.mark.parametrize("expected", _BREAKAGES)
def test_what_grafana_would_not_write_is_refused(expected: str, folder: Path) -> None:
    whole = next(
        board
        for board in (json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS)
        if {"stat", "table", "timeseries"} <= {panel["type"] for panel in each_panel(board["panels"])}
    )
    broken = copy.deepcopy(whole)
    _BREAKAGES[expected](broken)

    errors = type_errors(broken, folder)

    assert re.search(expected, "\n".join(errors))
