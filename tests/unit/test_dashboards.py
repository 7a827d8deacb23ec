"""The dashboards as they are checked in."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.metrics.catalogue import CATALOGUE
from grafana import states
from grafana.modern import modernise
from grafana.queries import rise
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


def test_there_are_the_five() -> None:
    assert set(DASHBOARDS) == {"overview", "job", "billing", "tunnels", "campaigns"}


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


def test_every_panel_says_what_it_shows_in_which_unit_and_why_it_may_be_empty(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        if panel["type"] == "row":
            continue
        defaults, overrides = panel["fieldConfig"]["defaults"], panel["fieldConfig"]["overrides"]
        assert len(panel["title"]) > 2
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["noValue"] not in {"", "-", "none", "No data"}, panel["title"]
        if panel["type"] == "table":
            told = {
                override["matcher"]["options"]
                for override in overrides
                if any(one["id"] in {"unit", "mappings"} and one["value"] for one in override["properties"])
            }
            numbers = {heading for field, heading in _columns(panel).items() if field.startswith("Value")}
            assert numbers <= told, panel["title"]
        else:
            assert defaults.get("unit") or defaults.get("mappings"), panel["title"]


def test_what_is_said_of_an_empty_table_does_not_stand_in_each_empty_cell(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        if panel["type"] == "table":
            cells = panel["fieldConfig"]["overrides"][0]
            assert cells["matcher"] == {"id": "byRegexp", "options": ".*"}
            assert {"id": "noValue", "value": "-"} in cells["properties"]


def test_the_reader_picks_data_source_site_project_and_campaign() -> None:
    found = {name: [one["name"] for one in each["templating"]["list"]] for name, each in DASHBOARDS.items()}

    assert found == {
        "overview": ["datasource", "site", "project", "campaign"],
        "job": ["datasource", "job_site", "job"],
        "billing": ["datasource", "site", "project", "campaign"],
        "tunnels": ["datasource", "site", "project", "campaign"],
        "campaigns": ["datasource", "site", "campaign"],
    }


def test_a_variable_is_used_and_what_is_used_is_one(dashboard: dict[str, Any]) -> None:
    built_in = {"__rate_interval", "__range", "__interval", "__url_time_range"}
    known = {one["name"] for one in dashboard["templating"]["list"]}
    asked = [target["expr"] for target in targets(dashboard)]
    asked += [one["target"]["expr"] for one in dashboard["annotations"]["list"]]
    asked += [one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    used = {name for text in asked for name in re.findall(r"\$([A-Za-z_]\w*)", text)}

    assert used - built_in <= known
    assert known - {"datasource"} <= used


def test_a_jobs_number_leads_to_the_dashboard_of_that_job(dashboard: dict[str, Any]) -> None:
    uids = {each["uid"] for each in DASHBOARDS.values()}
    for panel in panels(dashboard):
        if panel["type"] != "table" or "job_id" not in _columns(panel):
            continue
        [url] = (
            one["value"][0]["url"]
            for override in panel["fieldConfig"]["overrides"]
            if override["matcher"]["options"] == "Job"
            for one in override["properties"]
            if one["id"] == "links"
        )
        assert re.match(r"/d/([\w-]+)/", url)[1] in uids  # type: ignore[index]  # it matches, or the test fails
        for heading in re.findall(r"\$\{__data\.fields\.(\w+):percentencode\}", url):
            assert heading in _columns(panel).values(), panel["title"]
        assert {"var-job_site=", "var-job="} <= set(re.findall(r"var-\w+=", url))


def test_a_job_is_linked_from_the_overview_the_bills_and_the_tunnels() -> None:
    for name in ("overview", "billing", "tunnels"):
        assert "/d/rayslurm-job/" in json.dumps(DASHBOARDS[name])


def test_each_dashboard_leads_to_the_others_with_the_same_time_and_choices(dashboard: dict[str, Any]) -> None:
    [link] = dashboard["links"]

    assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == (
        "dashboards",
        ["rayslurm"],
        True,
        True,
    )
    assert "rayslurm" in dashboard["tags"]


def test_annotations_stand_at_the_time_that_their_value_is_in_milliseconds() -> None:
    names = set()
    for each in DASHBOARDS.values():
        for one in each["annotations"]["list"]:
            assert one["useValueForTime"] is True
            assert re.search(r"_timestamp_seconds.*\* 1000$", one["target"]["expr"])
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            names.add(one["name"])

    assert {"Start", "End", "Jobs that failed", "Campaign runs"} <= names


def test_a_state_has_one_colour_wherever_it_stands() -> None:
    known: dict[str, str] = {}
    for meaning in (states.JOB, states.OUTCOME):  # a tunnel's are words of their own, and never the name of a series
        for state, (_, colour) in meaning.items():
            assert known.setdefault(state, colour) == colour, state
    for each in DASHBOARDS.values():
        for panel in panels(each):
            for override in panel.get("fieldConfig", {}).get("overrides", ()):
                for one in override["properties"]:
                    if (
                        one["id"] == "color"
                        and one["value"]["mode"] == "fixed"
                        and override["matcher"]["id"] == "byName"
                    ):
                        state = override["matcher"]["options"]
                        colour = one["value"]["fixedColor"]
                        assert known.setdefault(state, colour) == colour, (panel["title"], state)


def test_no_query_is_padded(dashboard: dict[str, Any]) -> None:
    for target in targets(dashboard):
        assert "vector(" not in target["expr"]
        assert "absent(" not in target["expr"]


def test_it_is_readable_on_a_phone_where_panels_stand_below_each_other(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        assert len(panel["title"]) <= 40, panel["title"]
        if panel["type"] == "stat":
            assert len(panel["fieldConfig"]["defaults"]["noValue"]) <= 26, panel["title"]


def test_the_columns_of_a_table_come_from_its_queries(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        if panel["type"] != "table":
            continue
        # Grafana's name of the value, where there is one query and where there are several.
        several = len(panel["targets"]) > 1
        values = {f"Value #{target['refId']}" if several else "Value" for target in panel["targets"]}
        labels = {
            label
            for target in panel["targets"]
            for group in [*re.findall(r"\bby \(([^)]*)\)", target["expr"])]
            for label in group.split(", ")
        } | {label for target in panel["targets"] for label in _added(target["expr"])}
        columns = _columns(panel)
        assert set(columns) <= values | labels
        headings = set(columns.values())
        matched = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
        assert matched - {".*"} <= headings, panel["title"]
        assert {one["displayName"] for one in panel["options"]["sortBy"]} <= headings


def _columns(panel: dict[str, Any]) -> dict[str, str]:
    [organize] = (one for one in panel["transformations"] if one["id"] == "organize")
    renamed: dict[str, str] = organize["options"]["renameByName"]
    return renamed


def _added(expr: str) -> set[str]:
    """Returns the labels that a query makes itself."""
    return set(re.findall(r"label_(?:join|replace)\(.*?, \"(\w+)\",", expr))


def _rules() -> list[dict[str, Any]]:
    return [
        rule
        for path in sorted((TOP / "prometheus" / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def _asked_by_dashboards() -> list[str]:
    texts = []
    for each in DASHBOARDS.values():
        texts += [target["expr"] for target in targets(each)]
        texts += [one["target"]["expr"] for one in each["annotations"]["list"]]
        texts += [one["query"]["query"] for one in each["templating"]["list"] if one["type"] == "query"]
    return texts


def _names(texts: list[str]) -> set[str]:
    return {name for text in texts for name in re.findall(r"\brayslurm[_:][\w:]+", text)}


def test_every_metric_that_is_asked_for_is_in_the_catalogue_or_recorded() -> None:
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    named = _names(_asked_by_dashboards() + [rule["expr"] for rule in _rules()])

    assert named - recorded - set(CATALOGUE) == set()


UNUSED: dict[str, str] = {}
"""Metrics that neither a rule nor a panel asks for, and why they are there."""


def test_every_metric_of_the_catalogue_is_asked_for_or_deliberately_not() -> None:
    named = _names(_asked_by_dashboards() + [rule["expr"] for rule in _rules()])

    assert set(CATALOGUE) - named == set(UNUSED)


def test_every_recorded_series_is_asked_for() -> None:
    recorded = {rule["record"] for rule in _rules() if "record" in rule}

    assert recorded - _names(_asked_by_dashboards() + [rule["expr"] for rule in _rules()]) == set()


def test_legends_name_labels_that_the_query_keeps(dashboard: dict[str, Any]) -> None:
    for target in targets(dashboard):
        expr = target["expr"]
        kept = {label for group in re.findall(r"\b(?:by|group_left) \(([^)]*)\)", expr) for label in group.split(", ")}
        for metric in re.findall(r"\brayslurm_\w+", expr):
            kept |= set(CATALOGUE[metric].labels)
        for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
            assert label in kept, expr


RISE = {
    "evaluation_interval": "1m",
    "tests": [
        {
            "interval": "1m",
            "input_series": [
                {"series": 'x_total{a="old"}', "values": "5x20 8x20"},
                {"series": 'x_total{a="born"}', "values": "_x22 0x1 3x16"},
                {"series": 'x_total{a="fell"}', "values": "9x22 1x18"},
                {"series": 'x_total{a="not seen for a while"}', "values": "4x5 _x17 7x2 9x16"},
            ],
            "promql_expr_test": [
                {
                    "expr": rise("x_total", "a").replace("$__interval", "10m"),
                    "eval_time": "30m",
                    "exp_samples": [
                        {"labels": '{a="old"}', "value": 3},
                        {"labels": '{a="born"}', "value": 3},
                        {"labels": '{a="not seen for a while"}', "value": 2},
                    ],
                }
            ],
        }
    ],
}


def test_bars_are_what_a_counter_rose_in_a_step_and_never_more_than_was_seen(tmp_path: Path) -> None:
    (tmp_path / "rise.yml").write_text(yaml.safe_dump(RISE))

    done = subprocess.run(
        [program("promtool"), "test", "rules", tmp_path / "rise.yml"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_can_read_every_query(dashboard: dict[str, Any], tmp_path: Path) -> None:
    values = {variable["name"]: "x" for variable in dashboard["templating"]["list"]}
    asked = targets(dashboard) + [one["target"] for one in dashboard["annotations"]["list"]]
    rules = [
        {"record": f"query:{number}", "expr": fill_in(target["expr"], values_for(target, values))}
        for number, target in enumerate(asked)
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    done = subprocess.run(
        [program("promtool"), "check", "rules", path], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout
    assert not [rule for rule in rules if re.search(r"\$[^\d]", rule["expr"])]
