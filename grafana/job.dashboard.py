"""Job: the life of one job on one time axis, from the queue to the bill."""

from __future__ import annotations

from grafana import frame
from grafana.panels import column, lines, ratios, row, share, stat, state, table, timeline
from grafana.queries import columns, marks, now, over_time, rows
from grafana.states import JOB, TUNNEL, coded, numbered, words

_JOB = 'site="$job_site", job_id="$job"'
_THIS = f"{{{_JOB}}}"
_NOW = f"{_THIS} and on (tunnel) rayslurm_tunnel_state{_THIS}"
_NO_NODES = "Prometheus has nothing from its nodes: needs metrics tunnels in the spec."
_NO_RAY = "Its Ray told nothing in this time."
_FIRST_TUNNEL = 21
_CODES = {
    **numbered(JOB),
    **numbered(TUNNEL, _FIRST_TUNNEL),
    "40": ("no answer", "red"),
    "41": ("answers", "green"),
    "50": ("nodes missing", "orange"),
    "51": ("all nodes", "green"),
}
"""What the rows of the timeline mean: a job's states, its tunnels' states, Ray."""


def _every(metric: str) -> str:
    return f"max without (instance, job) (rayslurm_{metric}{_THIS})"


def _at(metric: str) -> str:
    return f"{_every(f'job_{metric}_timestamp_seconds')} * 1000"


_TIMES = rows(
    "moment",
    submitted=_at("submit"),
    expected=_at("expected_start"),
    started=_at("start"),
    Ray_ready=_at("ray_ready"),
    ended=_at("end"),
    limit=_at("limit"),
)
_SIZE = rows(
    "what",
    nodes=_every("job_nodes"),
    CPUs=_every("job_cpus"),
    GPUs=_every("job_gpus"),
    exit_code=_every("job_exit_code"),
    restarts=_every("job_restarts"),
)
_TIME_USED = rows(
    "what",
    CPU_time=_every("job_cpu_used_seconds"),
    CPU_time_allocated=_every("job_cpu_allocated_seconds"),
)
_BYTES_USED = rows(
    "what",
    memory_peak=_every("job_memory_peak_bytes"),
    memory_allocated=_every("job_memory_allocated_bytes"),
    files_read=_every("job_average_disk_read_bytes"),
    files_written=_every("job_average_disk_write_bytes"),
)
_ENERGY_USED = rows("what", energy=_every("job_energy_joules"))
_FREQUENCY = rows("what", CPU_frequency=_every("job_average_cpu_frequency_hertz"))
_EFFICIENCIES = rows(
    "what",
    CPU=_every("job_cpu_efficiency_ratio"),
    memory=_every("job_memory_efficiency_ratio"),
    GPU=_every("job_gpu_efficiency_ratio"),
    time=_every("job_walltime_efficiency_ratio"),
)
_USED = "max by (what, source)"

