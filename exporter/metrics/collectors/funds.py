"""What is worked out of balances over time. A balance belongs to a provider, not to a site."""

from __future__ import annotations

from exporter.funds.projects import funds
from exporter.metrics.catalogue import Families
from exporter.metrics.collectors import Scrape


def collect(scrape: Scrape, families: Families) -> None:
    """Adds what projects have used since their latest grants."""
    for fund in funds(scrape.connection, scrape.config, now=scrape.now):
        if fund.balance is not None:
            key = (fund.balance.provider, fund.balance.project, fund.balance.kind, fund.balance.unit)
            families.add("allocation_used_since_grant", fund.used_since_grant, *key)
