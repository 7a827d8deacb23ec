"""Panels: each kind with what all of its kind have in common, and the grid they are put on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attr
from grafanalib.core import (
    BarGauge,
    GridPos,
    Panel,
    RowPanel,
    Stat,
    StateTimeline,
    Table,
    TableSortByField,
    Target,
    Threshold,
    TimeSeries,
)

from grafana.queries import PROMETHEUS, as_table

COLUMNS = 24
"""How wide Grafana's grid is."""

_JOB_URL = (
    "/d/rayslurm-job/?${datasource:queryparam}&var-job_site=${__data.fields.Site:percentencode}"
    "&var-job=${__data.fields.Job:percentencode}&${__url_time_range}"
)
_Json = dict[str, Any]

_STACKED = {"mode": "normal", "group": "A"}

_NARROW = 80
"""Pixels that a column takes at least: Grafana's own 150 push half of a wide table out of sight."""

_UNKNOWN: _Json = {
    "type": "special",
    "options": {"match": "null+nan", "result": {"text": "-", "color": "text", "index": 99}},
}
"""What isn't known has no colour of its own."""


def row(title: str) -> Panel:
    """Returns a heading over the panels that follow."""
    return RowPanel(title=title, gridPos=_size(COLUMNS, 1))


def stat(
    title: str, description: str, targets: Sequence[Target], *, unit: str, empty: str, width: int = 4, height: int = 4,
    steps: Sequence[tuple[str, float]] = (("blue", 0),), mappings: Sequence[_Json] = (), decimals: int | None = None,
    field: str = "", named: bool = False, overrides: Sequence[_Json] = (),
) -> Panel:  # fmt: skip
    """Returns the latest values in large figures.

    Args:
        title: of the panel.
        description: what it shows, in a sentence.
        targets: its queries.
        unit: Grafana's name of the unit.
        empty: what stands there when nothing is found, and why.
        width: of the 24 columns.
        height: in rows of the grid.
        steps: colours, each from a value on; the first is also that of `empty`.
        mappings: values to words.
        decimals: how many, where not as many as are needed.
        named: whether a single value too stands with its name, such as its unit of billing.
        field: a label that is shown in place of the values; its queries are those of a table.
        overrides: of single series.
    """
    return Stat(
        title=title,
        description=description,
        dataSource=PROMETHEUS,
        gridPos=_size(width, height),
        targets=list(targets),
        format=unit,
        noValue=empty,
        graphMode="none",
        reduceCalc="lastNotNull",
        fields=f"/^{field}$/" if field else "",
        textMode="value_and_name" if named else "auto",
        decimals=decimals,
        mappings=list(mappings),
        thresholds=_steps(steps),
        overrides=list(overrides),
    )


def lines(
    title: str, description: str, targets: Sequence[Target], *, unit: str, empty: str, width: int = 12, height: int = 8,
    highest: int | None = None, decimals: int | None = None, overrides: Sequence[_Json] = (), stacked: bool = False,
    stepped: bool = False, lowest: int | None = 0, beside: bool = False,
) -> Panel:  # fmt: skip
    """Returns lines over time; the arguments are those of `stat`, and a few more.

    The axis goes from `lowest` to `highest` where they are told. Lines are `stacked` on each other; where they are
    `stepped`, a value holds until the next. The legend stands below, or `beside`, where it may get long.
    """
    return _series(
        title, description, targets, _size(width, height), empty, unit=unit, valueMin=lowest, valueMax=highest,
        valueDecimals=decimals, overrides=list(overrides),
        axisSoftMax=1 if decimals == 0 else None,  # what is all 0 needs no axis up to 100
        fillOpacity=25 if stacked else 5,
        lineInterpolation="stepAfter" if stepped else "linear",
        stacking=_STACKED if stacked else {},
        legendPlacement="right" if beside else "bottom",
    )  # fmt: skip


def ratios(
    title: str, description: str, targets: Sequence[Target], *, empty: str, width: int = 12, beside: bool = False
) -> Panel:
    """Returns lines of ratios, from 0 to 1; the arguments are those of `lines`."""
    return lines(title, description, targets, unit="percentunit", highest=1, empty=empty, width=width, beside=beside)


def bars(
    title: str, description: str, targets: Sequence[Target], *, empty: str, unit: str = "short",
    decimals: int | None = 0, width: int = 12, height: int = 8, overrides: Sequence[_Json] = (),
) -> Panel:  # fmt: skip
    """Returns stacked bars, one for each step of time, of whole numbers; the arguments are those of `stat`."""
    return _series(
        title, description, targets, _size(width, height), empty, unit=unit, valueMin=0, valueDecimals=decimals,
        overrides=list(overrides), drawStyle="bars", fillOpacity=80, stacking=_STACKED,
    )  # fmt: skip


