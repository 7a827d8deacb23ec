"""The campaigns: when they run, how they went, and whether their files are good."""

from __future__ import annotations

from collections import Counter

from exporter.metrics.catalogue import Families
from exporter.metrics.collectors import Scrape
from exporter.store import campaigns


def collect(scrape: Scrape, families: Families) -> None:
    """Adds the Campaign block but for what the counters say, and how the files were last read."""
    running = Counter(run.campaign for run in campaigns.active(scrape.connection) if run.state == "running")
    for row in campaigns.campaigns(scrape.connection):
        if row.site not in scrape.config.sites or not row.present:
            continue
        identity = (row.site, row.name)
        last_run, last_success = campaigns.last_times(scrape.connection, row.name)
        families.add("campaign_info", 1, *identity, row.schedule)
        families.add("campaign_created_timestamp_seconds", row.created, *identity)
        families.add("campaign_next_run_timestamp_seconds", None if row.rests else row.next_due, *identity)
        families.add("campaign_last_run_timestamp_seconds", last_run, *identity)
        families.add("campaign_last_success_timestamp_seconds", last_success, *identity)
        families.add("campaign_active_runs", running[row.name], *identity)
        families.add("campaign_paused", row.rests, *identity)
    reload = campaigns.reload_of(scrape.connection)
    if reload is not None:
        families.add("config_reload_success", reload.success)
        families.add("config_reload_timestamp_seconds", reload.at)
