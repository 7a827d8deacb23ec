"""What a user writes over a site file, and the two put together.

The keys stand in rayslurm.yaml below `sites.NAME`; what is left out stays as the site file has it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from exporter.sites.profile import (
    Accounting,
    Architecture,
    Balance,
    Certificate,
    Closing,
    Firewall,
    HostKey,
    LoginHost,
    Partition,
    Policy,
    Seff,
    SiteProfile,
    Workspaces,
)
from exporter.sites.rates import Amount, Kind, Largest, Part, Rate, Term, Unit
from exporter.sites.source import YOURS

_DAY = 86400


def _closing_day(value: object) -> object:
    if value is False or value is None or (type(value) is date):
        return value
    raise ValueError("write a date such as 2026-08-31, or false where the site is open")


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError("write a network such as 192.0.2.0/27") from None


def _decimal(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # the digits as they were written, not those of the binary fraction
    raise ValueError("write a number such as 0.75")


Count = Annotated[int, Field(ge=0)]
Price = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]*$")]
Words = Annotated[str, Field(pattern=r"^[A-Za-z0-9/._=-]+( [A-Za-z0-9/._=-]+)*$")]
"""A command with options, without anything that a shell would take for more."""

Network = Annotated[str, AfterValidator(_network)]
Fingerprint = Annotated[str, Field(pattern=r"^(SHA256:)?[A-Za-z0-9+/]{43}$")]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]


class _Part(BaseModel):
    """A part of rayslurm.yaml: unknown keys are errors, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PartitionOverrides(_Part):
    """A partition's limits, as `Partition`; `null` says that there is none, or that it isn't known."""

    architecture: Architecture | None = None
    max_time: float | None = None
    min_nodes: Count | None = None
    max_nodes: Count | None = None
    max_gpus_per_job: Count | None = None
    max_gpus_per_node: Count | None = None
    max_cpus_per_node: Count | None = None
    max_memory_per_node: Count | None = None
    whole_nodes: bool | None = None
    production: bool | None = None
    max_jobs: Count | None = None
    max_running: Count | None = None


class TermSettings(_Part):
    """A term of a rate, as `Term`; or with `largest` the largest of several, as `Largest`."""

    of: Amount | None = None
    largest: tuple[TermSettings, ...] = ()
    times: Price = Decimal(1)
    per: Annotated[int, Field(ge=1)] = 1
    rounded_up: bool = False
    gpu_type: Text | None = None

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if (self.of is None) == (not self.largest):
            raise ValueError("write either of: (nodes, cores, memory, nvme or gpus) or largest: with several of them")
        if self.largest and (self.per != 1 or self.rounded_up or self.gpu_type is not None):
            raise ValueError("per, rounded_up and gpu_type belong to the terms inside largest")
        if any(inner.largest for inner in self.largest):
            raise ValueError("largest stands once, not inside another largest")
        if self.gpu_type is not None and self.of != "gpus":
            raise ValueError("gpu_type stands beside of: gpus only")
        return self


class RateSettings(_Part):
    """What some partitions cost, as `Rate`."""

    partitions: Annotated[tuple[Text, ...], Field(min_length=1)]
    kind: Kind
    unit: Unit
    parts: Annotated[tuple[TermSettings, ...], Field(min_length=1)]


class BalanceSettings(_Part):
    """Where balances are read, as `Balance`."""

    provider: Literal["csc", "lumi"]
    command: Annotated[tuple[Text, ...], Field(min_length=1)]
    json_path: Text | None = None


class PolicyOverrides(_Part):
    """What the site asks of those who ask it, as `Policy`."""

    accounting_window: float | None = None
    balance_refresh: float | None = None


