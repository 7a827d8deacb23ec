"""From grafanalib's JSON, which is as old as Grafana 6, to what a Grafana of today writes itself.

What is kept is listed, so that nothing old slips through; a panel type that is not listed is refused until somebody
has looked at its shape.
"""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 42
GRAFANA_VERSION = "13.2.2"
"""The Grafana whose shapes these are, and that docker-compose.yml starts."""

_DASHBOARD = (
    "annotations", "description", "editable", "graphTooltip", "links", "panels", "refresh", "tags", "templating",
    "time", "timezone", "title", "uid",
)  # fmt: skip
_VARIABLE = ("allValue", "hide", "includeAll", "label", "multi", "name", "query", "refresh", "regex", "sort", "type")
_PANEL = ("datasource", "description", "gridPos", "id", "interval", "links", "options", "title", "type")
_TARGET = ("datasource", "expr", "format", "instant", "interval", "legendFormat", "refId")
_PANEL_TYPES = ("bargauge", "stat", "state-timeline", "table", "timeseries")
_ROW = ("collapsed", "gridPos", "id", "panels", "title", "type")

_Json = dict[str, Any]


def modernise(dashboard: _Json) -> _Json:
    """Returns a dashboard in today's shape.

    Args:
        dashboard: what grafanalib makes of it, as plain JSON.

    Raises:
        ValueError: it holds something whose shape is not known here.
    """
    modern = _kept(dashboard, _DASHBOARD)
    modern["schemaVersion"] = SCHEMA_VERSION
    modern["panels"] = [_panel(panel) for panel in dashboard["panels"]]
    modern["templating"] = {"list": [_variable(variable) for variable in dashboard["templating"]["list"]]}
    modern["timepicker"] = {}
    return modern


def _kept(old: _Json, keys: tuple[str, ...]) -> _Json:
    """Returns the listed keys that have a value; nulls mean the default and are left out at every depth."""

    def without_nulls(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_nulls(item) for key, item in value.items() if item is not None}
        return [without_nulls(item) for item in value] if isinstance(value, list) else value

    return {key: without_nulls(old[key]) for key in keys if old.get(key) is not None}


def _variable(old: _Json) -> _Json:
    modern = _kept(old, _VARIABLE)
    if old["type"] == "query":
        modern["datasource"] = old["datasource"]
        modern["query"] = {"qryType": 1, "query": old["query"], "refId": f"variable-{old['name']}"}
    if old["includeAll"]:
        modern["current"] = (
            {"text": ["All"], "value": ["$__all"]} if old["multi"] else {"text": "All", "value": "$__all"}
        )
    return modern


def _panel(old: _Json) -> _Json:
    if old["type"] == "row":
        return _kept(old, _ROW)
    if old["type"] not in _PANEL_TYPES:
        raise ValueError(f"grafana/modern.py does not know panels of type {old['type']}; add what they look like today")
    if old["type"] == "bargauge":
        old = _bar_gauge(old)
    modern = _kept(old, _PANEL)
    modern["fieldConfig"] = _field_config(old)
    modern["pluginVersion"] = GRAFANA_VERSION
    modern["targets"] = [_target(target, old["datasource"]) for target in old["targets"]]
    if old["transformations"]:
        modern["transformations"] = old["transformations"]
    options = modern["options"]
    if "legend" in options:
        options["legend"] = {"calcs": [], "showLegend": True, **options["legend"]}
    if "tooltip" in options:
        options["tooltip"] = {"sort": "none", **options["tooltip"]}
    return modern


def _bar_gauge(old: _Json) -> _Json:
    """What grafanalib writes among the options belongs to the fields today."""
    options, fields = old["options"], old["options"]["fieldOptions"]
    defaults = {key: fields["defaults"][key] for key in ("decimals", "max", "min", "unit")}
    config = old["fieldConfig"]
    return {
        **old,
        "fieldConfig": {
            **config,
            "defaults": {
                **config["defaults"],
                **defaults,
                "color": {"mode": "thresholds"},
                "thresholds": {"mode": "absolute", "steps": fields["thresholds"]},
            },
        },
        "options": {
            "displayMode": options["displayMode"],
            "orientation": options["orientation"],
            "reduceOptions": {"calcs": fields["calcs"], "fields": "", "values": False},
            "showUnfilled": True,
            "valueMode": "color",
            "namePlacement": "auto",
            "sizing": "auto",
            "text": options["text"],
        },
    }


def _field_config(old: _Json) -> _Json:
    config = _kept(old["fieldConfig"], ("defaults", "overrides"))
    defaults = config["defaults"]
    if not defaults.get("unit"):
        defaults.pop("unit", None)
    custom = defaults.get("custom", {})
    if "displayMode" in custom:
        custom |= {"cellOptions": {"type": custom.pop("displayMode")}, "inspect": False}
    if custom.get("stacking") == {}:
        custom["stacking"] = {"group": "A", "mode": "none"}
    steps = [_step(step) for step in old["fieldConfig"]["defaults"]["thresholds"]["steps"]]
    defaults["thresholds"] = {"mode": "absolute", "steps": steps or [{"color": "green", "value": None}]}
    return {"defaults": defaults, "overrides": config.get("overrides", [])}


def _step(old: _Json) -> _Json:
    """The lowest step has no value: in JSON null, which grafanalib writes as a word."""
    return {"color": old["color"], "value": None if old["value"] == "null" else old["value"]}


def _target(old: _Json, datasource: _Json) -> _Json:
    modern = {key: value for key, value in _kept(old, _TARGET).items() if value != ""}
    return {"datasource": datasource, "range": not old["instant"], **modern}
