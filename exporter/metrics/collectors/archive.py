"""What is on its way to the archive."""

from __future__ import annotations

from exporter.metrics.catalogue import Families
from exporter.metrics.collectors import Scrape
from exporter.store import archive


def collect(scrape: Scrape, families: Families) -> None:
    """Adds what waits; nothing where no archive is configured."""
    if scrape.config.archive is None:
        return
    count, oldest = archive.pending(scrape.connection)
    families.add("archive_pending_objects", count)
    families.add("archive_oldest_pending_timestamp_seconds", oldest)
