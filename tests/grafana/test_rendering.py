"""Every dashboard is drawn from a busy practice installation: no panel fails, and each has something to show.

Part of `make stack-test`: the installation takes minutes to get busy, and Chromium is not wherever tests run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.grafana.album import busy_installation
from tests.grafana.node import installed_or_skip
from tests.grafana.pictures import GOOD_WHEN_EMPTY, PHONE, WIDE, Drawing
from tests.panels import each_panel
from tests.prometheus_server import TOP, program

DASHBOARDS = sorted((TOP / "grafana/dashboards").glob("*.json"))
_FEWEST_PANELS = 30

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("RAYSLURM_STACK_FULL") != "1", reason="part of `make stack-test`"),
]


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drawing]:
    for name in ("node", "chromium", "prometheus", "promtool", "prometheus-alertmanager"):
        program(name)
    installed_or_skip("render")
    folder = tmp_path_factory.mktemp("rendering")
    with busy_installation(folder) as busy:
        yield busy.draw(TOP / "build/pictures")


def test_pages_have_no_errors_and_every_variable_a_value(drawing: Drawing) -> None:
    assert drawing.faults == ()


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_of_a_dashboard_is_drawn_and_shows_something(path: Path, width: int, drawing: Drawing) -> None:
    panels = [panel for panel in drawing.panels if (panel.dashboard, panel.width) == (path.stem, width)]
    boards = json.loads(path.read_text(encoding="utf-8"))["panels"]
    titles = {one["title"] for one in each_panel(boards) if one["type"] != "row"}

    assert {panel.title for panel in panels} == titles
    assert [f"{panel}: {fault}" for panel in panels for fault in panel.broken] == []
    # A job that waits shows what one that has ended doesn't.
    seen = {panel.title for panel in panels if not panel.empty}
    assert {title for title in titles - seen if (path.stem, title) not in GOOD_WHEN_EMPTY} == set()


def test_titles_fit_on_a_desk(drawing: Drawing) -> None:
    assert [panel.title for panel in drawing.panels if panel.width == WIDE and panel.title in panel.cut] == []


def test_most_panels_are_grafanas_own(drawing: Drawing) -> None:
    own = [panel for panel in drawing.panels if panel.width == WIDE and not panel.stand_in]

    assert len(own) >= _FEWEST_PANELS
