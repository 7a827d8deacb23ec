"""The dashboard of jobs: what runs and waits, how well it went, and how fresh all that is."""

from __future__ import annotations

from grafanalib.core import Dashboard, Stat, StateTimeline, Table, TableSortByField, Threshold, Time, TimeSeries

from grafana.parts import PROMETHEUS, as_table, column, columns, now, over_time, place, variables, words

_SITE = '{site=~"$site"}'
_UNFINISHED = "pending|running|suspended|unknown"

_STATES = words(
    running=("running", "blue"),
    pending=("pending", "purple"),
    suspended=("suspended", "purple"),
    completed=("completed", "green"),
    cancelled=("cancelled", "text"),
    preempted=("preempted", "text"),
    unknown=("unknown", "orange"),
    failed=("failed", "red"),
    out_of_memory=("out of memory", "red"),
    node_fail=("node failed", "red"),
    boot_fail=("boot failed", "red"),
    timeout=("timeout", "red"),
    deadline=("deadline", "red"),
)


def _efficiency(ref_id: str, of: str) -> object:
    return columns(
        f"max by (site, job_id, job_name, source) (rayslurm_job_{of}_efficiency_ratio{_SITE}"
        f" * on (site, job_id) group_left (job_name) rayslurm_job_info)",
        ref_id,
    )


def _per_job(ref_id: str, metric: str, factor: str = "") -> object:
    return columns(f"max by (site, job_id) (rayslurm_job_{metric}{_SITE}){factor}", ref_id)


dashboard = Dashboard(
    title="Ray on Slurm: jobs",
    uid="rayslurm-jobs",
    description="The jobs that rayslurm follows. Values are collected from the sites at intervals, not at the scrape.",
    tags=["rayslurm"],
    timezone="browser",
    time=Time("now-24h", "now"),
    refresh="1m",
    graphTooltip=1,
    templating=variables(),
    panels=[
        Stat(
            title="Unfinished jobs",
            description="Unknown: no answer of the site names the job at the moment.",
            dataSource=PROMETHEUS,
            gridPos=place(0, 0, 12, 5),
            targets=[now(f'sum by (state) (rayslurm_jobs{{site=~"$site", state=~"{_UNFINISHED}"}})', "{{state}}")],
            format="short",
            noValue="-",
            graphMode="none",
            reduceCalc="lastNotNull",
            thresholds=[Threshold("blue", 0, 0.0)],
        ),
        Stat(
            title="Age of the data",
            description="Since the site last answered a question. It is asked at least every 10 minutes.",
            dataSource=PROMETHEUS,
            gridPos=place(12, 0, 12, 5),
            targets=[
                now(f"time() - max by (site) (rayslurm_probe_last_success_timestamp_seconds{_SITE})", "{{site}}"),
            ],
            format="s",
            noValue="no answer yet",
            graphMode="none",
            reduceCalc="lastNotNull",
            thresholds=[Threshold("green", 0, 0.0), Threshold("orange", 1, 900.0), Threshold("red", 2, 1800.0)],
        ),
        Table(
            title="Jobs",
            description="Unfinished ones, and those that ended lately.",
            dataSource=PROMETHEUS,
            gridPos=place(0, 5, 24, 10),
            targets=[
                columns(
                    "max by (site, job_id, job_name, project, partition, campaign, state) ("
                    f"rayslurm_job_state{_SITE}"
                    " * on (site, job_id) group_left (job_name, project, partition, campaign) rayslurm_job_info)",
                    "A",
                ),
                _per_job("B", "submit_timestamp_seconds", " * 1000"),
                _per_job("C", "queue_wait_seconds"),
                _per_job("D", "elapsed_seconds"),
                _per_job("E", "time_limit_seconds"),
            ],
            transformations=as_table(
                {
                    "state": "State",
                    "site": "Site",
                    "job_id": "Job",
                    "job_name": "Name",
                    "project": "Project",
                    "partition": "Partition",
                    "campaign": "Campaign",
                    "Value #B": "Submitted",
                    "Value #C": "Waited",
                    "Value #D": "Elapsed",
                    "Value #E": "Limit",
                }
            ),
            overrides=[
                column("State", mappings=_STATES, **{"custom.cellOptions": {"type": "color-text"}}),
                column("Submitted", unit="dateTimeAsLocal"),
                column("Waited", unit="s"),
                column("Elapsed", unit="s"),
                column("Limit", unit="s"),
            ],
            sortBy=[TableSortByField("Submitted", desc=True)],
        ),
        TimeSeries(
            title="Unfinished jobs over time",
            dataSource=PROMETHEUS,
            gridPos=place(0, 15, 12, 8),
            targets=[
                over_time(f'sum by (state) (rayslurm_jobs{{site=~"$site", state=~"{_UNFINISHED}"}})', "{{state}}"),
            ],
            unit="short",
            valueMin=0,
            valueDecimals=0,
            fillOpacity=20,
            lineInterpolation="stepAfter",
            stacking={"mode": "normal", "group": "A"},
            tooltipMode="multi",
        ),
        TimeSeries(
            title="Jobs finished",
            description="How many ended, by how they ended.",
            dataSource=PROMETHEUS,
            gridPos=place(12, 15, 12, 8),
            targets=[
                over_time(
                    f"sum by (state) (increase(rayslurm_jobs_finished_total{_SITE}[$__interval]))",
                    "{{state}}",
                    interval="1h",
                ),
            ],
            unit="short",
            valueMin=0,
            valueDecimals=0,
            drawStyle="bars",
            fillOpacity=80,
            stacking={"mode": "normal", "group": "A"},
            tooltipMode="multi",
        ),
        Table(
            title="Efficiency of finished jobs",
            description="Used over allocated, and the source that says so.",
            dataSource=PROMETHEUS,
            gridPos=place(0, 23, 12, 9),
            targets=[_efficiency("A", "cpu"), _efficiency("B", "memory")],
            transformations=as_table(
                {
                    "site": "Site",
                    "job_id": "Job",
                    "job_name": "Name",
                    "Value #A": "CPU",
                    "Value #B": "Memory",
                    "source": "Source",
                }
            ),
            overrides=[
                column(
                    heading,
                    unit="percentunit",
                    min=0,
                    max=1,
                    color={"mode": "continuous-RdYlGr"},
                    **{"custom.cellOptions": {"type": "gauge", "mode": "basic"}},
                )
                for heading in ("CPU", "Memory")
            ],
            sortBy=[TableSortByField("Job", desc=True)],
        ),
        TimeSeries(
            title="Commands left this hour",
            description="rayslurm never sends a site more commands an hour than its budget.",
            dataSource=PROMETHEUS,
            gridPos=place(12, 23, 12, 9),
            targets=[
                over_time(f"rayslurm_site_command_budget_remaining{_SITE}", "{{site}}"),
                over_time(f"rayslurm_site_command_budget_limit{_SITE}", "{{site}} limit", "B"),
            ],
            unit="short",
            valueMin=0,
            valueDecimals=0,
            tooltipMode="multi",
        ),
        StateTimeline(
            title="Probes",
            description="Whether each question to each site went well when it was last asked.",
            dataSource=PROMETHEUS,
            gridPos=place(0, 32, 24, 6),
            targets=[over_time(f"min by (site, probe) (rayslurm_probe_success{_SITE})", "{{site}} {{probe}}")],
            mappings=words(_0=("failed", "red"), _1=("well", "green")),
        ),
    ],
).auto_panel_ids()
