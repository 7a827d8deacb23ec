"""Probing the tunnels of all running jobs, beside the web server in one asyncio loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from exporter.config import Config, Site
from exporter.errors import RayslurmError
from exporter.store import tunnels
from exporter.store.db import Store
from exporter.store.tunnels import DASHBOARD, UP, Health, Tunnel
from exporter.tunnels.health import DEADLINE_SECONDS, probe
from exporter.tunnels.secrets import secret_path

_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 15.0
"""From the beginning of a site's round of probes to that of the next."""

_SHORTEST_SECONDS = 1.0
_ROUNDS_KEPT = 3


class TunnelProber:
    """Looks after the tunnels of the configured sites; a site's rounds never overlap.

    Args:
        config: the configuration.
        store: where the jobs are, and where what is found goes.
        lost: told of the site of a running job whose dashboard is not reached any more, once each time.
        clock: gives UTC epoch seconds.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        *,
        lost: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._lost = lost
        self._store = store
        self._clock = clock
        self._told: dict[Tunnel, str | None] = {}

    async def run(self) -> None:
        """Probes until it is cancelled."""
        await asyncio.gather(*(self._watch(site) for site in self._config.resolved_sites.values()))

    async def round(self, site: Site) -> None:
        """Probes all tunnels of a site once, at the same time, and keeps what was found.

        Raises:
            StoreError: the store can't be read or written.
        """
        wanted = await asyncio.to_thread(self._to_probe, site)
        self._forget_others(site, [tunnel for tunnel, _ in wanted])
        found = await asyncio.gather(*(self._probe(tunnel, secret) for tunnel, secret in wanted))
        good_for = _ROUNDS_KEPT * _interval(site) + DEADLINE_SECONDS
        kept = [
            Health(tunnel.site, tunnel.job_id, tunnel.tunnel, state, at, duration, at + good_for)
            for tunnel, state, at, duration in found
            if state is not None
        ]
        if kept:
            await asyncio.to_thread(self._store.write, lambda connection: tunnels.keep(connection, kept))

    async def _watch(self, site: Site) -> None:
        loop = asyncio.get_running_loop()
        while True:
            next_start = loop.time() + _interval(site)
            try:
                await self.round(site)
            except RayslurmError as error:
                _log.warning("site %s: tunnels could not be looked after: %s", site.name, error)
            except Exception:  # noqa: BLE001 - it must go on
                _log.exception("site %s: probing the tunnels failed in a way it should not", site.name)
            await asyncio.sleep(max(0.0, next_start - loop.time()))

    def _to_probe(self, site: Site) -> list[tuple[Tunnel, str | None]]:
        with self._store.snapshot() as connection:
            wanted = tunnels.to_probe(connection, site.name)
        return [(tunnel, self._secret(tunnel)) for tunnel in wanted]

    def _secret(self, tunnel: Tunnel) -> str | None:
        try:
            return secret_path(self._config.state_dir, tunnel.token).read_text(encoding="ascii").strip() or None
        except (OSError, ValueError):
            return None

    async def _probe(self, tunnel: Tunnel, secret: str | None) -> tuple[Tunnel, str | None, float, float]:
        started = time.monotonic()
        state = await probe(tunnel.port, secret, may_be_open=tunnel.may_be_open)
        duration = time.monotonic() - started
        self._tell(tunnel, state)
        return tunnel, state, self._clock(), duration

    def _tell(self, tunnel: Tunnel, state: str | None) -> None:
        """Logs a state that is another than before."""
        if tunnel.tunnel == DASHBOARD and self._told.get(tunnel) == UP and state not in {UP, None}:
            self._lost(tunnel.site)
        if self._told.get(tunnel, "") != state:
            words = state or "cannot be told, for want of its secret or of resources of this machine"
            _log.info("site %s: job %s: tunnel %s: %s", tunnel.site, tunnel.job_id, tunnel.tunnel, words)
        self._told[tunnel] = state

    def _forget_others(self, site: Site, wanted: list[Tunnel]) -> None:
        for tunnel in [told for told in self._told if told.site == site.name and told not in wanted]:
            del self._told[tunnel]


def _interval(site: Site) -> float:
    return max(_SHORTEST_SECONDS, site.scaled(INTERVAL_SECONDS))
