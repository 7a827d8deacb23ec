"""What rayslurm says of itself: its probes, the command budget, the store, its version."""

from __future__ import annotations

import platform

from exporter import __version__
from exporter.metrics.catalogue import Families
from exporter.metrics.collectors import Scrape
from exporter.store import probe_runs
from exporter.store.commands import CommandLedger


def collect(scrape: Scrape, families: Families) -> None:
    """Adds the Itself block but for what the counters say."""
    for run in probe_runs.runs(scrape.connection):
        if run.site not in scrape.config.sites:
            continue
        families.add("probe_success", run.success, run.site, run.probe)
        if run.reason is not None:
            families.add("probe_failure_reason", 1, run.site, run.probe, run.reason)
        families.add("probe_duration_seconds", run.duration_seconds, run.site, run.probe)
        families.add("probe_last_success_timestamp_seconds", run.last_success, run.site, run.probe)
    for name, site in scrape.config.resolved_sites.items():
        ledger = CommandLedger.for_site(scrape.store, site, clock=lambda: scrape.now)
        families.add("site_command_budget_limit", ledger.limit, name)
        families.add("site_command_budget_remaining", ledger.remaining(scrape.connection), name)
    families.add("store_size_bytes", scrape.store.size_bytes())
    families.add("build_info", 1, __version__, platform.python_version())
