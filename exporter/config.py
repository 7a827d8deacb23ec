"""The configuration file `rayslurm.yaml`.

Every key, its default and its meaning are in docs/configuration.md. `load_config` finds the file, reads it and resolves
each site against its profile.
"""

from __future__ import annotations

import ipaddress
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from exporter.archive_settings import ArchiveSettings
from exporter.budgets import Floors
from exporter.errors import ConfigError
from exporter.sites import SiteProfile, profiles
from exporter.sites.overrides import PartitionOverrides, PolicyOverrides, SiteOverrides, overridden
from exporter.vm_settings import VmSettings
from exporter.yamlfile import Duration, FileModel, HostName, Name, OneLine, Port, Size, UserName, UserPath, load_model

DEFAULT_PATHS = ("rayslurm.yaml", "~/.config/rayslurm/rayslurm.yaml")
"""Where the file is looked for when neither --config nor RAYSLURM_CONFIG names it."""


def known_zone(value: str) -> str:
    """Returns the name of a time zone as it is.

    Raises:
        ValueError: this machine knows none of that name.
    """
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError("is no time zone that this machine knows; write one such as Europe/Helsinki") from None
    return value


class SshSettings(FileModel):
    """How to log in to a site.

    Attributes:
        host: the login node; the profile's where left out.
        user: the account there.
        key: a private key. Left out: the agent's keys. A certificate beside it (`<key>-cert.pub`) is used with it.
        known_hosts: the file with the pinned host keys; a host that isn't in it is refused.
        host_key_alias: look up this name there instead of the host.
        proxy_jump: `user@host[:port]` to go through, several separated by commas.
    """

    host: HostName | None = None
    port: Port = 22
    user: UserName
    key: UserPath | None = None
    agent: bool = True
    known_hosts: UserPath = Field(default=Path("~/.ssh/known_hosts"), validate_default=True)
    host_key_alias: HostName | None = None
    proxy_jump: tuple[str, ...] = ()
    connect_deadline: Duration = 20
    command_deadline: Annotated[Duration, Field(ge=2, le=600)] = 60

    @field_validator("proxy_jump", mode="before")
    @classmethod
    def _split_jumps(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("proxy_jump")
    @classmethod
    def _check_jumps(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for jump in value:
            if not re.fullmatch(r"[\w.-]+@[\w.-]+(:\d{1,5})?", jump):
                raise ValueError(f"write user@host or user@host:port, not {jump}")
        return value


class BudgetSettings(FileModel):
    """How many commands an hour the site may be asked.

    Attributes:
        commands_per_hour: the limit, never exceeded.
        reserved_for_people: how many of them are kept back for launches and cancels.
    """

    commands_per_hour: Annotated[int, Field(ge=10, le=240)] = 120
    reserved_for_people: Annotated[int, Field(ge=0)] = 20

    @model_validator(mode="after")
    def _some_left(self) -> Self:
        if self.reserved_for_people >= self.commands_per_hour:
            raise ValueError("reserved_for_people must be less than commands_per_hour")
        return self


class PartitionSettings(PartitionOverrides):
    """A partition's limits over those of the site file, with times and amounts of memory as people write them."""

    max_time: Annotated[Duration, Field(gt=0)] | None = None
    max_memory_per_node: Size | None = None


class PolicySettings(PolicyOverrides):
    """What the site asks of those who ask it, with lengths of time as people write them."""

    accounting_window: Annotated[Duration, Field(gt=0)] | None = None
    balance_refresh: Annotated[Duration, Field(gt=0)] | None = None


class SiteSettings(SiteOverrides, FileModel):
    """One site as rayslurm.yaml says it; `Site` joins it with its profile.

    What `SiteOverrides` has is written over the site file.
    """

    profile: str | None = None
    ssh: SshSettings
    project: OneLine | None = None
    partition: OneLine | None = None
    partitions: dict[OneLine, PartitionSettings] = Field(default_factory=dict)
    policy: PolicySettings | None = None
    budget: BudgetSettings = BudgetSettings()
    practice_clock_factor: Annotated[float, Field(ge=1, le=3600)] = 1

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        return None if value is None else known_zone(value)


class MetricsSettings(FileModel):
    """Which jobs stand on /metrics.

    Attributes:
        keep_finished: seconds that a finished job is shown.
        max_jobs: how many finished jobs are shown at most, newest first.
    """

    keep_finished: Duration = 86400
    max_jobs: Annotated[int, Field(ge=0, le=10000)] = 200


class Config(FileModel):
    """rayslurm.yaml as a whole.

    Attributes:
        floors: what launches must leave of a project, by kind.
        campaigns_dir: the folder with the campaigns' files; `campaigns` beside rayslurm.yaml where left out.
    """

    state_dir: UserPath = Field(default=Path("~/.local/state/rayslurm"), validate_default=True)
    listen: str = "127.0.0.1:9810"
    allow_remote: bool = False
    sites: dict[Name, SiteSettings] = Field(min_length=1)
    vm: VmSettings | None = None
    metrics: MetricsSettings = MetricsSettings()
    campaigns_dir: UserPath | None = None
    floors: dict[OneLine, Floors] = Field(default_factory=dict)
    archive: ArchiveSettings | None = None

    @model_validator(mode="after")
    def _listen_address(self) -> Self:
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdigit() or not 0 <= int(port) <= 65535:  # noqa: PLR2004 - the range of TCP ports
            raise ValueError(f"listen: write address:port such as 127.0.0.1:9810, not {self.listen}")
        try:
            local = ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            raise ValueError(f"listen: write an IP address, not {host}") from None
        if not local and not self.allow_remote:
            raise ValueError(
                f"listen: {host} can be reached by others; write 127.0.0.1:{port}, or allow_remote: true beside it "
                "if something else keeps them out"
            )
        return self

    @property
    def listen_address(self) -> tuple[str, int]:
        """The address and port to listen on."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def store_path(self) -> Path:
        """The SQLite file."""
        return self.state_dir / "rayslurm.sqlite3"

    @cached_property
    def resolved_sites(self) -> dict[str, Site]:
        """The sites by name, each joined with its profile."""
        return {name: Site(name, settings) for name, settings in self.sites.items()}

    def site(self, name: str) -> Site:
        """Returns a site by name.

        Raises:
            ConfigError: there is none of that name.
        """
        try:
            return self.resolved_sites[name]
        except KeyError:
            raise ConfigError(
                f"site {name} is not in the configuration; it has: {', '.join(sorted(self.sites))}"
            ) from None


class Site:
    """A site: `profile` is its site file with what the user wrote over it."""

    def __init__(self, name: str, settings: SiteSettings) -> None:
        self.name = name
        self.settings = settings
        self.profile: SiteProfile = overridden(_profile(name, settings), settings)
        host = settings.ssh.host or self.profile.login_host
        if host is None:
            raise ConfigError(f"sites.{name}.ssh.host: is missing; write the name of the login node")
        self.login_host: str = host
        if settings.practice_clock_factor > 1 and not _is_practice_host(host):
            raise ConfigError(
                f"sites.{name}.practice_clock_factor: only for a practice site on this machine; a real site is asked "
                "at its own pace, so remove it"
            )
        self.timezone = ZoneInfo(self.profile.timezone)
        self.work_dir = self.profile.work_dir
        if odd := re.search(r"[^A-Za-z0-9/._-]", self.run_folder("", "")):
            raise ConfigError(
                f"sites.{name}.work_dir: {self.work_dir}: {odd[0]!r} cannot stand here; write a path of letters, "
                "digits and /._- with {project} and {user} where they belong"
            )
        self.temp_dir = self.profile.temp_dir
        self.environment = self.profile.environment
        self.python = self.profile.python
        self.ray_command = self.profile.ray_command
        self.container_command = self.profile.container_command

    def filled(self, path: str, project: str) -> str:
        """Returns a path at the site with `{project}` and `{user}` filled in."""
        return path.replace("{project}", project).replace("{user}", self.settings.ssh.user)

    def run_folder(self, project: str, name: str) -> str:
        """Returns where a job's folder goes."""
        return f"{self.filled(self.work_dir, project)}/{name}"

    def scaled(self, seconds: float) -> float:
        """Returns an interval as this site lives it: on a practice site the clock runs faster."""
        return seconds / self.settings.practice_clock_factor


def _is_practice_host(host: str) -> bool:
    """Tells whether a host is on this machine: loopback, or the network that RFC 2544 keeps for test devices."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address in ipaddress.ip_network("198.18.0.0/15")


def _profile(name: str, settings: SiteSettings) -> SiteProfile:
    known = profiles()
    wanted = settings.profile or (name if name in known else "slurm")
    if wanted not in known:
        raise ConfigError(
            f"sites.{name}.profile: no site file is named {wanted}; there are: {', '.join(sorted(known))}"
        )
    return known[wanted]


def find_config(explicit: Path | None) -> Path:
    """Returns the path of the configuration file.

    Args:
        explicit: what --config names; before RAYSLURM_CONFIG, before `DEFAULT_PATHS`.

    Raises:
        ConfigError: there is no such file.
    """
    named = explicit or (Path(os.environ["RAYSLURM_CONFIG"]) if os.environ.get("RAYSLURM_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"{named}: no such file; name the configuration with --config or RAYSLURM_CONFIG")
        return named
    for default in DEFAULT_PATHS:
        path = Path(default).expanduser()
        if path.is_file():
            return path
    raise ConfigError(
        f"no configuration found (looked for {', '.join(DEFAULT_PATHS)}); write one, or name it with --config"
    )


def load_config(path: Path) -> Config:
    """Reads and checks rayslurm.yaml.

    Returns:
        The configuration; every site resolves.

    Raises:
        ConfigError: with every fault, each with file, line, key and cure.
    """
    config = load_model(path, Config)
    folder = config.campaigns_dir or Path("campaigns")
    config = config.model_copy(update={"campaigns_dir": path.absolute().parent / folder})
    try:
        _ = config.resolved_sites
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config
