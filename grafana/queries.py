"""Queries: what dashboards ask Prometheus, and how the answers are put together."""

from __future__ import annotations

from typing import Any

from grafanalib.core import Annotations, Target, Template, Templating

PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
"""The data source that the reader picks."""

SITE = 'site=~"$site"'
PROJECT = 'project=~"$project"'
CAMPAIGN = 'campaign=~"$campaign"'
INFO = f"topk by (site, job_id) (1, rayslurm_job_info{{{SITE}, {PROJECT}, {CAMPAIGN}}})"
"""The jobs that the reader picked, each once, also where two rayslurms follow it."""


def picked(expr: str, *names: str) -> str:
    """Returns a query on series with `site` and `job_id`, of the jobs that the reader picked.

    Args:
        expr: PromQL; more than one series a job is fine.
        *names: labels of `rayslurm_job_info` that the result carries too.
    """
    return f"max without (instance, job) ({expr}) * on (site, job_id) group_left ({', '.join(names)}) {INFO}"


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


def rise(metric: str, labels: str) -> str:
    """Returns a query for bars: by how much a lifetime counter rose in each step of time; nothing where it didn't.

    Exactly: `increase()` reckons up to the edges of its window, which adds some per cent to what is counted rarely. Of
    a series that was not there a step ago, what it rose since it was first seen; of one that fell, as when an older
    store was put back, nothing.

    Args:
        metric: with its selector.
        labels: by which it is added up.
    """
    before = f"({metric} offset $__interval or min_over_time({metric}[$__interval]))"
    return f"sum by ({labels}) (clamp_min({metric} - {before}, 0)) > 0"


def rises(metric: str, labels: str, legend: str, ref_id: str = "A", *, campaigns: bool = False) -> Target:
    """Returns what bars show: `rise`, in steps of ten minutes at least.

    Args:
        metric: with its selector.
        labels: by which it is added up.
        legend: how a series is called, with its labels as `{{label}}`.
        ref_id: the query's letter in its panel.
        campaigns: whether what is outside of campaigns says so, where it would have no name in the legend.
    """
    expr = rise(metric, labels)
    return over_time(by_hand(expr) if campaigns else expr, legend, ref_id, interval="10m")


def by_units(metric: str) -> str:
    """Returns a query that adds up what jobs cost, each kind and unit by itself, of the jobs that the reader picked."""
    return f"sum by (kind, unit) ({picked(metric)})"


def by_hand(expr: str) -> str:
    """Returns a query whose series without a campaign say so, where they would have no name in a legend."""
    return f'label_replace({expr}, "campaign", "by hand", "campaign", "")'


def rows(label: str, **queries: str) -> str:
    """Returns one query whose rows are several, each with its name in a label.

    Args:
        label: that holds the name.
        **queries: PromQL by name; `_` in a name is shown as a space.
    """
    return " or ".join(
        f'label_replace({expr}, "{label}", "{name.replace("_", " ")}", "", "")' for name, expr in queries.items()
    )


def variables(*names: str) -> Templating:
    """Returns the variables `datasource` and the named ones, of `_VARIABLES`."""
    source = Template(name="datasource", label="Data source", type="datasource", query="prometheus")
    return Templating([source, *(_VARIABLES[name] for name in names)])


def _several(name: str, label: str, query: str, every: str) -> Template:
    return Template(
        name=name, label=label, dataSource=PROMETHEUS, query=query, includeAll=True, multi=True, allValue=every
    )


def _one(name: str, label: str, query: str, sort: int) -> Template:
    # Asked again when the time range changes: a job of last week isn't there today.
    return Template(name=name, label=label, dataSource=PROMETHEUS, query=query, refresh=2, sort=sort)


_VARIABLES = {
    # Every configured site has a command budget, also an idle one.
    "site": _several("site", "Site", "label_values(rayslurm_site_command_budget_limit, site)", ".+"),
    "project": _several("project", "Project", f"label_values(rayslurm_job_info{{{SITE}}}, project)", ".*"),
    "campaign": _several("campaign", "Campaign", f"label_values(rayslurm_jobs{{{SITE}}}, campaign)", ".*"),
    # Balances belong to providers and projects, also to those in which nothing runs.
    "account": _several("project", "Project", "label_values(rayslurm_allocation_used, project)", ".*"),
    # Not called `site`: the other dashboards hand their choice of several sites on by that name.
    "job_site": _one("job_site", "Site", "label_values(rayslurm_job_info, site)", 1),
    "job": _one("job", "Job", 'label_values(rayslurm_job_info{site="$job_site"}, job_id)', 4),
}
"""By the names that `variables` takes. `sort` is Grafana's: 1 by the alphabet, 4 the greatest number first."""


CAMPAIGN_RUNS = (
    f"rayslurm_campaign_last_run_timestamp_seconds{{{SITE}, {CAMPAIGN}}}",
    "purple",
    "{{campaign}} ran at {{site}}",
)
"""Marks for `marks`: when campaigns ran."""


def marks(*, shown: bool = True, **queries: tuple[str, str, str]) -> Annotations:
    """Returns marks on the time axis: at the time that a query's value is.

    Args:
        shown: whether they are from the start; else the reader turns them on where they aren't too many.
        **queries: PromQL that gives epoch seconds, colour, and text with labels as `{{label}}`, by name.
    """
    return Annotations(
        [
            {
                "name": name.replace("_", " "),
                "datasource": PROMETHEUS,
                "enable": shown,
                "hide": False,
                "iconColor": color,
                "titleFormat": text,
                "textFormat": "",
                "tagKeys": "",
                "useValueForTime": True,
                "target": {"refId": "annotation", "expr": f"({expr}) * 1000", "interval": "1m"},
            }
            for name, (expr, color, text) in queries.items()
        ]
    )


def as_table(shown: dict[str, str]) -> list[dict[str, Any]]:
    """Returns the transformations that join the queries of a table on their labels.

    Args:
        shown: field to heading, in the order of the columns; values of query A are the field `Value #A`, and `Value`
            where there is one query only.
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
