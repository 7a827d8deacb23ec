"""Campaigns and the exporter: schedules, misses, budgets; the age of the data, and what the sites are asked."""

from __future__ import annotations

from grafana import frame
from grafana.panels import bars, column, levels, lines, row, stat, state, table, timeline
from grafana.queries import CAMPAIGN, CAMPAIGN_RUNS, SITE, columns, marks, now, over_time, rises
from grafana.states import OUTCOME, YES_NO, colour_like, colours, words

_OURS = f"{SITE}, {CAMPAIGN}"
_NO_CAMPAIGN = "There is no campaign of this choice."


def _of_campaign(metric: str, ref_id: str, factor: str = "") -> object:
    return columns(f"max by (site, campaign) (rayslurm_campaign_{metric}{{{_OURS}}}){factor}", ref_id)


def _of_probe(metric: str, ref_id: str) -> object:
    return columns(f"max by (site, probe) (rayslurm_probe_{metric}{{{SITE}}})", ref_id)


dashboard = frame.dashboard(
    "campaigns",
    "campaigns & exporter",
    "Whether what is scheduled happens, and whether rayslurm itself is well and asks no more than it may.",
    span="24h",
    refresh="1m",
    choices=("site", "campaign"),
    annotations=marks(
        Campaign_runs=CAMPAIGN_RUNS,
        Next_runs=(f"rayslurm_campaign_next_run_timestamp_seconds{{{_OURS}}}", "blue", "{{campaign}} is due"),
    ),
    panels=[
        table(
            "Campaigns",
            "What each is to do, when it is due, and how it went. Would overdraw: as things are its next run would be "
            "refused for what it costs at most.",
            [
                columns(f"max by (site, campaign, schedule) (rayslurm_campaign_info{{{_OURS}}})", "A"),
                _of_campaign("next_run_timestamp_seconds", "B", " * 1000"),
                _of_campaign("last_run_timestamp_seconds", "C", " * 1000"),
                _of_campaign("last_success_timestamp_seconds", "D", " * 1000"),
                _of_campaign("active_runs", "E"),
                _of_campaign("paused", "F"),
                _of_campaign("next_run_would_overdraw", "G"),
                _of_campaign("created_timestamp_seconds", "H", " * 1000"),
            ],
            {
                "campaign": "Campaign",
                "site": "Site",
                "schedule": "Schedule",
                "Value #B": "Next run",
                "Value #C": "Last run",
                "Value #D": "Last success",
                "Value #E": "Runs now",
                "Value #F": "Paused",
                "Value #G": "Would overdraw",
                "Value #H": "There since",
            },
            empty="There is no campaign: `rayslurm campaigns check` says what it finds.",
            height=8,
            sort=("Next run", False),
            overrides=[
                column("Site", custom_width=65),
                *(
                    column(heading, unit="dateTimeFromNow", custom_width=150)
                    for heading in ("Next run", "Last run", "Last success", "There since")
                ),
                column("Runs now", unit="short", decimals=0, custom_width=95),
                *(
                    state(heading, words({"0": ("no", "text"), "1": ("yes", "orange")}), width)
                    for heading, width in (("Paused", 80), ("Would overdraw", 140))
                ),
            ],
        ),
        bars(
            "Runs by how they ended",
            "A run is refused where not one job of it was submitted.",
            [rises(f"rayslurm_campaign_runs_total{{{_OURS}}}", "outcome", "{{outcome}}")],
            empty="No run ended in this time.",
            width=8,
            overrides=colours(OUTCOME),
        ),
        bars(
            "Missed runs and refused jobs",
            "A run is missed where rayslurm wasn't there in time or the run before still went on; a job is refused "
            "for its budget, by policy, by the site's sbatch, or for its spec.",
            [
                rises(f"rayslurm_campaign_missed_runs_total{{{_OURS}}}", "campaign", "{{campaign}} missed"),
                rises(
                    f"rayslurm_campaign_refusals_total{{{_OURS}}}",
                    "campaign, reason",
                    "{{campaign}} refused: {{reason}}",
                    "B",
                ),
            ],
            empty="Nothing was missed or refused in this time.",
            width=8,
            overrides=[colour_like(".* missed", "yellow"), colour_like(".* refused: .*", "orange")],
        ),
        levels(
            "Left of campaigns' budgets",
            "After what is paid and what is queued and running may cost, of what each may cost in a run, week or "
            "month.",
            [
                now(
                    "clamp_min(max by (site, campaign, kind, unit, period) ("
                    f"rayslurm_campaign_budget_remaining_units{{{_OURS}}}"
                    " / (rayslurm_campaign_budget_limit_units > 0)), 0)",
                    "{{campaign}} {{kind}} a {{period}}",
                )
            ],
            empty="No campaign of this choice has a budget.",
            steps=(("text", 0), ("red", 0), ("orange", 0.1), ("green", 0.3)),
            width=8,
        ),
        bars(
            "Jobs that were submitted",
            "By campaign.",
            [
                rises(
                    f"rayslurm_jobs_submitted_total{{{_OURS}}}",
                    "site, campaign",
                    "{{site}} {{campaign}}",
                    campaigns=True,
                )
            ],
            empty="No job was submitted in this time.",
        ),
        lines(
            "Runs that go on",
            "By campaign.",
            [over_time(f"max by (site, campaign) (rayslurm_campaign_active_runs{{{_OURS}}})", "{{site}} {{campaign}}")],
            unit="short",
            decimals=0,
            stepped=True,
            empty=_NO_CAMPAIGN,
        ),
        row("The sites, and how old what they told is"),
        timeline(
            "Probes",
            "Whether a question to a site went well when it was last asked: of the queue, and of each that failed "
            "once in this time.",
            [
                over_time(
                    f"min by (site, probe) (rayslurm_probe_success{{{SITE}}}"
                    ' and on (site, probe) (rayslurm_probe_success{probe="jobs"}'
                    " or min_over_time(rayslurm_probe_success[$__range] @ end()) < 1))",
                    "{{site}} {{probe}}",
                )
            ],
            mappings=words({"0": ("failed", "red"), "1": ("well", "green")}),
            empty="No site is configured.",
            width=12,
            height=10,
        ),
        table(
            "Age of the data",
            "When each question last went well, how long it took, and why it fails.",
            [
                columns(f"max by (site, probe) (rayslurm_probe_success{{{SITE}}})", "A"),
                columns(
                    f"time() - max by (site, probe) (rayslurm_probe_last_success_timestamp_seconds{{{SITE}}})", "B"
                ),
                _of_probe("duration_seconds", "C"),
                columns(f"max by (site, probe, reason) (rayslurm_probe_failure_reason{{{SITE}}})", "D"),
            ],
            {
                "site": "Site",
                "probe": "Probe",
                "Value #A": "Well",
                "Value #B": "Age",
                "Value #C": "Took",
                "reason": "Fails because of",
            },
            empty="No site is configured.",
            width=12,
            height=10,
            sort=("Age", True),
            overrides=[
                state("Well", words(YES_NO), 70),
                column("Well", unit="none"),
                column("Age", unit="s", decimals=0),
                column("Took", unit="s"),
            ],
        ),
        lines(
            "Commands left this hour",
            "rayslurm never sends a site more commands an hour than its budget; some are kept back for people.",
            [
                over_time(f"max by (site) (rayslurm_site_command_budget_remaining{{{SITE}}})", "{{site}}"),
                over_time(f"max by (site) (rayslurm_site_command_budget_limit{{{SITE}}})", "{{site}} limit", "B"),
            ],
            unit="short",
            decimals=0,
            empty="No site is configured.",
            width=8,
        ),
        bars(
            "Commands to the sites",
            "What they were asked, and how that ended where it did not go well.",
            [rises(f"rayslurm_remote_commands_total{{{SITE}}}", "command, outcome", "{{command}} {{outcome}}")],
            empty="No site was asked anything in this time.",
            width=8,
        ),
        bars(
            "Held back, and not understood",
            "Commands that were not sent because the hour's budget was used up, and rows of answers that were not "
            "understood: their text is kept.",
            [
                rises(f"rayslurm_remote_commands_throttled_total{{{SITE}}}", "site", "{{site}} held back"),
                rises(
                    f"rayslurm_parse_errors_total{{{SITE}}}", "site, parser", "{{site}} {{parser}} not understood", "B"
                ),
            ],
            empty="Nothing was held back, and all was understood.",
            width=8,
        ),
        bars(
            "Logins",
            "Attempts to log in to a site, and how they ended.",
            [rises(f"rayslurm_ssh_connections_total{{{SITE}}}", "site, outcome", "{{site}} {{outcome}}")],
            empty="Nobody logged in in this time: a connection is kept as long as it lives.",
        ),
        lines(
            "Certificates to log in with",
            "How long they are still good. Without one jobs are neither followed nor cancelled; they go on.",
            [
                over_time(
                    f"max by (site) (rayslurm_ssh_certificate_expiry_timestamp_seconds{{{SITE}}}) - time()",
                    "{{site}}",
                )
            ],
            unit="s",
            lowest=None,
            decimals=1,
            empty="No site of this choice wants a certificate.",
        ),
        row("rayslurm itself"),
        stat(
            "Version",
            "Of rayslurm and of Python.",
            [
                columns(
                    'max by (versions) (label_join(rayslurm_build_info, "versions", ", ", "version", "python"))',
                    "A",
                )
            ],
            unit="none",
            field="versions",
            empty="does not answer",
            width=4,
        ),
        stat(
            "Scraped",
            "Whether Prometheus gets its page. When it doesn't, all else here is what was last known.",
            [now('min(up{job="rayslurm"})', "")],
            unit="none",
            mappings=words(YES_NO),
            empty="not known to Prometheus",
            width=3,
        ),
        stat(
            "Campaign files good",
            "Whether all were when they were last read. What a broken one last said holds.",
            [now("min(rayslurm_config_reload_success)", "")],
            unit="none",
            mappings=words(YES_NO),
            empty="not read yet",
            width=4,
        ),
        stat(
            "Read last",
            "When all campaigns' files were last good.",
            [now("max(rayslurm_config_reload_timestamp_seconds) * 1000", "")],
            unit="dateTimeFromNow",
            empty="never",
            width=4,
        ),
        stat(
            "Jobs shown",
            "On /metrics, and finished ones left out there because of metrics.max_jobs.",
            [now("max(rayslurm_jobs_tracked)", "shown"), now("max(rayslurm_jobs_omitted)", "left out", "B")],
            unit="short",
            empty="does not answer",
            width=3,
        ),
        stat(
            "Parts missing",
            "Parts of rayslurm's page that could not be made when it was last scraped.",
            [now("sum(1 - min by (collector) (rayslurm_collector_success))", "missing")],
            unit="short",
            empty="does not answer",
            steps=(("text", 0), ("green", 0), ("red", 1)),
            width=3,
        ),
        stat(
            "Archive",
            "Objects on their way to the archive.",
            [
                now("max(rayslurm_archive_pending_objects)", "pending"),
            ],
            unit="short",
            empty="no archive is set",
            steps=(("text", 0), ("green", 0), ("orange", 100)),
            width=3,
        ),
        bars(
            "Archived objects",
            "By what became of them. Failed is one try; it is tried again.",
            [rises("rayslurm_archive_objects_total", "outcome", "{{outcome}}")],
            empty="Nothing was archived in this time, or no archive is set.",
            width=8,
            overrides=colours(
                {
                    "uploaded": ("uploaded", "green"),
                    "present": ("present", "blue"),
                    "failed": ("failed", "red"),
                    "given_up": ("given up", "dark-red"),
                }
            ),
        ),
        lines(
            "Oldest object on its way",
            "How long it has waited to be archived.",
            [over_time("time() - min(rayslurm_archive_oldest_pending_timestamp_seconds)", "waits")],
            unit="s",
            empty="Nothing waits, or no archive is set.",
            width=8,
        ),
        lines(
            "Store",
            "Bytes on disk.",
            [over_time("max(rayslurm_store_size_bytes)", "store")],
            unit="bytes",
            empty="Does not answer.",
            width=8,
        ),
    ],
)
