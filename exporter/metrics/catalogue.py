"""Every metric: name, type, help, labels. The one place where they are named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

PREFIX = "rayslurm_"

_INTERVAL = " Collected at an interval, not at the scrape."

Family = CounterMetricFamily | GaugeMetricFamily


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: in full, as it stands on /metrics.
        kind: its type.
        help: what it says, for people.
        labels: the names of its labels, in order.
    """

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...]

    def family(self) -> Family:
        """Returns an empty family, to which a collector adds samples with values in the order of `labels`."""
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return make(self.name, self.help, labels=self.labels)


def _metric(name: str, kind: Literal["gauge", "counter"], labels: str, text: str, *, sampled: bool = True) -> Metric:
    return Metric(PREFIX + name, kind, text + (_INTERVAL if sampled else ""), tuple(labels.split()))


_JOB = "site job_id"
_EFFICIENCY = "site job_id source"
_BALANCE = "provider project kind unit"
_PROJECT = "provider project"
_AREA = "site area project"
_TUNNEL = "site job_id tunnel"
_CAMPAIGN = "site campaign"
_RESOURCE = "site job_id resource"

_METRICS = (
    # Job
    _metric(
        "job_info", "gauge", "site job_id project partition job_name campaign user",
        "The names that belong to a job; always 1.",
    ),
    _metric("job_state", "gauge", "site job_id state", "The state a job is in, in Slurm's words; 1 for that one only."),
    _metric("job_pending_reason", "gauge", "site job_id reason", "Why a job waits, in Slurm's word; 1 for that one."),
    _metric("jobs", "gauge", "site campaign state", "How many of the jobs shown are in a state."),
    _metric("job_submit_timestamp_seconds", "gauge", _JOB, "When a job was submitted."),
    _metric("job_expected_start_timestamp_seconds", "gauge", _JOB, "When Slurm expects a waiting job to start."),
    _metric("job_start_timestamp_seconds", "gauge", _JOB, "When a job started."),
    _metric(
        "job_ray_ready_timestamp_seconds", "gauge", _JOB, "When every node of a job was in its Ray cluster."
    ),
    _metric("job_end_timestamp_seconds", "gauge", _JOB, "When a job ended."),
    _metric("job_limit_timestamp_seconds", "gauge", _JOB, "When a running job reaches its time limit."),
    _metric("job_time_limit_seconds", "gauge", _JOB, "How long a job may take."),
    _metric("job_elapsed_seconds", "gauge", _JOB, "How long a job has run, or ran."),
    _metric("job_queue_wait_seconds", "gauge", _JOB, "How long a job waited from its submission to its start."),
    _metric("job_exit_code", "gauge", _JOB, "The exit code of a finished job."),
    _metric("job_restarts", "gauge", _JOB, "How often Slurm started a job again."),
    _metric("job_nodes", "gauge", _JOB, "Nodes of a job."),
    _metric("job_cpus", "gauge", _JOB, "CPUs of a job, as Slurm counts them."),
    _metric("job_gpus", "gauge", _JOB, "GPUs of a job."),
    # Efficiency
    _metric(
        "job_cpu_efficiency_ratio", "gauge", _EFFICIENCY, "CPU time used over CPU time allocated, of a finished job."
    ),
    _metric("job_memory_efficiency_ratio", "gauge", _EFFICIENCY, "Peak memory over memory allocated."),
    _metric("job_gpu_efficiency_ratio", "gauge", _EFFICIENCY, "Mean load of the GPUs."),
    _metric("job_walltime_efficiency_ratio", "gauge", _EFFICIENCY, "Time taken over the time limit."),
    _metric("job_cpu_used_seconds", "gauge", _EFFICIENCY, "CPU time that a job used."),
    _metric("job_cpu_allocated_seconds", "gauge", _EFFICIENCY, "CPU time that was allocated to a job."),
    _metric("job_memory_peak_bytes", "gauge", _EFFICIENCY, "The most memory that a step of a job used over its nodes."),
    _metric("job_memory_allocated_bytes", "gauge", _EFFICIENCY, "Memory that was allocated to a job over its nodes."),
    _metric(
        "job_average_cpu_frequency_hertz", "gauge", _EFFICIENCY, "Average CPU frequency of the step that used most CPU."
    ),
    _metric(
        "job_average_disk_read_bytes", "gauge", _EFFICIENCY,
        "Average bytes read by a task of the step that used most CPU.",
    ),
    _metric(
        "job_average_disk_write_bytes", "gauge", _EFFICIENCY,
        "Average bytes written by a task of the step that used most CPU.",
    ),
    _metric("job_energy_joules", "gauge", _EFFICIENCY, "Energy that a job took, where the site measures it."),
    # Lifetime
    _metric("jobs_submitted_total", "counter", "site campaign", "Jobs that rayslurm submitted."),
    _metric(
        "jobs_finished_total", "counter", "site project partition campaign state",
        "Followed jobs that ended, by their last state.",
    ),
    _metric(
        "billing_units_total", "counter", "site project campaign kind unit",
        "What followed jobs cost; a job's bill is added once, when it is final. Never add up kinds or units.",
    ),
    _metric(
        "wasted_billing_units_total", "counter", "site project campaign kind unit reason",
        "What of billing_units_total was paid while a launched job was of no use, added when its bill is final: "
        "never_ready (its Ray never was), tunnel_down (it has no entrypoint and its dashboard was not reached) or idle "
        "(its Ray used no CPU and no GPU); only times that were seen, and each once.",
    ),
    _metric(
        "billing_estimate_mismatches_total", "counter", "site",
        "Jobs whose last estimate, for the time that they took, was not what they cost but for rounding.",
    ),
    # Billing
    _metric(
        "job_billing_units", "gauge", "site job_id kind unit source",
        "What a finished job cost, all its attempts together; source says whose figure it is.",
    ),
    _metric(
        "job_billing_units_estimated", "gauge", f"{_JOB} kind unit source",
        "What an unfinished job has cost so far by what the queue last told of it, all its attempts together; source "
        "says by which rule: formula (the site's rates) or squeue (Slurm's billing TRES times hours).",
    ),
    _metric(
        "job_billing_rate_units_per_hour", "gauge", f"{_JOB} kind unit source",
        "What an hour of a running job costs.",
    ),
    _metric("allocation_granted", "gauge", _BALANCE, "What a project was granted; absent where nothing was."),
    _metric("allocation_used", "gauge", _BALANCE, "What a project has used."),
    _metric("allocation_remaining", "gauge", _BALANCE, "What a project has left; below 0 where it is overspent."),
    _metric(
        "allocation_used_since_grant", "gauge", _BALANCE,
        "What a project has used since its latest grant; absent where no reading reaches back to that.",
    ),
    _metric("allocation_read_timestamp_seconds", "gauge", _PROJECT, "When a project's balances were last read."),
    _metric(
        "allocation_updated_timestamp_seconds", "gauge", _PROJECT, "When the provider worked out a project's balances."
    ),
    _metric(
        "project_accessible", "gauge", _PROJECT,
        "Whether the provider tells us of a project; 0 where it says that the project is none of ours.",
    ),
    _metric("project_end_timestamp_seconds", "gauge", _PROJECT, "The day on which a project ends."),
    _metric("project_last_grant_timestamp_seconds", "gauge", _PROJECT, "The day of a project's latest grant."),
    _metric(
        "allocation_delta_units", "gauge", _BALANCE,
        "By how much a project's use rose over the latest window between two of the provider's reckonings, at most a "
        "day.",
    ),
    _metric(
        "allocation_delta_attributed_ratio", "gauge", _BALANCE,
        "The share of that which followed jobs cost in the window; the rest is others' use. Absent where nothing was "
        "used, it isn't known what one of them cost, or rounding to whole units could be much of it.",
    ),
    _metric("storage_used_bytes", "gauge", _AREA, "Bytes used in a disk area."),
    _metric("storage_limit_bytes", "gauge", _AREA, "Bytes that a disk area may hold."),
    _metric("storage_used_files", "gauge", _AREA, "Files in a disk area."),
    _metric("storage_limit_files", "gauge", _AREA, "Files that a disk area may hold."),
    # Ray
    _metric("ray_cluster_info", "gauge", f"{_JOB} ray_version", "A job's Ray and its version; always 1."),
    _metric(
        "ray_nodes", "gauge", f"{_JOB} state",
        "Nodes of a running job's Ray by their state, in Ray's word; absent while its dashboard doesn't answer.",
    ),
    _metric("ray_nodes_expected", "gauge", _JOB, "Nodes that a running job's Ray should have, by its spec."),
    _metric(
        "ray_resource_capacity", "gauge", _RESOURCE,
        "What a running job's Ray has: cpu, gpu, memory_bytes, object_store_memory_bytes.",
    ),
    _metric(
        "ray_resource_used", "gauge", _RESOURCE,
        "What of that tasks and actors hold; object_store_memory_bytes is what objects take.",
    ),
    _metric("ray_gcs_up", "gauge", _JOB, "Whether the control store of a running job's Ray answers its dashboard."),
    _metric(
        "ray_idle_seconds", "gauge", _JOB,
        "For how long no task or actor has held a CPU or GPU of a running job's Ray, as far as it was seen; 0 while "
        "one does.",
    ),
    # Tunnel
    _metric(
        "tunnel_up", "gauge", _TUNNEL,
        "Whether what a running job's tunnel leads to answers through it: dashboard, client, serve, or metrics-N of "
        "the N-th node. The dashboard must take our token too.",
    ),
    _metric(
        "tunnel_state", "gauge", f"{_TUNNEL} state",
        "How a running job's tunnel is: up, refused (nobody listens), timeout, auth (a Ray that refuses our token), "
        "foreign (something else answers) or target_down (it lives, its target does not); 1 for that one only.",
    ),
    _metric("tunnel_probe_duration_seconds", "gauge", _TUNNEL, "How long the last probe of a tunnel took."),
    _metric("tunnel_last_success_timestamp_seconds", "gauge", _TUNNEL, "When a tunnel was last up."),
    _metric(
        "tunnel_restarts_total", "counter", _TUNNEL,
        "How often a tunnel's ssh ended and the job's loop started it again, as the job itself last told: it is asked "
        "about 2 minutes after a repair that is seen here, and every hour.",
    ),
    _metric(
        "tunnel_bind_exposed", "gauge", _TUNNEL,
        "Whether a tunnel's port is listened on at an address that others reach, by this machine's kernel; absent "
        "where that can't be read.",
    ),
    # Campaign
    _metric("campaign_info", "gauge", f"{_CAMPAIGN} schedule", "A campaign and its schedule in words; always 1."),
    _metric(
        "campaign_created_timestamp_seconds", "gauge", _CAMPAIGN, "When a campaign's file was first seen."
    ),
    _metric(
        "campaign_next_run_timestamp_seconds", "gauge", _CAMPAIGN,
        "The next time of a campaign's schedule; absent while it is paused, and after its end.",
    ),
    _metric(
        "campaign_last_run_timestamp_seconds", "gauge", _CAMPAIGN,
        "When the first job of a campaign's latest run was launched.",
    ),
    _metric(
        "campaign_last_success_timestamp_seconds", "gauge", _CAMPAIGN,
        "When the latest run of a campaign ended of which every job succeeded.",
    ),
    _metric(
        "campaign_runs_total", "counter", f"{_CAMPAIGN} outcome",
        "Runs of a campaign that ended: succeeded, failed, cancelled, or refused before a job was submitted.",
    ),
    _metric(
        "campaign_missed_runs_total", "counter", _CAMPAIGN,
        "Times of a campaign's schedule that gave no run: rayslurm was not there, or the run before still went on.",
    ),
    _metric(
        "campaign_refusals_total", "counter", f"{_CAMPAIGN} reason",
        "Jobs of a campaign that were refused: by policy (what is known of the site), budget, site (sbatch) or spec.",
    ),
    _metric("campaign_active_runs", "gauge", _CAMPAIGN, "Runs of a campaign that go on now."),
    _metric("campaign_paused", "gauge", _CAMPAIGN, "Whether a campaign is paused, by its file or by a person."),
    _metric(
        "campaign_budget_limit_units", "gauge", f"{_CAMPAIGN} kind unit period",
        "What the jobs of a campaign may cost together in a run, week or month, by its file.",
    ),
    _metric(
        "campaign_budget_remaining_units", "gauge", f"{_CAMPAIGN} kind unit period",
        "What is left of that after what is paid and what jobs without a bill may cost; run is the one that goes on.",
    ),
    _metric(
        "campaign_next_run_would_overdraw", "gauge", _CAMPAIGN,
        "Whether the next run of a campaign, all its jobs at their time limits, would be refused for its cost as it "
        "stands; absent where nothing is set or its price isn't known.",
    ),
    # Itself
    _metric(
        "config_reload_success", "gauge", "", "Whether all campaigns' files were good when they were last read."
    ),
    _metric(
        "config_reload_timestamp_seconds", "gauge", "", "When all campaigns' files were last good, as they were read."
    ),
    _metric("probe_success", "gauge", "site probe", "Whether a probe went well when it last ran."),
    _metric(
        "probe_failure_reason", "gauge", "site probe reason",
        "Why a probe failed when it last ran, in one word; absent where it went well.",
    ),
    _metric("probe_duration_seconds", "gauge", "site probe", "How long the last run of a probe took."),
    _metric("probe_last_success_timestamp_seconds", "gauge", "site probe", "When a probe last went well."),
    _metric("parse_errors_total", "counter", "site parser", "Rows of a site's answers that were not understood."),
    _metric("remote_commands_total", "counter", "site command outcome", "Commands sent to a site, and how they ended."),
    _metric(
        "remote_commands_throttled_total", "counter", "site", "Commands not sent because the hour's budget was used up."
    ),
    _metric("site_command_budget_limit", "gauge", "site", "Commands that may be sent to a site in an hour."),
    _metric(
        "site_command_budget_remaining", "gauge", "site",
        "Commands that may still be sent within this hour, those kept back for people included.", sampled=False,
    ),
    _metric("ssh_connections_total", "counter", "site outcome", "Attempts to log in to a site, and how they ended."),
    _metric(
        "ssh_certificate_expiry_timestamp_seconds", "gauge", "site", "When the certificate to log in with ends."
    ),
    _metric(
        "collector_success", "gauge", "collector", "Whether a part of this page could be made.", sampled=False
    ),
    _metric("jobs_tracked", "gauge", "", "Jobs that stand on this page.", sampled=False),
    _metric(
        "jobs_omitted", "gauge", "", "Finished jobs left out because of metrics.max_jobs.", sampled=False
    ),
    _metric(
        "archive_objects_total", "counter", "outcome",
        "Objects of ended jobs by what became of them: uploaded, present, failed (a try), given_up.", sampled=False,
    ),
    _metric("archive_pending_objects", "gauge", "", "Objects on their way to the archive.", sampled=False),
    _metric(
        "archive_oldest_pending_timestamp_seconds", "gauge", "", "Since when the oldest of them is.", sampled=False
    ),
    _metric("store_size_bytes", "gauge", "", "Bytes that the store takes on disk.", sampled=False),
    _metric("build_info", "gauge", "version python", "The versions of rayslurm and Python; always 1.", sampled=False),
)  # fmt: skip

CATALOGUE = {metric.name: metric for metric in _METRICS}
"""All metrics by their full name."""


class Families:
    """The families that one collector fills, made on first use, in the catalogue's order.

    Names are given without the prefix.
    """

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def add(self, name: str, value: float | None, /, *labels: str) -> None:
        """Adds a sample; None adds nothing: unknown is absent."""
        if value is None:
            return
        full = PREFIX + name
        if full not in self._families:
            self._families[full] = CATALOGUE[full].family()
        self._families[full].add_metric(labels, value)

    def in_order(self) -> list[Family]:
        """Returns the families that have samples."""
        return [self._families[name] for name in CATALOGUE if name in self._families]
