"""What all dashboards have in common around their panels."""

from __future__ import annotations

from collections.abc import Sequence

from grafanalib.core import Annotations, Dashboard, DashboardLink, Panel, Time

from grafana.panels import flow
from grafana.queries import variables

_TAG = "rayslurm"


def dashboard(
    name: str,
    title: str,
    description: str,
    panels: Sequence[Panel],
    *,
    span: str,
    refresh: str,
    choices: Sequence[str],
    annotations: Annotations,
) -> Dashboard:
    """Returns a dashboard that leads to the others, with the same time range and the same choices.

    Args:
        name: by which links know it; it must stay.
        title: what it is about.
        description: in a sentence.
        panels: in their order.
        span: how long a time it shows at first, `24h`.
        refresh: how often it asks anew, `1m`.
        choices: what the reader can pick, as `variables` takes it.
        annotations: marks on the time axis.
    """
    return Dashboard(
        title=f"Ray on Slurm: {title}",
        uid=f"rayslurm-{name}",
        description=description,
        tags=[_TAG],
        links=[DashboardLink(title="", tags=[_TAG], includeVars=True, keepTime=True)],
        timezone="browser",
        time=Time(f"now-{span}", "now"),
        refresh=refresh,
        graphTooltip=1,
        templating=variables(*choices),
        annotations=annotations,
        panels=flow(panels),
    ).auto_panel_ids()
