"""What projects may use and have used. A balance belongs to a provider, not to a site."""

from __future__ import annotations

from exporter.metrics.catalogue import Families
from exporter.metrics.collectors import Scrape
from exporter.store import balances, differences


def collect(scrape: Scrape, families: Families) -> None:
    """Adds the balances of the providers of configured sites, and what is known of the projects."""
    told = [site.profile.balance for site in scrape.config.resolved_sites.values()]
    providers = {balance.provider for balance in told if balance is not None}
    for project in balances.projects(scrape.connection):
        if project.provider not in providers:
            continue
        identity = project.provider, project.project
        families.add("project_accessible", project.accessible, *identity)
        if project.accessible:
            families.add("allocation_read_timestamp_seconds", project.read, *identity)
        families.add("project_end_timestamp_seconds", project.end_time, *identity)
        families.add("project_last_grant_timestamp_seconds", project.last_grant_time, *identity)
    updated: dict[tuple[str, str], int] = {}
    for balance in balances.balances(scrape.connection):
        if balance.provider not in providers:
            continue
        labels = (balance.provider, balance.project, balance.kind, balance.unit)
        families.add("allocation_granted", balance.granted, *labels)
        families.add("allocation_used", balance.used, *labels)
        families.add("allocation_remaining", balance.remaining, *labels)
        if balance.updated_time is not None:
            updated[balance.provider, balance.project] = balance.updated_time
    for (provider, name), when in updated.items():
        families.add("allocation_updated_timestamp_seconds", when, provider, name)
    for rise in differences.rises(scrape.connection):
        one = rise.balance
        if one.provider in providers:
            families.add("allocation_delta_units", rise.units, one.provider, one.project, one.kind, one.unit)
            families.add("allocation_delta_attributed_ratio", rise.share, one.provider, one.project, one.kind, one.unit)
