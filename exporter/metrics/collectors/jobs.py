"""The jobs: unfinished ones always, finished ones within bounds, and how well they used what they had."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

from exporter.efficiency import combined
from exporter.metrics.catalogue import Families
from exporter.metrics.collectors import Scrape
from exporter.states import METRIC_STATES
from exporter.store import bills, estimates, jobs, reports, runs
from exporter.store.estimates import Estimate
from exporter.store.jobs import JobRow


def collect(scrape: Scrape, families: Families) -> None:
    """Adds the Job and Efficiency blocks, what is known of the jobs' Rays, `jobs_tracked` and `jobs_omitted`."""
    settings = scrape.config.metrics
    shown, omitted = jobs.visible(
        scrape.connection, now=scrape.now, keep_finished=settings.keep_finished, max_finished=settings.max_jobs
    )
    shown = [job for job in shown if job.site in scrape.config.sites]
    for job in shown:
        _add_job(job, families)
        ready_time, ray_version = runs.ready(scrape.connection, job.site, job.job_id)
        families.add("job_ray_ready_timestamp_seconds", ready_time, job.site, job.job_id)
        if ray_version is not None:
            families.add("ray_cluster_info", 1, job.site, job.job_id, ray_version)
        for tunnel, told in runs.restarts(scrape.connection, job.site, job.job_id).items():
            families.add("tunnel_restarts_total", told.restarts, job.site, job.job_id, tunnel)
        if not job.final:
            _add_estimate(job, estimates.of_job(scrape.connection, job.site, job.job_id), families)
            continue
        bill = bills.of_job(scrape.connection, job.site, job.job_id)
        if bill is not None:
            families.add("job_billing_units", bill.units, job.site, job.job_id, bill.kind, bill.unit, bill.source)
        for report in combined(reports.of_job(scrape.connection, job.site, job.job_id)):
            values = asdict(report)
            source = values.pop("source")
            for name, value in values.items():
                families.add(f"job_{name}", value, job.site, job.job_id, source)
    counts = Counter((job.site, job.campaign, job.state) for job in shown)
    groups = {(site, "") for site in scrape.config.sites} | {(job.site, job.campaign) for job in shown}
    for site, campaign in sorted(groups):
        for state in METRIC_STATES:
            families.add("jobs", counts[site, campaign, state], site, campaign, state)
    families.add("jobs_tracked", len(shown))
    families.add("jobs_omitted", omitted)


def _add_estimate(job: JobRow, estimate: Estimate | None, families: Families) -> None:
    if estimate is None:
        return
    labels = (job.site, job.job_id, estimate.kind, estimate.unit, estimate.source)
    families.add("job_billing_units_estimated", estimate.units, *labels)
    if job.state == "running":
        families.add("job_billing_rate_units_per_hour", estimate.units_per_hour, *labels)


def _add_job(job: JobRow, families: Families) -> None:
    identity = (job.site, job.job_id)
    names = (job.project, job.partition, job.job_name, job.campaign, job.user)
    families.add("job_info", 1, *identity, *(name or "" for name in names))
    families.add("job_state", 1, *identity, job.state)
    if job.state == "pending" and job.pending_reason:
        families.add("job_pending_reason", 1, *identity, job.pending_reason)
    families.add("job_submit_timestamp_seconds", job.submit_time, *identity)
    families.add("job_expected_start_timestamp_seconds", job.expected_start_time, *identity)
    families.add("job_start_timestamp_seconds", job.start_time, *identity)
    families.add("job_end_timestamp_seconds", job.end_time, *identity)
    if job.state == "running" and job.start_time is not None and job.time_limit_seconds is not None:
        families.add("job_limit_timestamp_seconds", job.start_time + job.time_limit_seconds, *identity)
    families.add("job_time_limit_seconds", job.time_limit_seconds, *identity)
    families.add("job_elapsed_seconds", job.elapsed_seconds, *identity)
    if job.start_time is not None and job.submit_time is not None and job.start_time >= job.submit_time:
        families.add("job_queue_wait_seconds", job.start_time - job.submit_time, *identity)
    families.add("job_exit_code", job.exit_code, *identity)
    families.add("job_restarts", job.restarts, *identity)
    families.add("job_nodes", job.nodes, *identity)
    families.add("job_cpus", job.cpus, *identity)
    families.add("job_gpus", job.gpus, *identity)
