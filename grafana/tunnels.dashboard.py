"""Tunnels and Ray: what can be reached, what is whole, and what idles."""

from __future__ import annotations

from grafana import frame
from grafana.panels import column, job_link, lines, ratios, row, share, stat, state, table, timeline
from grafana.queries import CAMPAIGN, INFO, SITE, columns, marks, now, over_time, picked
from grafana.states import NO_YES, TUNNEL, YES_NO, coded, numbered, words

_RAY = f"{SITE}, {CAMPAIGN}"
_JOB = "{{site}}/{{job_id}} {{job_name}}"
_FOREIGN = 'rayslurm_tunnel_state{state="foreign"} or on (site, job_id, tunnel) rayslurm_tunnel_up * 0'
_HELD = 'rayslurm_ray_resource_used{{resource="{0}"}} / (rayslurm_ray_resource_capacity{{resource="{0}"}} > 0)'
_ALIVE = 'max by (site, job_id) (rayslurm_ray_nodes{state="alive"})'
_RAYS = "rayslurm_ray_cluster_info and on (site, job_id) rayslurm_ray_nodes_expected"
_SILENT = (
    "rayslurm_ray_nodes_expected and on (site, job_id) rayslurm_job_ray_ready_timestamp_seconds"
    " unless on (site, job_id) rayslurm_ray_nodes"
)
_NO_NODES = "Prometheus has nothing from Rays' nodes: needs metrics tunnels in the spec."
_NO_RAY = "No Ray of this choice told anything in this time."
_NO_TUNNEL = "No job of this choice has a tunnel: none runs, or its spec asks for none."


def _of_job(expr: str, ref_id: str) -> object:
    return columns(f"max by (site, job_id) ({picked(expr)})", ref_id)


def _of_tunnel(metric: str, ref_id: str, factor: str = "") -> object:
    of_now = picked(f"rayslurm_tunnel_{metric} and on (site, job_id, tunnel) rayslurm_tunnel_state")
    return columns(f"max by (site, job_id, tunnel) ({of_now}){factor}", ref_id)