def _series(
    title: str, description: str, targets: Sequence[Target], size: GridPos, empty: str, **properties: Any
) -> Panel:
    return TimeSeries(
        title=title,
        description=description,
        dataSource=PROMETHEUS,
        gridPos=size,
        targets=list(targets),
        tooltipMode="multi",
        extraJson=_empty(empty),
        **properties,
    )


def timeline(
    title: str, description: str, targets: Sequence[Target], *, mappings: Sequence[_Json], empty: str, width: int = 24,
    height: int = 8,
) -> Panel:  # fmt: skip
    """Returns states over time, a row each; the arguments are those of `stat`."""
    return StateTimeline(
        title=title,
        description=description,
        dataSource=PROMETHEUS,
        gridPos=_size(width, height),
        targets=list(targets),
        mappings=list(mappings),
        extraJson=_empty(empty),
    )


def levels(
    title: str, description: str, targets: Sequence[Target], *, empty: str, width: int = 8, height: int = 8,
    steps: Sequence[tuple[str, float]] = (("blue", 0),),
) -> Panel:  # fmt: skip
    """Returns ratios as horizontal bars from 0 to 1; the arguments are those of `stat`."""
    return BarGauge(
        title=title,
        description=description,
        dataSource=PROMETHEUS,
        gridPos=_size(width, height),
        targets=list(targets),
        calc="lastNotNull",
        displayMode="basic",
        format="percentunit",
        min=0,
        max=1,
        decimals=0,
        thresholds=_steps(steps),
        extraJson={**_empty(empty), "options": {"text": {"titleSize": 13, "valueSize": 18}}},
    )


def table(
    title: str, description: str, targets: Sequence[Target], shown: dict[str, str], *, empty: str, width: int = 24,
    height: int = 8, sort: tuple[str, bool] | None = None, overrides: Sequence[_Json] = (),
) -> Panel:  # fmt: skip
    """Returns a table; the arguments are those of `stat`, and two more.

    `shown` is field to heading, as `as_table` takes it; `sort` is the heading of the column to sort by, and whether the
    greatest comes first.
    """
    # What is said of the whole table must not stand in each of its empty cells.
    cells = {
        "matcher": {"id": "byRegexp", "options": ".*"},
        "properties": [{"id": "noValue", "value": "-"}, {"id": "custom.minWidth", "value": _NARROW}],
    }
    return Table(
        title=title,
        description=description,
        dataSource=PROMETHEUS,
        gridPos=_size(width, height),
        targets=list(targets),
        transformations=as_table(shown),
        overrides=[cells, *overrides],
        sortBy=[TableSortByField(sort[0], desc=sort[1])] if sort else [],
        extraJson=_empty(empty),
    )


def column(heading: str, **properties: Any) -> _Json:
    """Returns an override for one column of a table.

    Args:
        heading: of the column.
        **properties: field properties such as `unit`; `custom_width` stands for `custom.width`.
    """
    return {
        "matcher": {"id": "byName", "options": heading},
        "properties": [
            {"id": name.replace("custom_", "custom."), "value": value} for name, value in properties.items()
        ],
    }


def share(heading: str, *, good: bool = True, width: int = 72) -> _Json:
    """Returns an override that shows a column of ratios in percent, from red to green.

    Args:
        heading: of the column.
        good: whether much of it is good.
        width: in pixels.
    """
    return column(
        heading,
        unit="percentunit",
        decimals=0,
        min=0,
        max=1,
        color={"mode": "continuous-RdYlGr" if good else "continuous-GrYlRd"},
        mappings=[_UNKNOWN],
        custom_cellOptions={"type": "color-text"},
        custom_width=width,
    )


def state(heading: str, mappings: Sequence[_Json], width: int = 110) -> _Json:
    """Returns an override that shows a column's words in their colours."""
    return column(
        heading, mappings=[*mappings, _UNKNOWN], custom_cellOptions={"type": "color-text"}, custom_width=width
    )


def job_link() -> _Json:
    """Returns an override by which the column `Job` leads to the dashboard of that job; needs the column `Site`."""
    return column("Job", links=[{"title": "All of this job", "url": _JOB_URL}], custom_width=90)


def flow(panels: Sequence[Panel]) -> list[Panel]:
    """Returns the panels with their places: side by side as long as they fit, then below."""
    return list(_flow(panels))


def _flow(panels: Sequence[Panel]) -> Iterator[Panel]:
    x = y = line = 0
    for panel in panels:
        size = panel.gridPos
        if x + size.w > COLUMNS:
            x, y, line = 0, y + line, 0
        yield attr.evolve(panel, gridPos=GridPos(h=size.h, w=size.w, x=x, y=y))
        x, line = x + size.w, max(line, size.h)


def _size(width: int, height: int) -> GridPos:
    return GridPos(h=height, w=width, x=0, y=0)


def _steps(steps: Sequence[tuple[str, float]]) -> list[Threshold]:
    return [Threshold(color, index, float(value)) for index, (color, value) in enumerate(steps)]


def _empty(reason: str) -> _Json:
    return {"fieldConfig": {"defaults": {"noValue": reason}}}
