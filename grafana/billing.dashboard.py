"""Billing: grants, pace, forecast, cutter; what was paid by whom, for what, and how well it was used."""

from __future__ import annotations

from grafana import frame
from grafana.panels import bars, column, job_link, lines, row, share, stat, state, table
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
from grafana.states import JOB, words

_PAGE_URL = "http://${__value.text}/jobs/${__data.fields.Site}/${__data.fields.Job}"
_OURS = f"{SITE}, {PROJECT}, {CAMPAIGN}"
_GRANT = "by (provider, project, kind, unit)"
_LONG = "(rayslurm_job_elapsed_seconds >= on () group_left () rayslurm:threshold:long_job_seconds)"
_LITTLE = "on () group_left () rayslurm:threshold:efficiency_ratio"
_WASTEFUL = (
    f"(max by (site, job_id) (rayslurm_job_gpu_efficiency_ratio) < {_LITTLE}"
    f" or (max by (site, job_id) (rayslurm_job_cpu_efficiency_ratio) < {_LITTLE}"
    " unless on (site, job_id) rayslurm_job_gpus > 0))"
    f" and on (site, job_id) {_LONG}"
)
"""As the alert RaySlurmEfficiencyLow has it: GPU jobs by their GPUs, others by their CPUs."""


_GRANTED = "and on (provider, project) rayslurm_allocation_used_since_grant"


def _balance(series: str, ref_id: str, factor: str = "") -> object:
    return columns(f"max {_GRANT} ({series}{{{PROJECT}}}){factor}", ref_id)


def _project(metric: str, ref_id: str, factor: str = "") -> object:
    return columns(f"max by (provider, project) ({metric}{{{PROJECT}}}){factor}", ref_id)


def _ended(metric: str, ref_id: str) -> object:
    ended = picked(f"rayslurm_job_{metric} and on (site, job_id) rayslurm_job_end_timestamp_seconds")
    return columns(f"max by (site, job_id) ({ended})", ref_id)


def _area(metric: str, ref_id: str) -> object:
    return columns(f"max by (site, area, project) (rayslurm_storage_{metric}{{{SITE}, {PROJECT}}})", ref_id)


_WHOSE = [column(heading, custom_width=width) for heading, width in (("Provider", 85), ("Kind", 75), ("Unit", 100))]