dashboard = frame.dashboard(
    "tunnels",
    "tunnels & Ray",
    "Whether running jobs can be reached, whether their Rays are whole, and whether they do anything.",
    span="6h",
    refresh="30s",
    choices=("site", "project", "campaign"),
    annotations=marks(
        shown=False,
        Ray_ready=(
            f"rayslurm_job_ray_ready_timestamp_seconds and on (site, job_id) {INFO}",
            "green",
            "{{site}}/{{job_id}} is ready",
        ),
        Jobs_that_ended=(
            f"rayslurm_job_end_timestamp_seconds and on (site, job_id) {INFO}",
            "red",
            "{{site}}/{{job_id}} ended",
        ),
    ),
    panels=[
        stat(
            "Tunnels that are up",
            "Of running jobs: what is behind them answers our token.",
            [
                now(f"sum({picked('rayslurm_tunnel_up')})", "up"),
                now(f"count({picked('rayslurm_tunnel_up')})", "in all", "B"),
            ],
            unit="short",
            empty="no tunnels",
            width=5,
        ),
        stat(
            "Others reach",
            "Ports of tunnels that are listened on at an address that others reach. It must be 0.",
            [now(f"sum({picked('rayslurm_tunnel_bind_exposed')})", "exposed")],
            unit="short",
            empty="no tunnels",
            steps=(("text", 0), ("green", 0), ("red", 1)),
        ),
        stat(
            "Not ours",
            "Tunnels' ports on which something else answers. It must be 0.",
            [
                now(
                    f"sum({picked(_FOREIGN)})",
                    "foreign",
                )
            ],
            unit="short",
            empty="no tunnels",
            steps=(("text", 0), ("green", 0), ("red", 1)),
        ),
        stat(
            "Rays that are ready",
            "Running jobs with every node in their Ray cluster.",
            [
                now(
                    "count("
                    + picked(
                        'rayslurm_job_state{state="running"}'
                        " and on (site, job_id) rayslurm_job_ray_ready_timestamp_seconds"
                    )
                    + ")",
                    "ready",
                ),
            ],
            unit="short",
            empty="none is ready",
        ),
        stat(
            "Nodes missing",
            "Nodes that a job pays for and its Ray doesn't have, once it was ready; and of how many jobs "
            "nothing is told now.",
            [
                now(
                    "sum(clamp_min(" + picked("rayslurm_ray_nodes_expected") + f" - on (site, job_id) {_ALIVE}, 0)"
                    " and on (site, job_id) rayslurm_job_ray_ready_timestamp_seconds)",
                    "missing",
                ),
                now(f"count({picked(_SILENT)})", "not told", "B"),
            ],
            unit="short",
            empty="none is ready",
            steps=(("text", 0), ("green", 0), ("orange", 1)),
        ),
        stat(
            "Longest idle",
            "Since a task or actor last held a CPU or GPU of that job's Ray.",
            [now(f"max({picked('rayslurm_ray_idle_seconds')})", "idle")],
            unit="s",
            empty="none is ready",
            steps=(("text", 0), ("green", 0), ("orange", 900), ("red", 1800)),
            width=3,
        ),
        timeline(
            "Tunnels over time",
            "Refused: nobody listens. Target down: the tunnel lives, what it leads to doesn't. Auth: a Ray that "
            "refuses our token. Foreign: something else answers. Those to nodes' metrics are in the table only.",
            [
                over_time(
                    "max by (site, job_id, job_name, tunnel) ("
                    + picked(coded("rayslurm_tunnel_state", 'tunnel!~"metrics-.+"', TUNNEL), "job_name")
                    + ")",
                    _JOB + " {{tunnel}}",
                )
            ],
            mappings=words(numbered(TUNNEL)),
            empty=_NO_TUNNEL,
            height=12,
        ),
        table(
            "Tunnels",
            "As they are now. How often the job started one again is what it last told.",
            [
                columns(
                    "max by (site, job_id, job_name, tunnel, state) ("
                    f"{picked('rayslurm_tunnel_state == 1', 'job_name')})",
                    "A",
                ),
                _of_tunnel("last_success_timestamp_seconds", "B", " * 1000"),
                _of_tunnel("probe_duration_seconds", "C"),
                _of_tunnel("restarts_total", "D"),
                _of_tunnel("bind_exposed", "E"),
            ],
            {
                "site": "Site",
                "job_id": "Job",
                "job_name": "Name",
                "tunnel": "Tunnel",
                "state": "State",
                "Value #B": "Last up",
                "Value #C": "Took",
                "Value #D": "Started again",
                "Value #E": "Exposed",
            },
            empty=_NO_TUNNEL,
            height=8,
            sort=("State", False),
            overrides=[
                job_link(),
                column("Site", custom_width=65),
                state("State", words(TUNNEL), 100),
                column("Last up", unit="dateTimeFromNow"),
                column("Took", unit="s", custom_width=80),
                column("Started again", unit="short", decimals=0, custom_width=105),
                column(
                    "Exposed",
                    unit="none",
                    mappings=words(NO_YES),
                    custom_cellOptions={"type": "color-text"},
                    custom_width=80,
                ),
            ],
        ),
        table(
            "Ray clusters",
            "As their dashboards tell. CPUs and GPUs: what tasks and actors hold of what there is.",
            [
                columns(
                    f"max by (site, job_id, job_name, ray_version) ({picked(_RAYS, 'job_name')})",
                    "A",
                ),
                _of_job(_ALIVE, "B"),
                _of_job("rayslurm_ray_nodes_expected", "C"),
                _of_job(_HELD.format("cpu"), "D"),
                _of_job(_HELD.format("gpu"), "E"),
                _of_job("rayslurm_ray_idle_seconds", "F"),
                _of_job("rayslurm_ray_gcs_up", "G"),
            ],
            {
                "site": "Site",
                "job_id": "Job",
                "job_name": "Name",
                "ray_version": "Ray",
                "Value #B": "Nodes",
                "Value #C": "of",
                "Value #D": "CPUs",
                "Value #E": "GPUs",
                "Value #F": "Idle for",
                "Value #G": "GCS",
            },
            empty="No Ray of this choice has answered: none runs, or none is ready.",
            height=8,
            sort=("Idle for", True),
            overrides=[
                job_link(),
                column("Site", custom_width=65),
                column("Ray", custom_width=75),
                column("Nodes", unit="short", decimals=0, custom_width=65),
                column("of", unit="short", decimals=0, custom_width=50),
                share("CPUs"),
                share("GPUs"),
                column("Idle for", unit="s", decimals=0, custom_width=85),
                column(
                    "GCS",
                    unit="none",
                    mappings=words(YES_NO),
                    custom_cellOptions={"type": "color-text"},
                    custom_width=60,
                ),
            ],
        ),
        row("Over time"),
        ratios(
            "CPUs that tasks and actors hold",
            "Of those that Ray has to give.",
            [
                over_time(
                    picked(_HELD.format("cpu"), "job_name"),
                    _JOB,
                )
            ],
            empty=_NO_RAY,
            beside=True,
        ),
        lines(
            "Nodes that are missing",
            "Expected and not alive.",
            [
                over_time(
                    picked(
                        f"max by (site, job_id) (rayslurm_ray_nodes_expected) - {_ALIVE}",
                        "job_name",
                    ),
                    _JOB,
                )
            ],
            unit="short",
            decimals=0,
            stepped=True,
            empty=_NO_RAY,
            beside=True,
        ),
        lines(
            "Idle for",
            "Since a task or actor last held a CPU or GPU.",
            [over_time(picked("rayslurm_ray_idle_seconds", "job_name"), _JOB)],
            unit="s",
            empty=_NO_RAY,
            beside=True,
        ),
        ratios(
            "CPU in use",
            "As Ray measures its nodes, the mean of a job's nodes; on a shared node with others' use.",
            [
                over_time(
                    picked(f"avg by (site, job_id) (ray_node_cpu_utilization{{{_RAY}}}) / 100", "job_name"),
                    _JOB,
                )
            ],
            empty=_NO_NODES,
            beside=True,
        ),
        ratios(
            "Memory in use",
            "As Ray measures its nodes, all of a job's nodes together.",
            [
                over_time(
                    picked(
                        f"sum by (site, job_id) (ray_node_mem_used{{{_RAY}}})"
                        f" / sum by (site, job_id) (ray_node_mem_total{{{_RAY}}})",
                        "job_name",
                    ),
                    _JOB,
                )
            ],
            empty=_NO_NODES,
            beside=True,
        ),
        lines(
            "How long probes of tunnels take",
            "The slowest tunnel of each job.",
            [
                over_time(
                    f"max by (site, job_id, job_name) ({picked('rayslurm_tunnel_probe_duration_seconds', 'job_name')})",
                    _JOB,
                )
            ],
            unit="s",
            empty=_NO_TUNNEL,
            beside=True,
        ),
        ratios(
            "Object store in use",
            "Bytes that objects take of what Ray set aside for them.",
            [
                over_time(
                    picked(_HELD.format("object_store_memory_bytes"), "job_name"),
                    _JOB,
                )
            ],
            empty=_NO_RAY,
            beside=True,
        ),
        lines(
            "Tunnels started again",
            "How often a tunnel's ssh ended and the job's loop started it again.",
            [
                over_time(
                    f"sum by (site, job_id, job_name) ({picked('rayslurm_tunnel_restarts_total', 'job_name')})",
                    _JOB,
                )
            ],
            unit="short",
            decimals=0,
            stepped=True,
            empty=_NO_TUNNEL,
            beside=True,
        ),
    ],
)
