"""What probes learnt that has no table of its own: disk areas, the certificate's end."""

from __future__ import annotations

from exporter.metrics.catalogue import CATALOGUE, PREFIX, Families
from exporter.metrics.collectors import Scrape
from exporter.store import samples


def collect(scrape: Scrape, families: Families) -> None:
    """Adds every sample of the store that belongs to a configured site."""
    for site, sample in samples.read(scrape.connection):
        if site not in scrape.config.sites or PREFIX + sample.name not in CATALOGUE:  # of another version
            continue
        values = {**sample.labels, "site": site}
        labels = CATALOGUE[PREFIX + sample.name].labels
        families.add(sample.name, sample.value, *(values.get(label, "") for label in labels))
