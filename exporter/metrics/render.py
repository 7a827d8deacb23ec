"""From the store to the bytes of /metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from prometheus_client.core import Metric as MetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector as EncodedCollector

from exporter.config import Config
from exporter.errors import StoreError
from exporter.metrics.catalogue import Families
from exporter.metrics.collectors import Collector, Scrape, collectors
from exporter.store.db import Store

_log = logging.getLogger(__name__)


class Renderer:
    """Makes the text of /metrics out of one state of the store.

    A collector that raises costs its own metrics only, and says so in `collector_success`.

    Args:
        store: what is read.
        config: what bounds it.
        parts: the collectors; those of the folder where left out.
        clock: gives UTC epoch seconds.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        *,
        parts: Mapping[str, Collector] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._config = config
        self._parts = collectors() if parts is None else parts
        self._clock = clock

    def collect(self) -> list[MetricFamily]:
        """Returns all metric families with their samples."""
        made: list[MetricFamily] = []
        success = Families()
        try:
            with self._store.snapshot() as connection:
                scrape = Scrape(connection, self._store, self._config, self._clock())
                for name, collect in self._parts.items():
                    families = self._one(name, collect, scrape)
                    made += families.in_order() if families else []
                    success.add("collector_success", families is not None, name)
        except StoreError as error:
            _log.warning("the store could not be read for a scrape: %s", error)
            made, success = [], Families()
            for name in self._parts:
                success.add("collector_success", 0, name)
        return made + success.in_order()

    @staticmethod
    def _one(name: str, collect: Collector, scrape: Scrape) -> Families | None:
        families = Families()
        try:
            collect(scrape, families)
        except Exception:  # noqa: BLE001 - a bug in one collector must not cost the others
            _log.exception("collector %s failed; its metrics are missing from this scrape", name)
            return None
        return families

    def render(self, accept: str) -> tuple[bytes, str]:
        """Returns the page and its content type.

        Args:
            accept: the request's Accept header; OpenMetrics where it asks for that, else Prometheus's text.
        """
        encode, content_type = choose_encoder(accept)
        return encode(cast("EncodedCollector", _Made(self.collect()))), content_type


class _Made:
    """What an encoder takes for a registry."""

    def __init__(self, families: Iterable[MetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterable[MetricFamily]:
        return self._families
