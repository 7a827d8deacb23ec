"""Asks a live Prometheus everything that a dashboard asks."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

_BUILT_IN = {"__rate_interval": "2m", "__range": "5m", "__range_s": "300", "__from": "0", "__to": "0"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)|\[\[(\w+)\]\]")
_LABEL_VALUES = re.compile(r"label_values\((?:(.+),\s*)?(\w+)\)")
_RANGE_SECONDS = 300
_STEP_SECONDS = 15


@dataclass(frozen=True, slots=True)
class PanelResult:
    """What one query of a dashboard gave.

    Attributes:
        panel: the panel's title, or `variable NAME`.
        query: the query's letter; empty for a variable.
        expr: as it was sent, with variables filled in.
        series: how many series or label values came back.
        error: what Prometheus found wrong with it.
        unresolved: variables that nothing gives a value.
        missing_labels: labels that the legend names and a series lacks.
        all_nan: no series has a number at its end.
    """

    panel: str
    query: str
    expr: str
    series: int = 0
    error: str | None = None
    unresolved: tuple[str, ...] = ()
    missing_labels: tuple[str, ...] = ()
    all_nan: bool = False

    @property
    def ok(self) -> bool:
        """Whether the panel shows something, and nothing is wrong with it."""
        return self.series > 0 and not (self.error or self.unresolved or self.missing_labels or self.all_nan)


def run_panels(dashboard_json: Mapping[str, Any], prometheus_url: str) -> list[PanelResult]:
    """Runs the query of every variable and of every panel target.

    Args:
        dashboard_json: a dashboard as Grafana reads it.
        prometheus_url: such as `http://127.0.0.1:9090`.

    Returns:
        One result a query, the variables' first.
    """
    with httpx.Client(base_url=prometheus_url, trust_env=False, timeout=30) as client:
        values, results = _fill_variables(dashboard_json["templating"]["list"], client)
        for panel in each_panel(dashboard_json["panels"]):
            results += [_run_target(panel["title"], target, values, client) for target in panel.get("targets", ())]
    return results


def each_panel(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields the panels, those inside rows too."""
    for panel in panels:
        yield panel
        yield from each_panel(panel.get("panels", []))


def fill_in(text: str, values: Mapping[str, str]) -> str:
    """Returns a text with its variables filled in; those without a value stay."""
    return _VARIABLE.sub(lambda match: values.get(match[match.lastindex or 0], match[0]), text)


def values_for(target: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, str]:
    """Returns the values of variables for one target: its interval is a variable too."""
    return {**_BUILT_IN, "__interval": target.get("interval", "1m"), **values}


def _fill_variables(variables: list[dict[str, Any]], client: httpx.Client) -> tuple[dict[str, str], list[PanelResult]]:
    values: dict[str, str] = {}
    results: list[PanelResult] = []
    for variable in variables:
        name = variable["name"]
        if variable["type"] == "datasource":
            values[name] = "prometheus"
        elif variable["type"] == "query":
            text = variable["query"]["query"]
            match = _LABEL_VALUES.fullmatch(text)
            if match is None:
                results.append(PanelResult(f"variable {name}", "", text, error="is not a label_values query"))
                continue
            selector = {"match[]": fill_in(match[1], values)} if match[1] else {}
            found, error = _ask(client, f"/api/v1/label/{match[2]}/values", selector)
            results.append(PanelResult(f"variable {name}", "", text, series=len(found), error=error))
            values[name] = variable.get("allValue") or "|".join(found)
        else:
            values[name] = str(variable.get("current", {}).get("value", variable.get("query", "")))
    return values, results


def _run_target(title: str, target: Mapping[str, Any], values: Mapping[str, str], client: httpx.Client) -> PanelResult:
    expr = fill_in(target["expr"], values_for(target, values))
    unresolved = tuple(match[0] for match in _VARIABLE.finditer(expr))
    now = time.time()
    if target.get("instant"):
        series, error = _ask(client, "/api/v1/query", {"query": expr, "time": str(now)})
    else:
        span = {"start": str(now - _RANGE_SECONDS), "end": str(now), "step": str(_STEP_SECONDS)}
        series, error = _ask(client, "/api/v1/query_range", {"query": expr, **span})
    last = [float((one.get("value") or one["values"][-1])[1]) for one in series]
    wanted = re.findall(r"\{\{\s*(\w+)\s*\}\}", target.get("legendFormat", ""))
    return PanelResult(
        title,
        target["refId"],
        expr,
        series=len(series),
        error=error,
        unresolved=unresolved,
        missing_labels=tuple(label for label in wanted if any(label not in one["metric"] for one in series)),
        all_nan=bool(last) and all(math.isnan(value) for value in last),
    )


def _ask(client: httpx.Client, path: str, parameters: dict[str, str]) -> tuple[list[Any], str | None]:
    """Returns what Prometheus found, and what it found wrong."""
    response = client.get(path, params=parameters)
    try:
        answer = response.json()
    except json.JSONDecodeError:
        return [], f"HTTP status {response.status_code}"
    if answer["status"] != "success":
        return [], answer["error"]
    return (answer["data"] if isinstance(answer["data"], list) else answer["data"]["result"]), None
