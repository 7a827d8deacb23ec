"""The lifetime counters, as the store has them."""

from __future__ import annotations

from exporter.metrics.catalogue import CATALOGUE, PREFIX, Families
from exporter.metrics.collectors import Scrape
from exporter.store import counters


def collect(scrape: Scrape, families: Families) -> None:
    """Adds every counter of the store."""
    for counter in counters.read(scrape.connection):
        if PREFIX + counter.name not in CATALOGUE:  # of another version
            continue
        labels = CATALOGUE[PREFIX + counter.name].labels
        families.add(counter.name, counter.value, *(counter.labels.get(label, "") for label in labels))
