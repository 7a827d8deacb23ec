"""`rayslurm price`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from exporter.billing.charge import Amounts, counted_amounts
from exporter.billing.price import WHOLE_GPU, NoPrice, Price, price
from exporter.cli.context import ConfigOption, JsonOption, add_command, print_json, say
from exporter.cli.costing import price_json, units_text
from exporter.config import Config, find_config, load_config
from exporter.errors import ConfigError
from exporter.sites import SiteProfile, profiles
from exporter.yamlfile import parse_duration, parse_size

_GIB = Decimal(1 << 30)
_GPUS = re.compile(r"(?:([A-Za-z][A-Za-z0-9_.-]*):)?(\d{1,6})")
_DAYS = re.compile(r"\d+-\d{1,2}(:\d{2})?")
_OPTIONS = {"nodes": "--nodes", "cores": "--cpus", "memory": "--memory", "nvme": "--nvme", "gpus": "--gpus"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, price_of, "price")


def price_of(
    *,
    site: Annotated[str, typer.Option("--site", help="One of `rayslurm sites list`, or a site of rayslurm.yaml.")],
    partition: Annotated[str, typer.Option("--partition", "-p", help="One of its partitions.")],
    time: Annotated[str, typer.Option("--time", "-t", help="How long: 02:00:00, 1-12:00:00, 90m or 2h.")],
    nodes: Annotated[int, typer.Option("--nodes", "-N", min=0, help="Nodes in all.")] = 0,
    cpus: Annotated[int, typer.Option("--cpus", "-c", min=0, help="CPU cores in all, not hardware threads.")] = 0,
    gpus: Annotated[
        str, typer.Option("--gpus", "-G", help="GPUs in all, or TYPE:NUMBER where a type has a price of its own.")
    ] = "0",
    memory: Annotated[
        str, typer.Option("--memory", help="Memory in all, with its unit, such as 64G; G, GB and GiB are 1024^3 bytes.")
    ] = "0G",
    nvme: Annotated[
        str,
        typer.Option("--nvme", help="Node-local storage in all, such as 100G; a bare number is in GiB, as in --gres."),
    ] = "0",
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="Whole nodes: all that they have is paid for, where that isn't named.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what something would cost: amounts in all for a length of time, by the site's rates; ask nobody.

    What is left out isn't counted. Rates that rayslurm.yaml has take the place of the site file's.

    Raises:
        ConfigError: there is no such site or partition, or no rate is known for it.
    """
    profile = _profile(site, config)
    amounts = Amounts(
        nodes=nodes, cores=Decimal(cpus), memory=_gib(memory, "--memory"), nvme=_gib(nvme, "--nvme"), gpus=_gpus(gpus)
    )
    seconds = _seconds(time)
    names = partition.split(",")
    for name in names:
        if profile.rate(name) is None:
            raise ConfigError(_no_rate(profile, name))
    if exclusive:
        amounts = _whole_nodes(profile, names, amounts)
    found = price(profile, partition, amounts, seconds)
    if isinstance(found, NoPrice):
        raise ConfigError(f"{profile.name}: {found.reason}")
    if as_json:
        print_json(price_json(found))
    else:
        _show(found)
    for note in _notes(profile, names, amounts):
        say(note)


def _profile(site: str, config: Path | None) -> SiteProfile:
    """Returns a site as the configuration has it; where there is none, or it doesn't name it, as the site file does."""
    resolved = {} if (settings := _settings(config)) is None else settings.resolved_sites
    if site in resolved:
        return resolved[site].profile
    known = profiles()
    if site not in known:
        raise ConfigError(f"no site is named {site}; there are: {', '.join(sorted({*known, *resolved}))}")
    return known[site]


def _settings(named: Path | None) -> Config | None:
    """Returns the configuration; None where there is none, or one that nobody named can't be used."""
    if named is not None:
        return load_config(find_config(named))
    try:
        path = find_config(None)
    except ConfigError:
        return None
    try:
        return load_config(path)
    except ConfigError as error:
        say(f"{path} can't be used, so the site file's rates count: {error}")
        return None


