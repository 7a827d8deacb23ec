"""`rayslurm sites`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, fields, is_dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from exporter.cli.context import ConfigOption, JsonOption, peek_store, print_json, read_config, say
from exporter.cli.table import age, duration, print_table
from exporter.errors import ConfigError, StoreError
from exporter.sites import Partition, SiteProfile, profiles
from exporter.sites.rates import Rate, rule
from exporter.sites.source import Source
from exporter.store import partitions
from exporter.store.partitions import Listing

app = typer.Typer(help="What rayslurm knows of the sites, with page and date.", no_args_is_help=True)

_UNKNOWN = "unknown"

Row = tuple[str, str, str]


def register(top: typer.Typer) -> None:
    """Adds the commands."""
    top.add_typer(app, name="sites")


@app.command("list")
def list_sites(as_json: JsonOption = False) -> None:
    """List the site files."""
    known = [profiles()[name] for name in sorted(profiles())]
    if as_json:
        print_json([_summary(profile) for profile in known])
        return
    print_table(
        ("SITE", "TITLE", "LOGIN", "COMPUTE", "PARTITIONS"),
        [
            (
                profile.name,
                profile.title,
                " ".join(login.host for login in profile.login_hosts) or "yours to say",
                _compute(profile),
                " ".join(partition.name for partition in profile.partitions) or _UNKNOWN,
            )
            for profile in known
        ],
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="One of `rayslurm sites list`.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a site file says: login hosts, fingerprints, partitions, rates, closing dates."""
    profile = profiles().get(name)
    if profile is None:
        raise typer.BadParameter(f"{name} is none of: {', '.join(sorted(profiles()))}", param_hint="NAME")
    if as_json:
        said = {site: _listing_json(listing) for site, listing in _listings(name, config)}
        print_json(_as_json(profile) | {"listings": said})
        return
    typer.echo(f"{profile.name}: {profile.title}")
    _show_facts(profile)
    _show_access(profile)
    _show_partitions(profile)
    _show_rates(profile)
    for site, listing in _listings(name, config):
        _show_listing(site, listing)
    say("sites.NAME in rayslurm.yaml overrides any of it")


def _show_facts(profile: SiteProfile) -> None:
    rows = [row for row in (*_service(profile), *_shell(profile), *_asking(profile), *_firewall(profile)) if row[1]]
    print_table(("WHAT", "VALUE", "SOURCE"), rows)


def _service(profile: SiteProfile) -> Iterator[Row]:
    if closing := profile.closing:
        page = _page(closing.source)
        yield "compute", _compute(profile), page
        yield "storage", f"until {closing.storage}" if closing.storage else "", page
        yield "successor", closing.successor or "", page
    else:
        yield "compute", _compute(profile), ""
    if certificate := profile.certificate:
        valid = duration(certificate.lifetime_seconds)
        yield "certificate", f"from {certificate.signed_by}, valid {valid}", _page(certificate.source)


def _shell(profile: SiteProfile) -> Iterator[Row]:
    page = _page(profile.environment_source)
    yield "time zone", profile.timezone, page
    yield "run folders", profile.work_dir, page
    yield "temp folder", profile.temp_dir, page
    yield "venvs", profile.software_dir or "", page
    yield "containers", profile.container_command, page
    if profile.container_gpu_options is not None:
        yield "GPUs inside", " ".join(profile.container_gpu_options) or "by the environment", page
    for line in profile.environment:
        yield "environment", line, page


def _asking(profile: SiteProfile) -> Iterator[Row]:
    accounting = profile.accounting
    yield "seff", accounting.seff or _UNKNOWN, _page(accounting.source)
    yield "threads a core", str(accounting.threads_per_core), _page(accounting.source)
    if balance := profile.balance:
        yield "balances", balance.json_path or "", _page(balance.source)
        yield "balances", " ".join(balance.command), _page(balance.source)
    else:
        yield "balances", _UNKNOWN, ""
    if profile.workspaces:
        yield "disk areas", " ".join(profile.workspaces.command), _page(profile.workspaces.source)
    if policy := profile.policy:
        page = _page(policy.source)
        yield "sacct window", duration(policy.accounting_window), page
        yield "balances refresh", duration(policy.balance_refresh), page
        for text in policy.rules:
            yield "rule", text, page


def _firewall(profile: SiteProfile) -> Iterator[Row]:
    if firewall := profile.firewall:
        for network in firewall.networks:
            yield "VM firewall", network, _page(firewall.source)
        yield "", firewall.note, ""


def _show_access(profile: SiteProfile) -> None:
    if profile.login_hosts:
        typer.echo()
        print_table(
            ("LOGIN HOST", "FOR", "SOURCE"),
            [(login.host, login.architecture or "all", _page(login.source)) for login in profile.login_hosts],
        )
    if profile.host_keys:
        typer.echo()
        print_table(
            ("HOST KEY", "FINGERPRINT", "SOURCE"),
            [(key.type, f"SHA256:{key.sha256}", _page(key.source)) for key in profile.host_keys],
        )


