"""The Ray clusters of running jobs, as their dashboards last told; what is older is absent."""

from __future__ import annotations

from exporter.metrics.catalogue import Families
from exporter.metrics.collectors import Scrape
from exporter.store import clusters


def collect(scrape: Scrape, families: Families) -> None:
    """Adds the Ray block, but for the version, which the job itself tells."""
    for (site, job_id), nodes in clusters.expected(scrape.connection).items():
        if site in scrape.config.sites:
            families.add("ray_nodes_expected", nodes, site, job_id)
    for identity, cluster in clusters.current(scrape.connection, now=scrape.now).items():
        if cluster.site not in scrape.config.sites:
            continue
        for state, count in cluster.nodes.items():
            families.add("ray_nodes", count, *identity, state)
        for resource, amount in cluster.capacity.items():
            families.add("ray_resource_capacity", amount, *identity, resource)
        for resource, amount in cluster.used.items():
            families.add("ray_resource_used", amount, *identity, resource)
        families.add("ray_gcs_up", cluster.gcs_up, *identity)
        families.add("ray_idle_seconds", cluster.idle_seconds, *identity)
