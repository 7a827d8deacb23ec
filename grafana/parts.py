"""What the dashboards have in common."""

from __future__ import annotations

from typing import Any

from grafanalib.core import GridPos, Target, Template, Templating

PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
"""The data source that the reader picks."""


def variables() -> Templating:
    """Returns the variables `datasource` and `site`; every configured site has a command budget, also an idle one."""
    return Templating(
        [
            Template(name="datasource", label="Data source", type="datasource", query="prometheus"),
            Template(
                name="site",
                label="Site",
                dataSource=PROMETHEUS,
                query="label_values(rayslurm_site_command_budget_limit, site)",
                includeAll=True,
                multi=True,
                allValue=".+",
            ),
        ]
    )


def over_time(expr: str, legend: str, ref_id: str = "A", *, interval: str = "") -> Target:
    """Returns a query over the time range.

    Args:
        expr: PromQL.
        legend: how a series is called, with its labels as `{{label}}`.
        ref_id: the query's letter in its panel.
        interval: the least step, such as `1h`.
    """
    return Target(expr=expr, legendFormat=legend, refId=ref_id, interval=interval)


def now(expr: str, legend: str, ref_id: str = "A") -> Target:
    """Returns a query for the latest values."""
    return Target(expr=expr, legendFormat=legend, refId=ref_id, instant=True)


def columns(expr: str, ref_id: str) -> Target:
    """Returns a query whose labels and value become columns of a table."""
    return Target(expr=expr, refId=ref_id, format="table", instant=True)


def place(x: int, y: int, width: int, height: int) -> GridPos:
    """Returns a place in the grid, which is 24 columns wide."""
    return GridPos(h=height, w=width, x=x, y=y)


def as_table(shown: dict[str, str]) -> list[dict[str, Any]]:
    """Returns the transformations that join the queries of a table on their labels.

    Args:
        shown: field to heading, in the order of the columns; values of query A are the field `Value #A`.
    """
    return [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"names": list(shown)}}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {},
                "indexByName": {field: index for index, field in enumerate(shown)},
                "renameByName": shown,
            },
        },
    ]


def column(heading: str, **properties: Any) -> dict[str, Any]:
    """Returns an override for one column of a table.

    Args:
        heading: of the column.
        **properties: field properties such as `unit`.
    """
    return {
        "matcher": {"id": "byName", "options": heading},
        "properties": [{"id": name, "value": value} for name, value in properties.items()],
    }


def words(**meaning: tuple[str, str]) -> list[dict[str, Any]]:
    """Returns a value mapping.

    Args:
        **meaning: text and colour of a value; a number is written `_1`.
    """
    options = {
        value.removeprefix("_"): {"text": text, "color": color, "index": index}
        for index, (value, (text, color)) in enumerate(meaning.items())
    }
    return [{"type": "value", "options": options}]