dashboard = frame.dashboard(
    "job",
    "job",
    "One job from its submission to its bill. Beside what Slurm says stands what its Ray says of itself.",
    span="6h",
    refresh="1m",
    choices=("job_site", "job"),
    annotations=marks(
        Start=(_every("job_start_timestamp_seconds"), "blue", "started"),
        Ray_ready=(_every("job_ray_ready_timestamp_seconds"), "green", "Ray is ready"),
        End=(_every("job_end_timestamp_seconds"), "red", "ended"),
        Time_limit=(_every("job_limit_timestamp_seconds"), "orange", "reaches its time limit"),
    ),
    panels=[
        stat(
            "State",
            "In Slurm's words.",
            [now(coded("rayslurm_job_state", _JOB, JOB), "")],
            unit="none",
            mappings=words(numbered(JOB)),
            empty="no such job now",
        ),
        stat(
            "Name",
            "Without rayslurm's token.",
            [columns(f"max by (job_name) (rayslurm_job_info{_THIS})", "A")],
            unit="none",
            field="job_name",
            width=3,
            empty="not on /metrics now",
        ),
        stat(
            "Waited",
            "From its submission to its start.",
            [now(_every("job_queue_wait_seconds"), "")],
            unit="s",
            empty="has not started",
            width=3,
        ),
        stat(
            "Elapsed",
            "How long it has run, or ran.",
            [now(_every("job_elapsed_seconds"), "")],
            unit="s",
            empty="has not started",
            width=3,
        ),
        stat(
            "To its limit",
            "How long it may still run.",
            [now(f"{_every('job_limit_timestamp_seconds')} - time()", "")],
            unit="s",
            empty="does not run",
            steps=(("text", 0), ("red", 0), ("orange", 600), ("blue", 1800)),
            width=3,
        ),
        stat(
            "Cost",
            "Its bill when it has ended, else what it has cost so far by the site's rates.",
            [
                now(
                    f"max by (kind, unit) (rayslurm_job_billing_units{_THIS})"
                    f" or max by (kind, unit) (rayslurm_job_billing_units_estimated{_THIS})",
                    "{{kind}} {{unit}}",
                )
            ],
            unit="none",
            decimals=2,
            named=True,
            empty="not known",
        ),
        stat(
            "Waits for",
            "In Slurm's word.",
            [columns(f"max by (reason) (rayslurm_job_pending_reason{_THIS})", "A")],
            unit="none",
            field="reason",
            steps=(("text", 0),),
            empty="does not wait",
            width=4,
        ),
        timeline(
            "One life",
            "What the queue said of the job, whether its Ray answers and is whole, and how each of its tunnels is.",
            [
                over_time(f"max by (site) ({coded('rayslurm_job_state', _JOB, JOB)})", "Slurm"),
                over_time(f"max by (site) (rayslurm_ray_gcs_up{_THIS}) + 40", "Ray", "B"),
                over_time(
                    f'50 + (sum by (site) (rayslurm_ray_nodes{{{_JOB}, state="alive"}})'
                    f" >= bool sum by (site) (rayslurm_ray_nodes_expected{_THIS}))",
                    "nodes",
                    "C",
                ),
                over_time(
                    f"max by (tunnel) ({coded('rayslurm_tunnel_state', _JOB, TUNNEL, _FIRST_TUNNEL)})",
                    "tunnel {{tunnel}}",
                    "D",
                ),
            ],
            mappings=words(_CODES),
            empty="Nothing was told of this job in this time.",
            height=9,
        ),
        ratios(
            "What tasks and actors hold",
            "Of the CPUs, GPUs and memory that Ray has to give: nothing held means that the job costs for nothing.",
            [
                over_time(
                    f"max by (resource) (rayslurm_ray_resource_used{_THIS})"
                    f" / (max by (resource) (rayslurm_ray_resource_capacity{_THIS}) > 0)",
                    "{{resource}}",
                )
            ],
            empty=_NO_RAY,
        ),
        lines(
            "Cost so far",
            "Estimated while it runs, and its bill when it has ended.",
            [
                over_time(
                    f"max by (kind, unit) (rayslurm_job_billing_units_estimated{_THIS})",
                    "estimated {{kind}} {{unit}}",
                ),
                over_time(
                    f"max by (kind, unit, source) (rayslurm_job_billing_units{_THIS})",
                    "bill {{kind}} {{unit}} ({{source}})",
                    "B",
                ),
            ],
            unit="none",
            empty="Nothing is known of it: it has not started, or the site names no rate.",
        ),
        row("Its nodes, as its Ray measures them"),
        ratios(
            "CPU of its nodes",
            "What is in use of all the CPUs of a node, others' included where the node is shared.",
            [over_time(f"max by (node) (ray_node_cpu_utilization{_THIS}) / 100", "{{node}}")],
            empty=_NO_NODES,
            width=8,
        ),
        ratios(
            "Memory of its nodes",
            "Used of what the node has, or of what the job may use where its cgroup says so.",
            [
                over_time(
                    f"max by (node) (ray_node_mem_used{_THIS}) / max by (node) (ray_node_mem_total{_THIS})",
                    "{{node}}",
                )
            ],
            empty=_NO_NODES,
            width=8,
        ),
        ratios(
            "GPUs of its nodes",
            "How busy a node's GPUs are, and how busy the least busy of them is.",
            [
                over_time(f"avg by (node) (ray_node_gpus_utilization{_THIS}) / 100", "{{node}} mean"),
                over_time(f"min by (node) (ray_node_gpus_utilization{_THIS}) / 100", "{{node}} least", "B"),
            ],
            empty="Prometheus has nothing of GPUs in its nodes.",
            width=8,
        ),
        lines(
            "Network of its nodes",
            "Sent, and received below the line.",
            [
                over_time(f"max by (node) (ray_node_network_send_speed{_THIS})", "{{node}} sent"),
                over_time(f"- max by (node) (ray_node_network_receive_speed{_THIS})", "{{node}} received", "B"),
            ],
            unit="Bps",
            lowest=None,
            empty=_NO_NODES,
            width=8,
        ),
        lines(
            "Nodes of its Ray",
            "In Ray's words, and how many there should be.",
            [
                over_time(f"max by (state) (rayslurm_ray_nodes{_THIS})", "{{state}}"),
                over_time(f"max by (site) (rayslurm_ray_nodes_expected{_THIS})", "expected", "B"),
            ],
            unit="short",
            decimals=0,
            stepped=True,
            empty=_NO_RAY,
            width=8,
        ),
        lines(
            "Idle for",
            "Since a task or actor last held a CPU or GPU.",
            [over_time(f"max by (site) (rayslurm_ray_idle_seconds{_THIS})", "idle")],
            unit="s",
            empty=_NO_RAY,
            width=8,
        ),
        row("When it has ended"),
        table(
            "Used of what it had",
            "Work over what was allocated, and time taken over the time limit.",
            [columns(f"{_USED} ({_EFFICIENCIES})", "A")],
            {"what": "What", "Value": "Used", "source": "Source"},
            empty="Told when it has ended, by seff or sacct.",
            sort=("What", False),
            overrides=[share("Used")],
            width=5,
            height=9,
        ),
        table(
            "Its times",
            "Expected is what Slurm last guessed while it waited.",
            [
                columns(
                    f"max by (moment) ({_TIMES})",
                    "A",
                )
            ],
            {"moment": "What", "Value": "When"},
            empty="Nothing is told of this job now.",
            sort=("When", False),
            overrides=[column("When", unit="dateTimeAsLocal", custom_width=170)],
            width=5,
            height=9,
        ),
        table(
            "Its size",
            "As Slurm counts: on LUMI a CPU is a hardware thread.",
            [
                columns(
                    f"max by (what) ({_SIZE})",
                    "A",
                )
            ],
            {"what": "What", "Value": "Number"},
            empty="Nothing is told of this job now.",
            overrides=[column("Number", unit="none", decimals=0)],
            width=4,
            height=9,
        ),
        table(
            "What it used",
            "The memory of all nodes together at its highest; files as the busiest task read and wrote them.",
            [
                columns(
                    f"{_USED} ({_TIME_USED})",
                    "A",
                ),
                columns(
                    f"{_USED} ({_BYTES_USED})",
                    "B",
                ),
                columns(
                    f"{_USED} ({_ENERGY_USED})",
                    "C",
                ),
                columns(
                    f"{_USED} ({_FREQUENCY})",
                    "D",
                ),
            ],
            {
                "what": "What",
                "Value #A": "Time",
                "Value #B": "Bytes",
                "Value #C": "Energy",
                "Value #D": "Frequency",
                "source": "Source",
            },
            empty="Told when it has ended, by seff or sacct.",
            overrides=[
                column("Time", unit="s"),
                column("Bytes", unit="bytes"),
                column("Energy", unit="joule"),
                column("Frequency", unit="hertz"),
                column("What", custom_width=145),
            ],
            width=10,
            height=9,
        ),
        row("Its tunnels"),
        table(
            "Tunnels",
            "Each is asked by HTTP through the tunnel, with the job's token.",
            [
                columns(f"max by (tunnel, state) (rayslurm_tunnel_state{_THIS} == 1)", "A"),
                columns(f"max by (tunnel) (rayslurm_tunnel_last_success_timestamp_seconds{_NOW}) * 1000", "B"),
                columns(f"max by (tunnel) (rayslurm_tunnel_probe_duration_seconds{_NOW})", "C"),
                columns(f"max by (tunnel) (rayslurm_tunnel_restarts_total{_NOW})", "D"),
            ],
            {
                "tunnel": "Tunnel",
                "state": "State",
                "Value #B": "Last up",
                "Value #C": "Took",
                "Value #D": "Started again",
            },
            empty="It has no tunnel now: it does not run, or its spec asks for none.",
            overrides=[
                state("State", words(TUNNEL)),
                column("Last up", unit="dateTimeFromNow"),
                column("Took", unit="s"),
                column("Started again", unit="short", decimals=0),
            ],
            width=14,
            height=7,
        ),
        table(
            "Its project and partition",
            "The names that belong to it.",
            [columns(f"max by (project, partition, campaign, user) (rayslurm_job_info{_THIS})", "A")],
            {"project": "Project", "partition": "Partition", "campaign": "Campaign", "user": "User"},
            empty="Nothing is told of this job now.",
            width=7,
            height=7,
        ),
        stat(
            "Ray",
            "The version of its Ray, as it tells it.",
            [columns(f"max by (ray_version) (rayslurm_ray_cluster_info{_THIS})", "A")],
            unit="none",
            field="ray_version",
            empty="has told no version",
            width=3,
            height=7,
        ),
    ],
)