class SiteOverrides(_Part):
    """What may be written over a site file."""

    login_hosts: dict[Literal["any", "x86", "arm"], Host] | None = None
    host_keys: dict[Literal["ed25519", "ecdsa", "rsa"], Fingerprint] | None = None
    certificate: bool | None = None
    timezone: Text | None = None
    work_dir: Text | None = None
    temp_dir: Text | None = None
    environment: tuple[Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")], ...] | None = None
    python: Text | None = None
    ray_command: Text | None = None
    software_dir: Text | None = None
    container_command: Words | None = None
    container_gpu_options: tuple[Text, ...] | None = None
    partitions: Mapping[Text, PartitionOverrides] = Field(default_factory=dict)
    rates: dict[Text, RateSettings] = Field(default_factory=dict)
    balance: BalanceSettings | None = None
    workspaces: Literal["csc-workspaces", "lumi-workspaces", "none"] | None = None
    seff: Seff | None = None
    threads_per_core: Annotated[int, Field(ge=1, le=8)] | None = None
    policy: PolicyOverrides | None = None
    closed: Annotated[date | Literal[False] | None, BeforeValidator(_closing_day)] = None
    firewall: tuple[Network, ...] | None = None


_PLAIN = (
    *("timezone", "work_dir", "temp_dir", "environment", "python", "ray_command", "software_dir"),
    *("container_command", "container_gpu_options"),
)
"""What takes the place of the site file's field of the same name as it is."""


def overridden(profile: SiteProfile, over: SiteOverrides) -> SiteProfile:
    """Returns a profile with what the user wrote in place of what the site file says."""
    changes: dict[str, Any] = {name: getattr(over, name) for name in _PLAIN if getattr(over, name) is not None}
    if over.login_hosts is not None:
        changes["login_hosts"] = tuple(
            LoginHost(host, None if name == "any" else name, YOURS) for name, host in over.login_hosts.items()
        )
    if over.host_keys is not None:
        changes["host_keys"] = tuple(
            HostKey(name, text.removeprefix("SHA256:"), YOURS) for name, text in over.host_keys.items()
        )
    if over.certificate is not None:
        wanted = profile.certificate or Certificate("the site", _DAY, YOURS)
        changes["certificate"] = wanted if over.certificate else None
    if over.balance is not None:
        balance = over.balance
        changes["balance"] = Balance(balance.provider, balance.command, balance.json_path, YOURS)
    if over.workspaces is not None:
        changes["workspaces"] = None if over.workspaces == "none" else Workspaces((over.workspaces,), YOURS)
    if over.closed is not None:
        changes["closing"] = Closing(over.closed, YOURS) if over.closed else None
    if over.firewall is not None:
        changes["firewall"] = Firewall(over.firewall, YOURS)
    return replace(
        profile,
        partitions=_partitions(profile.partitions, over.partitions),
        rates=_rates(profile.rates, over.rates),
        accounting=_accounting(profile.accounting, over),
        policy=_policy(profile.policy, over.policy),
        **changes,
    )


def _partitions(known: tuple[Partition, ...], over: Mapping[str, PartitionOverrides]) -> tuple[Partition, ...]:
    found = {partition.name: partition for partition in known}
    for name, settings in over.items():
        base = found.get(name, Partition(name, YOURS))
        written = settings.model_dump(include=settings.model_fields_set)
        found[name] = replace(base, overridden=tuple(written), **written)
    return tuple(found.values())


def _rates(known: tuple[Rate, ...], over: dict[str, RateSettings]) -> tuple[Rate, ...]:
    """Returns the user's rates before those of the site file, so that they are found first."""
    yours = tuple(
        Rate(name, rate.partitions, rate.kind, rate.unit, tuple(_part(part) for part in rate.parts), YOURS)
        for name, rate in over.items()
    )
    return (*yours, *(rate for rate in known if rate.name not in over))


def _part(part: TermSettings) -> Part:
    if part.largest:
        return Largest(tuple(_term(inner) for inner in part.largest), part.times)
    return _term(part)


def _term(part: TermSettings) -> Term:
    assert part.of is not None  # noqa: S101 - the model holds that: either `of` or `largest`
    return Term(part.of, part.times, part.per, part.rounded_up, part.gpu_type)


def _accounting(known: Accounting, over: SiteOverrides) -> Accounting:
    if over.seff is None and over.threads_per_core is None:
        return known
    return Accounting(over.seff or known.seff, over.threads_per_core or known.threads_per_core, YOURS)


def _policy(known: Policy | None, over: PolicyOverrides | None) -> Policy | None:
    if over is None:
        return known
    return replace(known or Policy(YOURS), source=YOURS, **over.model_dump(include=over.model_fields_set))
