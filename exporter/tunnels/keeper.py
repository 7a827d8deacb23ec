"""Keeping what jobs have on this machine no longer than they need it: their keys, and the ports of their tunnels."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable

from exporter.config import Config
from exporter.errors import RayslurmError
from exporter.store import job_keys, leases
from exporter.store.db import Store
from exporter.store.job_keys import JobKey
from exporter.tunnels.authorized_keys import AuthorizedKeys, make_key
from exporter.tunnels.listeners import listeners

_log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""Between two looks."""

WAITING_SECONDS = 7 * 86400.0
"""How long the key of a job that hasn't started is taken: `serve` renews it, so this is how long it may be away."""

RENEW_SECONDS = 86400.0
"""How much of that is used up before it is renewed."""

MARGIN_SECONDS = 3600.0
"""How long after a running job's limit its key is taken: Slurm ends jobs late, and clocks differ."""

_SLACK_SECONDS = 60.0


def authorized(config: Config, store: Store, token: str, ports: dict[str, int], *, now: float) -> bytes | None:
    """Makes a key for a job, and lets it in.

    Args:
        config: where the account's keys are.
        store: where the public half is kept.
        token: the submission's.
        ports: what the key may listen on.
        now: epoch seconds.

    Returns:
        The private half, which is kept nowhere here; None where the person manages the keys.

    Raises:
        StoreError: the store, or the account's file, can't be written.
    """
    vm = config.vm
    if vm is None or vm.identity_file is not None:
        return None
    key, expires = make_key(), now + WAITING_SECONDS

    def keep(connection: sqlite3.Connection) -> str:
        job_keys.keep(connection, token, key.public, expires=expires)
        return job_keys.instance(connection)

    instance = store.write(keep)
    AuthorizedKeys(vm.keys_file, instance).put(token, key.public, sorted(ports.values()), expires=expires)
    return key.private


class Keeper:
    """Renews keys that are needed, removes those that aren't, and frees ports; to be called now and then.

    Args:
        config: the configuration.
        store: what is known of the jobs.
        clock: gives UTC epoch seconds.
    """

    def __init__(self, config: Config, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        """Looks now and then until it is cancelled."""
        factors = [site.scaled(1.0) for site in self._config.resolved_sites.values()]
        while True:
            try:
                await asyncio.to_thread(self.look)
            except (RayslurmError, OSError) as error:
                _log.warning("keys and ports of jobs could not be looked after: %s", error)
            except Exception:  # noqa: BLE001 - it must go on
                _log.exception("looking after keys and ports failed in a way it should not")
            await asyncio.sleep(max(1.0, LOOK_SECONDS * min(factors)))

    def look(self) -> None:
        """Does what is to be done now.

        Raises:
            StoreError: the store or the account's file can't be read or written.
            OSError: it isn't known who listens on this machine.
        """
        self._keys()
        self._ports()

    def _keys(self) -> None:
        vm = self._config.vm
        if vm is None or vm.identity_file is not None:
            return
        with self._store.snapshot() as connection:
            # Those first that are there: what is launched meanwhile is among those that are needed then.
            file = AuthorizedKeys(vm.keys_file, job_keys.instance(connection))
        there = file.tokens()
        with self._store.snapshot() as connection:
            needed = {key.token: key for key in job_keys.needed(connection)}
        now = self._clock()
        for key in needed.values():
            expires = _expires(key, now)
            if key.token in there and expires is None:
                continue
            expires = now + WAITING_SECONDS if expires is None else expires
            file.put(key.token, key.public, key.ports, expires=expires)
            self._store.write(
                lambda connection, key=key, expires=expires: job_keys.keep(  # type: ignore[misc]  # a lambda with defaults
                    connection, key.token, key.public, expires=expires
                )
            )
        gone = [token for token in there if token not in needed]
        for token in file.remove(gone):
            _log.info("the key of the submission %s is taken no more", token)
        self._store.write(job_keys.forget_others)

    def _ports(self) -> None:
        with self._store.snapshot() as connection:
            if all(lease.open for lease in leases.all_leases(connection)):
                return
        busy = listeners()
        for lease in self._store.write(lambda connection: leases.release(connection, busy)):
            _log.info("port %d of job %s is free again", lease.port, lease.job_id or lease.token)


def _expires(key: JobKey, now: float) -> float | None:
    """Returns until when a key should be taken, where that isn't what its line says."""
    if key.start_time is not None and key.time_limit_seconds is not None:
        wanted = key.start_time + key.time_limit_seconds + MARGIN_SECONDS
        return None if abs(wanted - key.expires) < _SLACK_SECONDS else wanted
    wanted = now + WAITING_SECONDS
    return None if wanted - RENEW_SECONDS <= key.expires <= wanted + _SLACK_SECONDS else wanted
