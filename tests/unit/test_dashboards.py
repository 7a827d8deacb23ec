"""The dashboards as they are checked in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.metrics.catalogue import CATALOGUE
from grafana import build
from grafana.modern import modernise
from tests.panels import each_panel, fill_in, values_for
from tests.prometheus_server import TOP, program

DASHBOARDS = {
    path.stem: json.loads(path.read_text()) for path in sorted((TOP / "grafana" / "dashboards").glob("*.json"))
}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return list(each_panel(dashboard["panels"]))


def targets(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [target for panel in panels(dashboard) for target in panel.get("targets", ())]


def everything(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields every key with its value, at every depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from everything(item)
    elif isinstance(value, list):
        for item in value:
            yield from everything(item)


@pytest.fixture(params=DASHBOARDS)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = DASHBOARDS[request.param]
    return found


def test_the_checked_in_json_is_what_the_sources_make() -> None:
    assert build.build(check=True) == 0


def test_check_tells_what_differs_and_changes_nothing_and_build_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "grafana"
    shutil.copytree(TOP / "grafana", copy)
    monkeypatch.setattr(build, "_HERE", copy)
    changed, gone = copy / "dashboards" / "jobs.json", copy / "dashboards" / "gone.json"
    changed.write_text("{}")
    gone.write_text("{}")

    assert build.build(check=True) == 1
    assert (changed.read_text(), gone.read_text()) == ("{}", "{}")
    told = capsys.readouterr().out
    assert "jobs.json" in told
    assert "gone.json" in told

    assert build.build() == 0
    assert build.build(check=True) == 0
    assert changed.read_text() == (TOP / "grafana" / "dashboards" / "jobs.json").read_text()
    assert not gone.exists()


def test_a_panel_of_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="heatmap"):
        modernise({"panels": [{"type": "heatmap"}], "templating": {"list": []}})


def test_identity_is_stable_and_the_schema_is_todays(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] == 42
    assert dashboard["uid"].startswith("rayslurm-")
    assert "id" not in dashboard
    ids = [panel["id"] for panel in panels(dashboard)]
    assert len(set(ids)) == len(ids)


def test_uids_and_titles_are_unique() -> None:
    for key in ("uid", "title"):
        values = [dashboard[key] for dashboard in DASHBOARDS.values()]
        assert len(set(values)) == len(values)


def test_every_query_asks_the_data_source_that_the_reader_picks(dashboard: dict[str, Any]) -> None:
    picked = {"type": "prometheus", "uid": "${datasource}"}
    asking = [
        *(panel for panel in panels(dashboard) if panel["type"] != "row"),
        *targets(dashboard),
        *(variable for variable in dashboard["templating"]["list"] if variable["type"] == "query"),
    ]

    assert all(one["datasource"] == picked for one in asking)
    assert all(value == picked for key, value in everything(dashboard) if key == "datasource")


def test_null_stands_for_the_lowest_threshold_only(dashboard: dict[str, Any]) -> None:
    assert not [key for key, value in everything(dashboard) if value is None and key != "value"]
    assert "null" not in [value for _, value in everything(dashboard) if isinstance(value, str)]
    for key, value in everything(dashboard):
        if key == "steps":
            assert [step["value"] is None for step in value] == [True] + [False] * (len(value) - 1)


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_number_has_a_unit_or_a_word(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        defaults, overrides = panel["fieldConfig"]["defaults"], panel["fieldConfig"]["overrides"]
        if panel["type"] == "table":
            with_unit = {
                override["matcher"]["options"]
                for override in overrides
                if any(one["id"] == "unit" and one["value"] for one in override["properties"])
            }
            assert {heading for field, heading in _columns(panel).items() if field.startswith("Value #")} == with_unit
        else:
            assert defaults.get("unit") or defaults.get("mappings"), panel["title"]


def test_the_columns_of_a_table_come_from_its_queries(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        if panel["type"] != "table":
            continue
        values = {f"Value #{target['refId']}" for target in panel["targets"]}
        labels = {
            label
            for target in panel["targets"]
            for group in re.findall(r"\bby \(([^)]*)\)", target["expr"])
            for label in group.split(", ")
        }
        columns = _columns(panel)
        assert set(columns) <= values | labels
        headings = set(columns.values())
        assert {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]} <= headings
        assert {one["displayName"] for one in panel["options"]["sortBy"]} <= headings


def _columns(panel: dict[str, Any]) -> dict[str, str]:
    [organize] = (one for one in panel["transformations"] if one["id"] == "organize")
    renamed: dict[str, str] = organize["options"]["renameByName"]
    return renamed


def _rule_exprs() -> list[str]:
    return [
        rule["expr"]
        for path in sorted((TOP / "prometheus" / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def test_every_metric_that_is_asked_for_is_in_the_catalogue() -> None:
    texts = _rule_exprs()
    for dashboard in DASHBOARDS.values():
        texts += [target["expr"] for target in targets(dashboard)]
        texts += [
            variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"
        ]

    assert {name for text in texts for name in re.findall(r"\brayslurm_\w+", text)} <= set(CATALOGUE)


def test_legends_name_labels_that_the_query_keeps(dashboard: dict[str, Any]) -> None:
    for target in targets(dashboard):
        for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
            kept = re.search(r"\bby \(([^)]*)\)", target["expr"])
            if kept:
                assert label in kept[1].split(", "), target["expr"]
            else:
                [metric] = re.findall(r"\brayslurm_\w+", target["expr"])
                assert label in CATALOGUE[metric].labels, target["expr"]


def test_promtool_can_read_every_query(dashboard: dict[str, Any], tmp_path: Path) -> None:
    values = {variable["name"]: "x" for variable in dashboard["templating"]["list"]}
    rules = [
        {"record": f"query:{number}", "expr": fill_in(target["expr"], values_for(target, values))}
        for number, target in enumerate(targets(dashboard))
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    done = subprocess.run(
        [program("promtool"), "check", "rules", path], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout
    assert not [rule for rule in rules if "$" in rule["expr"]]
