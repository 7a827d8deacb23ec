"""The budgets of campaigns, as last reckoned."""

from __future__ import annotations

from exporter.metrics.catalogue import Families
from exporter.metrics.collectors import Scrape
from exporter.store import campaign_budgets


def collect(scrape: Scrape, families: Families) -> None:
    """Adds what campaigns may still cost, and whether their next runs would be refused for it."""
    for one in campaign_budgets.states(scrape.connection):
        if one.site in scrape.config.sites:
            labels = (one.site, one.campaign, one.kind, one.unit, one.period)
            families.add("campaign_budget_limit_units", one.units, *labels)
            families.add("campaign_budget_remaining_units", one.remaining, *labels)
    for each in campaign_budgets.overdraws(scrape.connection):
        if each.site in scrape.config.sites:
            families.add("campaign_next_run_would_overdraw", each.would, each.site, each.campaign)
