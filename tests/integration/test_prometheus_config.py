"""The shipped configuration of Prometheus and Alertmanager, as their own tools see it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.metrics.catalogue import CATALOGUE
from exporter.probes import probe_makers
from tests.prometheus_server import TOP, program
from tests.stack.evidence import note

PROMETHEUS = TOP / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*_test.yml"))


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


SEVERITIES = {"critical", "warning", "info", "none"}
ALERTS = [rule for rule in rules() if "alert" in rule]


def fired_by(path: Path) -> set[str]:
    """Returns the alerts that a file of tests expects to fire."""
    return {
        expected["alertname"]
        for case in yaml.safe_load(path.read_text())["tests"]
        for expected in case.get("alert_rule_test", ())
        if expected["exp_alerts"]
    }


def succeeds(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_wrong_with_the_configuration() -> None:
    succeeds(program("promtool"), "check", "config", PROMETHEUS / "prometheus.yml")


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_promtool_finds_nothing_wrong_with_the_rules(path: Path) -> None:
    succeeds(program("promtool"), "check", "rules", "--lint-fatal", path)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.name)
def test_rules_fire_and_stay_silent_as_their_tests_say(path: Path) -> None:
    succeeds(program("promtool"), "test", "rules", path)
    note("rules", {"file": path.name, "alerts": sorted(fired_by(path))})


def test_amtool_finds_nothing_wrong_with_alertmanager() -> None:
    succeeds(program("amtool"), "check-config", PROMETHEUS / "alertmanager.yml")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_to_do_and_has_a_test_that_fires_it(alert: dict[str, Any]) -> None:
    name = alert["alert"]

    assert name.startswith("RaySlurm")
    assert alert["labels"]["severity"] in SEVERITIES
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
    runbook = (TOP / "docs" / "runbooks" / f"{name}.md").read_text()
    assert re.findall(r"^#+ .*$", runbook, re.MULTILINE) == [
        f"# {name}",
        "## What it means",
        "## What to check",
        "## What to do",
    ]
    assert any(name in fired_by(path) for path in RULE_TESTS)


def test_every_runbook_belongs_to_an_alert() -> None:
    runbooks = {path.stem for path in (TOP / "docs" / "runbooks").glob("*.md")}

    assert runbooks == {alert["alert"] for alert in ALERTS}


def test_every_metric_that_a_rule_names_is_in_the_catalogue_and_every_threshold_is_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    named = {name for rule in rules() for name in re.findall(r"\brayslurm[:_][a-z0-9_:]+", str(rule["expr"]))}

    assert named - recorded - set(CATALOGUE) == set()
    unused = {name for name in recorded if name.startswith("rayslurm:threshold:")} - named
    assert unused == set(), "a threshold that nothing compares with"


def test_every_probe_has_its_threshold() -> None:
    of_probes = [
        rule["labels"]["probe"] for rule in rules() if rule.get("record") == "rayslurm:threshold:probe_stale_seconds"
    ]

    assert sorted(of_probes) == sorted(probe_makers())
