"""Overview: is anything wrong, what runs, and what does it cost today."""

from __future__ import annotations

from grafana import frame
from grafana.panels import bars, column, job_link, levels, lines, row, share, stat, state, table
from grafana.queries import (
    CAMPAIGN,
    CAMPAIGN_RUNS,
    INFO,
    PROJECT,
    SITE,
    by_units,
    columns,
    marks,
    now,
    over_time,
    picked,
    rises,
)
from grafana.states import JOB, SEVERITY, TUNNEL, colours, words

_FIRING = 'alertname=~"RaySlurm.+", alertstate="firing"'
_BAD = "failed|out_of_memory|timeout|node_fail|boot_fail|deadline"


_ENDED_BADLY = f'rayslurm_job_end_timestamp_seconds and on (site, job_id) rayslurm_job_state{{state=~"{_BAD}"}}'

dashboard = frame.dashboard(
    "overview",
    "overview",
    ("Is anything wrong, what runs, and what does it cost. Values are collected from the sites at intervals."),
    span="24h",
    refresh="1m",
    choices=("site", "project", "campaign"),
    annotations=marks(
        Jobs_that_failed=(
            f"{_ENDED_BADLY} and on (site, job_id) {INFO}",
            "red",
            "{{site}}/{{job_id}} failed",
        ),
        Campaign_runs=CAMPAIGN_RUNS,
    ),
    panels=[
        stat(
            "Needs a look",
            "Alerts of severity warning or critical that fire now. It is counted beside the watchdog, which always "
            "fires: where Prometheus has not loaded the rules there is no figure, not a good one.",
            [
                now(
                    f'count(ALERTS{{{_FIRING}, severity=~"warning|critical|none"}})'
                    f' - count(ALERTS{{alertname="RaySlurmWatchdog", alertstate="firing"}})',
                    "alerts",
                )
            ],
            unit="short",
            empty="no rules loaded",
            steps=(("text", 0), ("green", 0), ("orange", 1)),
            width=3,
        ),
        stat(
            "Jobs now",
            "Unfinished jobs by their state. Unknown: no answer of the site names the job at the moment.",
            [
                now(
                    f'sum by (state) (rayslurm_jobs{{{SITE}, {CAMPAIGN}, state=~"pending|running|unknown"}})',
                    "{{state}}",
                )
            ],
            unit="short",
            empty="no site is configured",
            overrides=colours(JOB),
            width=5,
        ),
        stat(
            "Costs per hour now",
            "What all running jobs cost an hour, by the sites' rates. Kinds and units are never added up.",
            [
                now(
                    by_units("rayslurm_job_billing_rate_units_per_hour"),
                    "{{kind}} {{unit}}",
                )
            ],
            unit="none",
            decimals=1,
            named=True,
            empty="nothing runs",
            width=6,
        ),
        stat(
            "Billed in 24 hours",
            "Bills that became final within the last 24 hours. A bill is added when its job has ended.",
            [
                now(
                    f"sum by (kind, unit) "
                    f"(increase(rayslurm_billing_units_total{{{SITE}, {PROJECT}, {CAMPAIGN}}}[1d]))",
                    "{{kind}} {{unit}}",
                )
            ],
            unit="none",
            decimals=1,
            named=True,
            empty="no bill yet",
            width=6,
        ),
        stat(
            "Oldest data",
            "How long ago the queue of each site was last told. It is asked every 10 minutes at least.",
            [
                now(
                    f'time() - max by (site) (rayslurm_probe_last_success_timestamp_seconds{{{SITE}, probe="jobs"}})',
                    "{{site}}",
                )
            ],
            unit="s",
            decimals=0,
            empty="no answer yet",
            steps=(("text", 0), ("green", 0), ("orange", 900), ("red", 1800)),
            width=4,
        ),
        table(
            "Alerts that fire",
            "Each has a page in docs/runbooks by its name: what it means, what to check, what to do.",
            [
                columns(
                    "label_join(max by (severity, alertname, site, job_id, campaign, project, provider, "
                    "kind, unit, probe,"
                    " area, of, tunnel, parser, collector) ("
                    'ALERTS_FOR_STATE{alertname=~"RaySlurm.+", severity!="none"}'
                    f" and ignoring (alertstate) ALERTS{{{_FIRING}}}) * 1000,"
                    ' "about", " ", "provider", "kind", "unit", "probe", "area", "of", "tunnel", '
                    '"parser", "collector")',
                    "A",
                )
            ],
            {
                "severity": "Severity",
                "alertname": "Alert",
                "site": "Site",
                "job_id": "Job",
                "campaign": "Campaign",
                "project": "Project",
                "about": "About",
                "Value": "Since",
            },
            empty="Nothing but the watchdog fires.",
            height=6,
            sort=("Since", True),
            overrides=[
                state("Severity", words(SEVERITY)),
                column("Alert", custom_width=270),
                column("Site", custom_width=75),
                column("Since", unit="dateTimeFromNow", custom_width=150),
                job_link(),
            ],
        ),
        table(
            "Jobs",
            "Unfinished ones, and those that ended lately. Costs of unfinished jobs are estimates by the site's "
            "rates; efficiencies come with the job's end. A job's number leads to all of it.",
            [
                columns(
                    "max by (state, site, job_id, job_name, project, partition, campaign) ("
                    f"{picked('rayslurm_job_state', 'job_name', 'project', 'partition', 'campaign')})",
                    "A",
                ),
                columns(f"max by (site, job_id) ({picked('rayslurm_job_submit_timestamp_seconds')}) * 1000", "B"),
                columns(f"max by (site, job_id) ({picked('rayslurm_job_time_limit_seconds')})", "C"),
                columns(f"max by (site, job_id) ({picked('rayslurm_job_elapsed_seconds')})", "D"),
                columns(f"max by (site, job_id) ({picked('rayslurm_job_cpu_efficiency_ratio')})", "E"),
                columns(f"max by (site, job_id) ({picked('rayslurm_job_memory_efficiency_ratio')})", "F"),
                columns(
                    f"label_join(max by (site, job_id, kind, unit) ({picked('rayslurm_job_billing_units')}),"
                    ' "units", " ", "kind", "unit") or on (site, job_id)'
                    f" label_join(max by (site, job_id, kind, unit) "
                    f"({picked('rayslurm_job_billing_units_estimated')}),"
                    ' "units", " ", "kind", "unit")',
                    "G",
                ),
                columns(
                    "max by (site, job_id, tunnel_state) (label_replace("
                    + picked('rayslurm_tunnel_state{tunnel="dashboard"} == 1')
                    + ', "tunnel_state", "$1", "state", "(.*)"))',
                    "H",
                ),
            ],
            {
                "state": "State",
                "site": "Site",
                "job_id": "Job",
                "job_name": "Name",
                "project": "Project",
                "partition": "Partition",
                "campaign": "Campaign",
                "tunnel_state": "Tunnel",
                "Value #B": "Submitted",
                "Value #D": "Elapsed",
                "Value #C": "Limit",
                "Value #E": "CPU",
                "Value #F": "Memory",
                "Value #G": "Cost",
                "units": "Units",
            },
            empty="No job of this choice is unfinished or ended lately.",
            height=11,
            sort=("Submitted", True),
            overrides=[
                state("State", words(JOB), 118),
                state("Tunnel", words(TUNNEL), 95),
                job_link(),
                column("Site", custom_width=60),
                column("Project", custom_width=130),
                column("Partition", custom_width=95),
                column("Submitted", unit="dateTimeFromNow", custom_width=128),
                column("Limit", unit="s", custom_width=75),
                column("Elapsed", unit="s", custom_width=85),
                column("Cost", unit="none", decimals=2, custom_width=75),
                column("Units", custom_width=120),
                share("CPU", width=55),
                share("Memory", width=75),
            ],
        ),
        lines(
            "Jobs over time",
            "Unfinished jobs by their state.",
            [
                over_time(
                    f'sum by (state) (rayslurm_jobs{{{SITE}, {CAMPAIGN}, state=~"pending|running|suspended|unknown"}})',
                    "{{state}}",
                )
            ],
            unit="short",
            decimals=0,
            empty="No site is configured.",
            stacked=True,
            stepped=True,
            width=8,
            overrides=colours(JOB),
        ),
        bars(
            "How jobs ended",
            "Jobs that ended in each step of time, by their last state.",
            [rises(f"rayslurm_jobs_finished_total{{{SITE}, {PROJECT}, {CAMPAIGN}}}", "state", "{{state}}")],
            empty="No job ended in this time.",
            width=8,
            overrides=colours(JOB),
        ),
        lines(
            "Costs per hour",
            "What running jobs cost an hour, by the sites' rates.",
            [
                over_time(
                    by_units("rayslurm_job_billing_rate_units_per_hour"),
                    "{{kind}} {{unit}}",
                )
            ],
            unit="none",
            empty="Nothing ran in this time.",
            stepped=True,
            width=8,
        ),
        row("What comes, and what is left"),
        levels(
            "Left of what was granted",
            "By project and kind of units. Red below a twentieth, orange below a fifth.",
            [
                now(
                    "clamp_min(max by (project, kind, unit) ("
                    f'rayslurm_allocation_remaining{{{PROJECT}, kind!="storage"}}'
                    " / (rayslurm_allocation_granted > 0)), 0)",
                    "{{project}} {{kind}} {{unit}}",
                )
            ],
            empty="No provider has told a balance yet.",
            steps=(("text", 0), ("red", 0), ("orange", 0.05), ("green", 0.2)),
            width=10,
        ),
        table(
            "Next runs of campaigns",
            "When each is due, and what it did last. Within a paused campaign nothing is due.",
            [
                columns(
                    "max by (site, campaign) ("
                    f"rayslurm_campaign_next_run_timestamp_seconds{{{SITE}, {CAMPAIGN}}}) * 1000",
                    "A",
                ),
                columns(
                    "max by (site, campaign) ("
                    f"rayslurm_campaign_last_success_timestamp_seconds{{{SITE}, {CAMPAIGN}}}) * 1000",
                    "B",
                ),
                columns(
                    f"max by (site, campaign) (rayslurm_campaign_active_runs{{{SITE}, {CAMPAIGN}}})",
                    "C",
                ),
            ],
            {
                "campaign": "Campaign",
                "site": "Site",
                "Value #A": "Next run",
                "Value #B": "Last success",
                "Value #C": "Runs now",
            },
            empty="There is no campaign: `rayslurm campaigns check` says what it finds.",
            sort=("Next run", False),
            width=14,
            overrides=[
                column("Next run", unit="dateTimeFromNow", custom_width=150),
                column("Last success", unit="dateTimeFromNow", custom_width=150),
                column("Runs now", unit="short", decimals=0, custom_width=95),
            ],
        ),
    ],
)
