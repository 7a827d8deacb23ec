"""The whole examination, in order: what is nearest first, since what is farther may fail for its sake."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from exporter.config import Config, Site, find_config, load_config
from exporter.doctor import access, installation, services, site, state, vm
from exporter.doctor.finding import Finding, wrong
from exporter.doctor.sshd import look_at_sshd
from exporter.errors import ConfigError
from exporter.store import leases
from exporter.store.checkup import looking_mode
from exporter.store.db import connect_as_it_is
from exporter.tunnels.listeners import Address, listeners
from exporter.vm_settings import VmSettings


def examine(path: Path | None, *, sites: Sequence[str] = (), offline: bool = False) -> Iterator[Finding]:
    """Yields what is found, one thing after the other.

    Args:
        path: the configuration file; where it is looked for where left out.
        sites: only these; all where none is named.
        offline: ask neither sites nor archive.

    Raises:
        ConfigError: no site has one of these names.
    """
    config, chosen = None, []
    try:
        path = find_config(path)
        config = load_config(path)
    except ConfigError as error:
        there = path is not None and path.is_file()
        cure = "correct it; docs/configuration.md tells of every key" if there else "run: rayslurm init"
        for fault in str(error).splitlines():
            yield wrong("configuration", fault, cure)
    else:
        chosen = [config.site(name) for name in dict.fromkeys(sites or sorted(config.sites))]
        yield from installation.check_configuration(path, config)
    yield from installation.check_python()
    yield from installation.check_clock()
    if config is not None:
        yield from _of(config, chosen, offline=offline)


def _of(config: Config, chosen: Sequence[Site], *, offline: bool) -> Iterator[Finding]:
    yield from installation.check_named_files(config)
    about_state = [*state.check_folder(config), *state.check_store(config)]
    yield from about_state
    yield from state.check_owner(config)
    yield from services.check_listen(config)
    for one in chosen:
        yield from access.check_service(one)
        yield from access.check_key(one)
        yield from access.check_known_hosts(one)
    yield from vm.check_no_vm(config)
    if config.vm is not None:
        yield from _of_vm(config, config.vm)
    yield from services.check_neighbours()
    yield from services.check_archive(config, offline=offline)
    if not offline:
        if any(finding.level == "wrong" for finding in about_state):
            yield wrong("site", "was not asked, since no command can be counted", "put right what is said of the state")
        else:
            yield from site.check_sites(config, chosen)


def _of_vm(config: Config, settings: VmSettings) -> Iterator[Finding]:
    listening: dict[int, frozenset[Address]] | None
    try:
        listening = listeners()
    except OSError:
        listening = None
    yield from vm.check_sshd(settings, look_at_sshd(settings), listening)
    yield from vm.check_keys_file(settings)
    yield from vm.check_ports(settings, listening, _leased(config))


def _leased(config: Config) -> list[int]:
    """Returns the ports that jobs' tunnels have; none where the store can't be read, which is told elsewhere."""
    try:
        with closing(connect_as_it_is(config.store_path, looking_mode(config.store_path))) as connection:
            return [lease.port for lease in leases.all_leases(connection)]
    except sqlite3.Error:
        return []
