"""Probing the tunnels of all running jobs, beside the web server in one asyncio loop."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from exporter.config import Config, Site
from exporter.errors import InputError, RayslurmError
from exporter.store import clusters, exposure, tunnel_failures, tunnel_sockets, tunnels
from exporter.store.clusters import RayCluster
from exporter.store.db import Store
from exporter.store.exposure import Exposure
from exporter.store.tunnel_failures import Failed
from exporter.store.tunnels import DASHBOARD, UP, Health, Tunnel
from exporter.tunnels.cluster import STALE_SECONDS, Cluster, ask
from exporter.tunnels.exposure import look
from exporter.tunnels.health import DEADLINE_SECONDS, SAID_BYTES, Finding, probe
from exporter.tunnels.http import NoAnswerError
from exporter.tunnels.listeners import listeners, sockets
from exporter.tunnels.secrets import secret_path

_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 15.0
"""From the beginning of a site's round of probes to that of the next."""

_SHORTEST_SECONDS = 1.0
_ROUNDS_KEPT = 3


@dataclass(frozen=True, slots=True)
class _Found:
    """What one probe found of a tunnel, and of the cluster behind it."""

    tunnel: Tunnel
    finding: Finding
    at: float
    duration_seconds: float
    cluster: Cluster | None = None
    cluster_fault: str = ""


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
        self._faults: dict[Tunnel, str] = {}
        self._statuses: dict[Tunnel, tuple[float, float]] = {}
        self._kernel_unread = False

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
        failed = [failure for one in found for failure in self._failures(one)]
        for one in found:
            self._tell(one)
        good_for = _ROUNDS_KEPT * _interval(site) + DEADLINE_SECONDS
        await asyncio.to_thread(self._keep, site, found, failed, good_for)

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
        secrets = {token: self._secret(token) for token in {tunnel.token for tunnel in wanted}}
        return [(tunnel, secrets[tunnel.token]) for tunnel in wanted]

    def _secret(self, token: str) -> str | None:
        try:
            return secret_path(self._config.state_dir, token).read_text(encoding="ascii").strip() or None
        except (OSError, ValueError):
            return None

    async def _probe(self, tunnel: Tunnel, secret: str | None) -> _Found:
        started = time.monotonic()
        finding = await probe(
            tunnel.tunnel, tunnel.port, secret, may_be_open=tunnel.may_be_open, deadline=DEADLINE_SECONDS
        )
        found = _Found(tunnel, finding, self._clock(), time.monotonic() - started)
        if tunnel.tunnel != DASHBOARD or finding.state != UP:
            return found
        try:
            cluster = await ask(tunnel.port, secret)
        except TimeoutError:
            return replace(found, cluster_fault="timeout: no whole answer in time")
        except InputError as error:
            return replace(found, cluster_fault=f"not_understood: {error}")
        except (NoAnswerError, OSError) as error:
            return replace(found, cluster_fault=f"no_answer: {error}")
        return replace(found, at=self._clock(), cluster=self._believed(tunnel, cluster))

    def _believed(self, tunnel: Tunnel, cluster: Cluster) -> Cluster:
        """Returns a cluster without its use where Ray has not written its status for a while."""
        if cluster.told is None:
            return cluster
        told, since = self._statuses.get(tunnel, (None, 0.0))
        if told != cluster.told:
            self._statuses[tunnel] = (cluster.told, self._clock())
            return cluster
        return cluster if self._clock() - since < STALE_SECONDS else cluster.without_use()

    def _keep(self, site: Site, found: Sequence[_Found], failed: Sequence[Failed], good_for: float) -> None:
        healths = [
            Health(
                one.tunnel.site, one.tunnel.job_id, one.tunnel.tunnel, one.finding.state, one.at,
                one.duration_seconds, one.at + good_for,
            )
            for one in found
            if one.finding.state is not None
        ]  # fmt: skip
        told = [
            RayCluster(
                one.tunnel.site, one.tunnel.job_id, one.at, one.at + good_for, one.cluster.nodes, one.cluster.capacity,
                one.cluster.used, one.cluster.gcs_up, one.cluster.is_idle,
            )
            for one in found
            if one.cluster is not None
        ]  # fmt: skip
        gone = [
            (one.tunnel.site, one.tunnel.job_id)
            for one in found
            if one.tunnel.tunnel == DASHBOARD and one.finding.state not in {UP, None}
        ]
        seen, by_socket = self._exposures(site, found, good_for)

        def change(connection: sqlite3.Connection) -> None:
            if healths:
                tunnels.keep(connection, healths)
            if told:
                clusters.keep(connection, told)
            clusters.doubt(connection, gone)
            tunnel_failures.keep(connection, failed)
            exposure.replace(connection, site.name, seen)
            tunnel_sockets.note(connection, site.name, by_socket, now=self._clock())

        with self._store.snapshot() as connection:
            known = exposure.any_of(connection, site.name)
        if found or seen or known:
            self._store.write(change)

    def _exposures(
        self, site: Site, found: Sequence[_Found], good_for: float
    ) -> tuple[list[Exposure], dict[tuple[str, str], str]]:
        """Returns what the kernel says of a site's tunnels: where they are listened on, and by which sockets.

        Nothing where it can't be asked.
        """
        with self._store.snapshot() as connection:
            held = exposure.held(connection, site.name)
        if not held:
            return [], {}
        try:
            listening, numbers = listeners(), sockets()
        except OSError as error:
            if not self._kernel_unread:
                _log.warning("it can't be seen who listens on this machine, so neither whom it exposes: %s", error)
            self._kernel_unread = True
            return [], {}
        self._kernel_unread = False
        states = {(one.tunnel.job_id, one.tunnel.tunnel): one.finding.state for one in found}
        private = self._config.vm.private_addresses if self._config.vm else ()
        seen = look(held, listening, private, states, good_until=self._clock() + good_for)
        return seen, {
            (one.job_id, one.tunnel): numbers[one.port] for one in held if one.running and one.port in numbers
        }

    def _failures(self, found: _Found) -> list[Failed]:
        """Returns what failed of a probe, before it is told; it goes on where the probe before found the same."""
        tunnel, state = found.tunnel, found.finding.state
        who = (tunnel.site, tunnel.job_id)
        failed = []
        if state is not None and state != UP:
            goes_on = self._told.get(tunnel) == state
            failed.append(Failed(*who, tunnel.tunnel, state, found.at, found.finding.said, goes_on))
        if found.cluster_fault:
            fault, _, said = found.cluster_fault.partition(": ")
            goes_on = self._faults.get(tunnel) == fault
            failed.append(Failed(*who, tunnel_failures.RAY, fault, found.at, said[:SAID_BYTES], goes_on))
        return failed

    def _tell(self, found: _Found) -> None:
        """Logs a state that is another than before."""
        tunnel, state = found.tunnel, found.finding.state
        if tunnel.tunnel == DASHBOARD and self._told.get(tunnel) == UP and state not in {UP, None}:
            self._lost(tunnel.site)
        if self._told.get(tunnel, "") != state:
            words = state or "cannot be told, for want of its secret or of resources of this machine"
            _log.info("site %s: job %s: tunnel %s: %s", tunnel.site, tunnel.job_id, tunnel.tunnel, words)
        self._told[tunnel] = state
        fault = found.cluster_fault.partition(": ")[0]
        if fault and self._faults.get(tunnel) != fault:
            _log.info("site %s: job %s: its Ray does not tell how it is: %s", *_who(tunnel), found.cluster_fault)
        self._faults[tunnel] = fault

    def _forget_others(self, site: Site, wanted: list[Tunnel]) -> None:
        for kept in (self._told, self._faults, self._statuses):
            for tunnel in [told for told in kept if told.site == site.name and told not in wanted]:
                del kept[tunnel]


def _who(tunnel: Tunnel) -> tuple[str, str]:
    return tunnel.site, tunnel.job_id


def _interval(site: Site) -> float:
    return max(_SHORTEST_SECONDS, site.scaled(INTERVAL_SECONDS))