def _show_partitions(profile: SiteProfile) -> None:
    typer.echo()
    if not profile.partitions:
        typer.echo("partitions: unknown")
        return
    print_table(
        ("PARTITION", "FOR", "TIME", "NODES", "GPUS/JOB", "GPUS/NODE", "NODES ARE", "CAMPAIGNS", "JOBS", "SOURCE"),
        [
            (
                partition.name,
                partition.architecture or "",
                duration(partition.max_time) or "?",
                _node_range(partition),
                _number(partition.max_gpus_per_job),
                "0" if partition.max_gpus_per_job == 0 else _number(partition.max_gpus_per_node),
                _choice(partition.whole_nodes, "whole", "shared"),
                _choice(partition.production, "yes", "no"),
                _jobs(partition),
                _page(partition.source),
            )
            for partition in profile.partitions
        ],
    )
    say("? is unknown: nothing is refused for it")


def _show_rates(profile: SiteProfile) -> None:
    typer.echo()
    if not profile.rates:
        typer.echo("rates: unknown")
        return
    print_table(
        ("RATE", "PARTITIONS", "PER HOUR", "PAID IN", "SOURCE"),
        [
            (rate.name, " ".join(rate.partitions), rule(rate), f"{rate.kind} {rate.unit}", _page(rate.source))
            for rate in profile.rates
        ],
    )


def _listings(name: str, path: Path | None) -> list[tuple[str, Listing]]:
    """Returns what the sites of a profile said of their partitions; nothing where there is no configuration."""
    with suppress(ConfigError, StoreError):  # neither is needed to read a site file
        _, config = read_config(path)
        sites = [site.name for site in config.resolved_sites.values() if site.profile.name == name]
        with peek_store(config) as store, nullcontext() if store is None else store.snapshot() as connection:
            found = [(site, partitions.listing(connection, site)) for site in sites if connection is not None]
        return [(site, listing) for site, listing in found if listing is not None]
    return []


def _show_listing(site: str, listing: Listing) -> None:
    typer.echo(f"\n{site} itself says, read {age(time.time() - listing.read)} ago:")
    print_table(
        ("PARTITION", "STATE", "TIME", "NODES/JOB", "NODES", "CPUS/NODE", "MEMORY/NODE", "GPUS/NODE", "NODES ARE"),
        [
            (
                record.name,
                record.state or "?",
                duration(record.max_time_seconds) or "no limit",
                _range(record.min_nodes or 1, record.max_nodes),
                _number(record.nodes),
                _number(record.max_cpus_per_node),
                _gib(record.max_memory_bytes_per_node),
                _number(record.max_gpus_per_node),
                _choice(record.whole_nodes, "whole", "shared"),
            )
            for record in listing.partitions.values()
        ],
    )


def _listing_json(listing: Listing) -> dict[str, Any]:
    return {"read": listing.read, "partitions": [asdict(record) for record in listing.partitions.values()]}


def _range(least: int, most: int | None) -> str:
    if most is None:
        return f"{least} or more"
    return str(most) if least == most else f"{least}-{most}"


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / 1024**3:.1f} GiB"


def _compute(profile: SiteProfile) -> str:
    return f"closed from {profile.closing.compute} on" if profile.closing else "no closing date known"


def _page(source: Source | None) -> str:
    return "" if source is None else str(source)


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)


def _choice(value: bool | None, yes: str, no: str) -> str:
    return "?" if value is None else yes if value else no


def _jobs(partition: Partition) -> str:
    if partition.max_jobs is None and partition.max_running is None:
        return "?"
    return f"{_number(partition.max_jobs)}, {_number(partition.max_running)} running"


def _node_range(partition: Partition) -> str:
    if partition.min_nodes is None and partition.max_nodes is None:
        return "?"
    if partition.min_nodes is None:
        return f"up to {partition.max_nodes}"
    if partition.min_nodes == partition.max_nodes:
        return str(partition.max_nodes)
    return f"{_number(partition.min_nodes)}-{_number(partition.max_nodes)}"


def _summary(profile: SiteProfile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "title": profile.title,
        "login_hosts": [login.host for login in profile.login_hosts],
        "closed": profile.closing and profile.closing.compute.isoformat(),
        "partitions": [partition.name for partition in profile.partitions],
    }


def _as_json(value: Any) -> Any:
    """Returns a site file's dataclasses as JSON has them; rates with their rule in words as well."""
    if is_dataclass(value) and not isinstance(value, type):
        found = {field.name: _as_json(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, Rate):
            found["rule"] = rule(value)
        return found
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date) else value