dashboard = frame.dashboard(
    "billing",
    "billing",
    ("What there is to spend, how fast it goes, and what it was spent on. Kinds and units are never added up."),
    span="7d",
    refresh="5m",
    choices=("site", "account", "campaign"),
    annotations=marks(
        Grants=(
            f"max by (project) (rayslurm_project_last_grant_timestamp_seconds{{{PROJECT}}})",
            "green",
            "{{project}} got a grant",
        ),
        Campaign_runs=CAMPAIGN_RUNS,
    ),
    panels=[
        stat(
            "Costs per hour now",
            "All running jobs, by the sites' rates.",
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
            "Unfinished jobs so far",
            "What they have cost up to now, estimated. It is billed when they end.",
            [
                now(
                    by_units("rayslurm_job_billing_units_estimated"),
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
            "Billed",
            "Bills that became final within the time range.",
            [
                now(
                    f"sum by (kind, unit) (increase(rayslurm_billing_units_total{{{_OURS}}}[$__range]))",
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
            "Of that for nothing",
            "Paid while a job was of no use: its Ray never ready, its tunnel down, or idle. Only what was seen counts.",
            [
                now(
                    f"sum by (kind, unit) (increase(rayslurm_wasted_billing_units_total{{{_OURS}}}[$__range]))",
                    "{{kind}} {{unit}}",
                )
            ],
            unit="none",
            decimals=2,
            named=True,
            empty="no bill yet",
            steps=(("text", 0), ("green", 0), ("orange", 1)),
            width=6,
        ),
        row("What there is"),
        table(
            "Grants",
            "A balance is the provider's word, as old as the last column says: since it was worked out, or where the "
            "provider doesn't tell that, since it was read. Pace is what everybody of the project "
            "used a day over the last week, and our share of it is what jobs followed here were billed.",
            [
                _balance("rayslurm_allocation_used", "A"),
                _balance("rayslurm_allocation_granted", "B"),
                _balance("rayslurm_allocation_remaining", "C"),
                columns(
                    f"clamp_min(max {_GRANT} (rayslurm_allocation_remaining{{{PROJECT}}}"
                    " / (rayslurm_allocation_granted > 0)), 0)",
                    "D",
                ),
                _balance("rayslurm:allocation_used:per_day_1d", "E"),
                _balance("rayslurm:allocation_used:per_day_7d", "F"),
                columns(
                    f"max by (project, kind, unit) (rayslurm:allocation_used:our_share_7d{{{PROJECT}}})",
                    "G",
                ),
                _balance("rayslurm:allocation_exhaustion_timestamp_seconds", "H", " * 1000"),
                columns(
                    f"(max by (provider, project) (rayslurm_allocation_updated_timestamp_seconds{{{PROJECT}}})"
                    f" or max by (provider, project) (rayslurm_allocation_read_timestamp_seconds{{{PROJECT}}})) * 1000",
                    "I",
                ),
            ],
            {
                "provider": "Provider",
                "project": "Project",
                "kind": "Kind",
                "unit": "Unit",
                "Value #B": "Granted",
                "Value #A": "Used",
                "Value #C": "Left",
                "Value #D": "Left of it",
                "Value #E": "Last day",
                "Value #F": "Pace a day",
                "Value #G": "Our share",
                "Value #H": "Runs dry",
                "Value #I": "As of",
            },
            empty="No provider has told a balance yet: balances are asked for twice an hour.",
            height=7,
            sort=("Project", False),
            overrides=[
                *_WHOSE,
                *(
                    column(heading, unit="none", decimals=0, custom_width=105)
                    for heading in ("Granted", "Used", "Left")
                ),
                share("Left of it", width=85),
                *(column(heading, unit="none", decimals=1, custom_width=100) for heading in ("Last day", "Pace a day")),
                column("Our share", unit="percentunit", decimals=0, custom_width=90),
                column("Runs dry", unit="dateTimeFromNow", custom_width=125),
                column("As of", unit="dateTimeFromNow", custom_width=145),
            ],
        ),
        table(
            "What becomes of it",
            "Units that are left on a project's last day are lost. Half a year after a grant CSC's cutter takes part "
            "of what is left from a project that used less than 40 %; student and course projects are exempt.",
            [
                _balance("rayslurm_allocation_used_since_grant", "A"),
                _balance("rayslurm:allocation_left_at_project_end", "B"),
                _balance("rayslurm:allocation_cutter_expected_ratio", "C"),
                _balance("rayslurm:allocation_cutter_lost_at_most", "D"),
                _project("rayslurm_project_last_grant_timestamp_seconds", "E", f" * 1000 {_GRANTED}"),
                _project("rayslurm:allocation_cutter_check_timestamp_seconds", "F", f" * 1000 {_GRANTED}"),
                _project("rayslurm_project_end_timestamp_seconds", "G", f" * 1000 {_GRANTED}"),
            ],
            {
                "provider": "Provider",
                "project": "Project",
                "kind": "Kind",
                "unit": "Unit",
                "Value #A": "Used since grant",
                "Value #E": "Last grant",
                "Value #F": "Cutter looks",
                "Value #C": "Used by then",
                "Value #D": "Lost at most",
                "Value #G": "Project ends",
                "Value #B": "Left then",
            },
            empty="Not known yet: it takes a day of balances, and only a provider that tells of grants.",
            height=7,
            sort=("Project", False),
            overrides=[
                *_WHOSE,
                column("Used since grant", unit="none", decimals=0),
                column("Last grant", unit="dateTimeFromNow"),
                column("Cutter looks", unit="dateTimeFromNow"),
                column("Used by then", unit="percentunit", decimals=0),
                column("Lost at most", unit="none", decimals=0),
                column("Project ends", unit="dateTimeFromNow"),
                column("Left then", unit="none", decimals=0),
            ],
        ),
        lines(
            "Left of what was granted",
            "By project and kind of units. A grant raises it, a cut lowers it.",
            [
                over_time(
                    "max by (project, kind, unit) ("
                    f'rayslurm_allocation_remaining{{{PROJECT}, kind!="storage"}}'
                    " / (rayslurm_allocation_granted > 0))",
                    "{{project}} {{kind}} {{unit}}",
                )
            ],
            unit="percentunit",
            lowest=None,
            empty="No provider has told a balance in this time.",
            width=8,
        ),
        lines(
            "Pace: units a day",
            "What everybody of the project uses, as a mean of the last week, and what jobs followed here were billed.",
            [
                over_time(
                    f'max by (project, kind, unit) (rayslurm:allocation_used:per_day_7d{{{PROJECT}, kind!="storage"}})',
                    "{{project}} {{kind}} {{unit}}",
                ),
                over_time(
                    f"max by (project, kind, unit) (rayslurm:billing_units:per_day_1d{{{PROJECT}}})",
                    "{{project}} {{kind}} {{unit}} billed here, last day",
                    "B",
                ),
            ],
            unit="none",
            empty="Not known: a day of the last week must have been seen.",
            width=8,
        ),
        lines(
            "Rise of use between two tellings",
            "By how much a project's use rose over the latest window between two of the provider's reckonings, at "
            "most a day; and, in brackets, the share that jobs followed here explain.",
            [
                over_time(
                    f"max by (project, kind, unit) (rayslurm_allocation_delta_units{{{PROJECT}}})",
                    "{{project}} {{kind}} {{unit}}",
                ),
                over_time(
                    "max by (project, kind, unit) ("
                    f"rayslurm_allocation_delta_attributed_ratio{{{PROJECT}}} * rayslurm_allocation_delta_units)",
                    "{{project}} {{kind}} {{unit}} (ours)",
                    "B",
                ),
            ],
            unit="none",
            stepped=True,
            empty="No provider has told two balances in this time.",
            width=8,
        ),
        row("What was paid"),
        bars(
            "By campaign",
            "Bills, in the step of time in which they became final.",
            [
                rises(
                    f"rayslurm_billing_units_total{{{_OURS}}}",
                    "campaign, kind, unit",
                    "{{campaign}} {{kind}} {{unit}}",
                    campaigns=True,
                )
            ],
            unit="none",
            decimals=None,
            empty="No bill became final in this time.",
            width=8,
        ),
        bars(
            "By project",
            "The same by who paid.",
            [rises(f"rayslurm_billing_units_total{{{_OURS}}}", "project, kind, unit", "{{project}} {{kind}} {{unit}}")],
            unit="none",
            decimals=None,
            empty="No bill became final in this time.",
            width=8,
        ),
        bars(
            "For nothing, by reason",
            "Paid while a job was of no use, added when its bill is final. A moment counts once.",
            [
                rises(
                    f"rayslurm_wasted_billing_units_total{{{_OURS}}}",
                    "reason, kind, unit",
                    "{{reason}} {{kind}} {{unit}}",
                )
            ],
            unit="none",
            decimals=None,
            empty="Nothing was paid for nothing in this time, as far as it was seen.",
            width=8,
        ),
        row("How well it was used"),
        table(
            "Jobs that used least of what they had",
            "Ended jobs, those with the least CPU used first. Advice leads to the job's page of rayslurm: what to ask "
            "for instead, and what that would have saved, as `rayslurm explain` has it. It is on the VM: `ssh -L` "
            "its port too.",
            [
                columns(
                    "max by (state, site, job_id, job_name, campaign, instance) ("
                    "(rayslurm_job_state and on (site, job_id) rayslurm_job_end_timestamp_seconds)"
                    f" * on (site, job_id) group_left (job_name, campaign) {INFO})",
                    "A",
                ),
                _ended("cpu_efficiency_ratio", "B"),
                _ended("memory_efficiency_ratio", "C"),
                _ended("gpu_efficiency_ratio", "D"),
                _ended("walltime_efficiency_ratio", "E"),
                _ended("memory_peak_bytes", "F"),
                _ended("memory_allocated_bytes", "G"),
                columns(
                    f"label_join(max by (site, job_id, kind, unit) ({picked('rayslurm_job_billing_units')}),"
                    ' "units", " ", "kind", "unit")',
                    "H",
                ),
            ],
            {
                "state": "State",
                "site": "Site",
                "job_id": "Job",
                "job_name": "Name",
                "campaign": "Campaign",
                "Value #B": "CPU",
                "Value #C": "Memory",
                "Value #D": "GPU",
                "Value #E": "Time",
                "Value #F": "Memory used",
                "Value #G": "Memory asked",
                "Value #H": "Cost",
                "units": "Units",
                "instance": "Advice",
            },
            empty="No job of this choice has ended lately.",
            height=10,
            sort=("CPU", False),
            overrides=[
                state("State", words(JOB), 118),
                job_link(),
                column("Site", custom_width=65),
                share("CPU", width=60),
                share("Memory", width=75),
                share("GPU", width=60),
                column(
                    "Advice",
                    links=[{"title": "What it could have asked for less of", "url": _PAGE_URL}],
                    custom_width=130,
                ),
                share("Time", width=60),
                column("Memory used", unit="bytes", decimals=1, custom_width=115),
                column("Memory asked", unit="bytes", decimals=1, custom_width=120),
                column("Cost", unit="none", decimals=2, custom_width=85),
                column("Units", custom_width=125),
            ],
        ),
        table(
            "Long jobs below the threshold",
            "Ended jobs that took long enough to matter and used little of their GPUs, or of their CPUs where they "
            "had none, as the alert RaySlurmEfficiencyLow has it.",
            [
                columns(f"max by (site, job_id, job_name) ({picked(_WASTEFUL, 'job_name')})", "A"),
                columns(f"max by (site, job_id) ({picked(f'{_LONG} and on (site, job_id) ({_WASTEFUL})')})", "B"),
            ],
            {"site": "Site", "job_id": "Job", "job_name": "Name", "Value #A": "Used", "Value #B": "Took"},
            empty="No long job of late used less than the threshold.",
            sort=("Used", False),
            overrides=[
                job_link(),
                column("Site", custom_width=65),
                share("Used", width=60),
                column("Took", unit="s", custom_width=90),
            ],
            width=7,
            height=7,
        ),
        table(
            "Disk areas",
            "How full they are, in bytes and in files: either can end a job.",
            [
                _area("used_bytes", "A"),
                _area("limit_bytes", "B"),
                columns(
                    "max by (site, area, project) ("
                    f"rayslurm_storage_used_bytes{{{SITE}, {PROJECT}}} / (rayslurm_storage_limit_bytes > 0))",
                    "C",
                ),
                _area("used_files", "D"),
                _area("limit_files", "E"),
                columns(
                    "max by (site, area, project) ("
                    f"rayslurm_storage_used_files{{{SITE}, {PROJECT}}} / (rayslurm_storage_limit_files > 0))",
                    "F",
                ),
            ],
            {
                "site": "Site",
                "area": "Area",
                "Value #A": "Bytes",
                "Value #B": "of",
                "Value #C": "Full",
                "Value #D": "Files",
                "Value #E": "of files",
                "Value #F": "Full of files",
            },
            empty="No site has told of its disk areas yet: they are asked for every 6 hours.",
            sort=("Full", True),
            overrides=[
                column("Site", custom_width=65),
                column("Area", custom_width=190),
                column("Bytes", unit="bytes", decimals=1),
                column("of", unit="bytes", decimals=0),
                share("Full", good=False, width=60),
                column("Files", unit="short"),
                column("of files", unit="short"),
                share("Full of files", good=False, width=95),
            ],
            width=13,
            height=7,
        ),
        stat(
            "Bills not as estimated",
            "Jobs in the time range whose last estimate was not what they cost but for rounding. The bill counts; a "
            "site may have changed what it takes.",
            [
                now(
                    f"sum by (site) (increase(rayslurm_billing_estimate_mismatches_total{{{SITE}}}[$__range]))",
                    "{{site}}",
                )
            ],
            unit="short",
            decimals=0,
            empty="no bill yet",
            steps=(("text", 0), ("green", 0), ("orange", 1)),
            height=7,
        ),
    ],
)
