"""A configuration, a store and a site that answers from a script, for tests without any network."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from exporter.client.backoff import Backoff
from exporter.client.client import SiteClient
from exporter.client.replay import Exchange, ReplayTransport
from exporter.config import Config, load_config
from exporter.probes import ProbeContext
from exporter.store.commands import CommandLedger
from exporter.store.db import Store

CONFIG = """\
state_dir: {state_dir}
sites:
  puhti2:
    project: project_2001234
    partition: small
    timezone: Europe/Helsinki
    ssh:
      host: login.example.org
      user: maija
      key: {key}
      known_hosts: {known_hosts}
vm:
  host: 192.0.2.10
  user: tunnel
  identity_file: /home/maija/.ssh/id_vm
  host_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtra2tra2tra2tra2tra2tra2tra2tra2tra2tra2tr"]
"""


class Clock:
    """A clock that moves only when told to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    key, known_hosts = tmp_path / "id", tmp_path / "known_hosts"
    key.write_text("not a real key\n")
    key.chmod(0o600)
    known_hosts.write_text("login.example.org ssh-ed25519 AAAA\n")
    path = tmp_path / "rayslurm.yaml"
    path.write_text(CONFIG.format(state_dir=tmp_path / "state", key=key, known_hosts=known_hosts))
    return path


@pytest.fixture
def config(config_path: Path) -> Config:
    return load_config(config_path)


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    with Store(config.store_path) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock(1_795_000_000.0)


def make_certificate(folder: Path, begins: str, ends: str) -> Path:
    """Makes a key with a certificate beside it; its times as ssh-keygen takes them, `20261124000000Z`."""
    key, authority = folder / "certified", folder / "ca"
    for command in (
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(authority)],
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)],
        [
            "ssh-keygen",
            "-q",
            "-s",
            str(authority),
            "-I",
            "maija",
            "-n",
            "maija",
            "-V",
            f"{begins}:{ends}",
            f"{key}.pub",
        ],
    ):
        subprocess.run(command, check=True)
    return key


class MakeSite(Protocol):
    """Makes a site that answers from a script."""

    def __call__(
        self, exchanges: Sequence[Exchange], files: Mapping[str, bytes] | None = None, **keys: Any
    ) -> tuple[ProbeContext, ReplayTransport]:
        """Returns what a probe works with; `keys` are those of the site in rayslurm.yaml."""


@pytest.fixture
def make_site(config_path: Path, store: Store, clock: Clock) -> MakeSite:
    """Gives a site of which each verb answers what the exchanges say, in order."""

    def make(
        exchanges: Sequence[Exchange], files: Mapping[str, bytes] | None = None, **keys: Any
    ) -> tuple[ProbeContext, ReplayTransport]:
        written = yaml.safe_load(config_path.read_text())
        written["sites"]["puhti2"] |= keys
        path = config_path.with_name("of-this-site.yaml")
        path.write_text(yaml.safe_dump(written))
        site = load_config(path).site("puhti2")
        transport = ReplayTransport(exchanges, files)
        ledger = CommandLedger.for_site(store, site, clock=clock)
        client = SiteClient(site.name, transport, ledger, backoff=Backoff(clock, jitter=lambda: 1.0))
        return ProbeContext(site=site, client=client, store=store, ledger=ledger, clock=clock), transport

    return make


@pytest.fixture
def rewrite(config_path: Path) -> Callable[..., Config]:
    """Gives what writes keys over the configuration, by their place."""

    def write(**changes: Any) -> Config:
        written = yaml.safe_load(config_path.read_text())
        for place, value in changes.items():
            *above, last = place.split("__")
            inner = written
            for name in above:
                inner = inner[name]
            inner[last] = str(value) if isinstance(value, Path) else value
        config_path.write_text(yaml.safe_dump(written))
        return load_config(config_path)

    return write
