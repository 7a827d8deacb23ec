"""What Prometheus is to scrape besides /metrics: Ray's own metrics, through the tunnels of running jobs."""

from __future__ import annotations

from typing import Any

from exporter.config import Config
from exporter.store import tunnels
from exporter.store.db import Store


class Discovery:
    """Lists targets as Prometheus's HTTP service discovery has them.

    Args:
        store: what is read.
        config: which sites there are.
    """

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config

    def ray(self) -> list[dict[str, Any]]:
        """Returns the ports of this machine that lead to the metrics of Rays' nodes, a group each with its labels.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._store.snapshot() as connection:
            targets = tunnels.metrics_targets(connection)
        return [
            {
                "targets": [f"127.0.0.1:{target.port}"],
                "labels": {
                    "site": target.site,
                    "job_id": target.job_id,
                    "campaign": target.campaign,
                    "node": target.node,
                },
            }
            for target in targets
            if target.site in self._config.sites
        ]
