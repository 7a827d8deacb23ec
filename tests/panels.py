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

_BUILT_IN = {"__rate_interval": "2m", "__range": "15m", "__range_s": "900", "__from": "0", "__to": "0"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$([A-Za-z_]\w*)|\[\[(\w+)\]\]")
_LABEL_VALUES = re.compile(r"label_values\((?:(.+),\s*)?(\w+)\)")
_RANGE_SECONDS = 900
_STEP_SECONDS = 15


@dataclass(frozen=True, slots=True)
class PanelResult:
    """What one query of a dashboard gave.

    Attributes:
        panel: the panel's title, `variable NAME` or `annotation NAME`.
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


def run_panels(
    dashboard_json: Mapping[str, Any], prometheus_url: str, *, interval: str | None = None
) -> list[PanelResult]:
    """Runs the query of every variable, annotation and panel target.

    Where a reader picks one of several values, such as one job, each is tried: a panel shows something if it does for
    one of them, and a fault with one of them is a fault.

    Args:
        dashboard_json: a dashboard as Grafana reads it.
        prometheus_url: such as `http://127.0.0.1:9090`.
        interval: the step of time for all queries, where those of the dashboard are longer than anybody waits.

    Returns:
        One result a query, the variables' first.
    """
    variables = dashboard_json["templating"]["list"]
    with httpx.Client(base_url=prometheus_url, trust_env=False, timeout=30) as client:
        found = list(_variables(variables, client))
        choices = list(_choices(variables, {}, client))
        for name, target in _targets(dashboard_json):
            step = {"interval": interval} if interval else {}
            found.append(_best([_run_target(name, {**target, **step}, values, client) for values in choices]))
    return found


def _targets(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for panel in each_panel(dashboard["panels"]):
        for target in panel.get("targets", ()):
            yield panel["title"], target
    for one in dashboard.get("annotations", {}).get("list", ()):
        yield f"annotation {one['name']}", {"instant": True, **one["target"]}


def _best(results: list[PanelResult]) -> PanelResult:
    """Returns the result that speaks for all: one with a fault, else one that shows something."""
    for result in results:
        if result.error or result.unresolved or result.missing_labels:
            return result
    return max(results, key=lambda result: (result.ok, result.series))


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


def _choices(variables: list[dict[str, Any]], values: dict[str, str], client: httpx.Client) -> Iterator[dict[str, str]]:
    """Yields the values of all variables for everything that a reader can pick where it must be one."""
    if not variables:
        yield values
        return
    variable, *rest = variables
    name = variable["name"]
    if variable["type"] == "datasource":
        options = ["prometheus"]
    elif variable["type"] == "query":
        options = _label_values(variable, values, client)[0]
        if variable.get("includeAll"):
            options = [variable.get("allValue") or "|".join(options)]
    else:
        options = [str(variable.get("current", {}).get("value", variable.get("query", "")))]
    for option in options or [""]:
        yield from _choices(rest, {**values, name: option}, client)


def _variables(variables: list[dict[str, Any]], client: httpx.Client) -> Iterator[PanelResult]:
    for index, variable in enumerate(variables):
        if variable["type"] == "query":
            for values in _choices(variables[:index], {}, client):
                found, error = _label_values(variable, values, client)
                if found or error:
                    break
            yield PanelResult(
                f"variable {variable['name']}", "", variable["query"]["query"], series=len(found), error=error
            )


def _label_values(
    variable: Mapping[str, Any], values: Mapping[str, str], client: httpx.Client
) -> tuple[list[str], str | None]:
    """Returns the values of a variable, and what is wrong with its query."""
    match = _LABEL_VALUES.fullmatch(variable["query"]["query"])
    if match is None:
        return [], "is not a label_values query"
    selector = {"match[]": fill_in(match[1], values)} if match[1] else {}
    return _ask(client, f"/api/v1/label/{match[2]}/values", selector)


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