def _no_rate(profile: SiteProfile, partition: str) -> str:
    rated = [name for rate in profile.rates for name in rate.partitions]
    if not rated:
        return (
            f"no rates are known for the site {profile.name}: its jobs are counted by Slurm's billing TRES times hours "
            f"when they are there. If you know rates, write sites.{profile.name}.rates in rayslurm.yaml"
        )
    is_known = profile.partition(partition) is not None
    fault = "no rate is known for partition" if is_known else "there is no partition"
    return (
        f"{profile.name}: {fault} {partition}; those with a rate are: {', '.join(rated)}. If it has one, write it as "
        f"sites.{profile.name}.rates in rayslurm.yaml"
    )


def _whole_nodes(profile: SiteProfile, partitions: list[str], amounts: Amounts) -> Amounts:
    """Returns the amounts of whole nodes: what is named stays, what isn't is what the nodes have.

    Raises:
        ConfigError: that is paid for, and isn't known.
    """
    (name, *others) = partitions
    rate = profile.rate(name)
    assert rate is not None  # noqa: S101 - it was looked for
    if others:
        raise ConfigError("--exclusive: name one partition; the nodes of several may differ")
    count = max(amounts.nodes or 0, 1)
    written = profile.partition(name)
    counted = counted_amounts(rate)
    found = replace(amounts, nodes=count)
    if "cores" in counted and not amounts.cores:
        cpus = None if written is None else written.max_cpus_per_node
        if cpus is None:
            raise ConfigError(_unknown_node(profile, name, "cores", "max_cpus_per_node"))
        found = replace(found, cores=Decimal(cpus * count) / profile.accounting.threads_per_core)
    if "gpus" in counted and not amounts.gpus:
        there = None if written is None else written.max_gpus_per_node
        if there is None:
            raise ConfigError(_unknown_node(profile, name, "gpus", "max_gpus_per_node"))
        found = replace(found, gpus={WHOLE_GPU: there * count})
    return found


def _unknown_node(profile: SiteProfile, partition: str, what: str, key: str) -> str:
    words = {"cores": "CPU cores", "gpus": "GPUs"}[what]
    return (
        f"--exclusive: how many {words} a node of {partition} has isn't known; give {_OPTIONS[what]}, or write "
        f"sites.{profile.name}.partitions.{partition}.{key} in rayslurm.yaml"
    )


def _show(found: Price) -> None:
    typer.echo(f"{units_text(found.units)} {found.kind} {found.unit}")
    paid = [(name, units) for name, units in found.components if units]
    for name, units in paid if len(paid) > 1 else []:
        typer.echo(f"  {name}: {units_text(units)}")
    typer.echo(f"{units_text(found.units_per_hour)} an hour: {found.rule} ({found.source})")


def _notes(profile: SiteProfile, partitions: list[str], amounts: Amounts) -> Iterator[str]:
    """Yields what somebody who asks may have overlooked."""
    for name in partitions:
        rate = profile.rate(name)
        counted = [] if rate is None else counted_amounts(rate)
        if not any(getattr(amounts, amount) for amount in counted):
            options = " or ".join(_OPTIONS[amount] for amount in counted)
            yield f"nothing was named that {name} is paid by: give {options}"
    if profile.closing is not None:
        yield f"the compute nodes of {profile.name} closed on {profile.closing.compute}; the rates are those of then"


def _seconds(text: str) -> float:
    try:
        if _DAYS.fullmatch(text):  # Slurm's D-HH and D-HH:MM
            text += ":00" * (2 - text.count(":"))
        return parse_duration(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text}: write a length of time such as 02:00:00, 1-12:00:00, 90m or 2h", param_hint="--time"
        ) from None


def _gib(text: str, option: str) -> Decimal:
    if option == "--nvme" and text.isdecimal():
        return Decimal(text)
    try:
        return Decimal(parse_size(text)) / _GIB
    except ValueError:
        raise typer.BadParameter(f"{text}: write an amount with its unit, such as 16G", param_hint=option) from None


def _gpus(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in text.split(","):
        match = _GPUS.fullmatch(part)
        if match is None:
            raise typer.BadParameter(f"{text}: write a number such as 4, or a100:4", param_hint="--gpus")
        kind = match[1] or WHOLE_GPU
        found[kind] = found.get(kind, 0) + int(match[2])
    return {kind: count for kind, count in found.items() if count}
