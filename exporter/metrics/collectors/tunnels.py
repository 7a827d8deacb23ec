"""The tunnels of running jobs, as they were when they were last probed; what is older is absent."""

from __future__ import annotations

from exporter.metrics.catalogue import Families
from exporter.metrics.collectors import Scrape
from exporter.store import exposure, tunnels


def collect(scrape: Scrape, families: Families) -> None:
    """Adds the Tunnel block."""
    for health in tunnels.current(scrape.connection, now=scrape.now):
        if health.site not in scrape.config.sites:
            continue
        identity = health.site, health.job_id, health.tunnel
        families.add("tunnel_up", health.up, *identity)
        families.add("tunnel_state", 1, *identity, health.state)
        families.add("tunnel_probe_duration_seconds", health.duration_seconds, *identity)
        families.add("tunnel_last_success_timestamp_seconds", health.last_success, *identity)
    for seen in exposure.current(scrape.connection, now=scrape.now):
        if seen.site in scrape.config.sites:
            families.add("tunnel_bind_exposed", seen.exposed, seen.site, seen.job_id, seen.tunnel)
