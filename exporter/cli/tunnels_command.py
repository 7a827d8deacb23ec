"""`rayslurm tunnels`."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from exporter.cli.context import ConfigOption, JsonOption, peek_store, print_json, read_config, say
from exporter.cli.table import age, print_table
from exporter.config import Config
from exporter.errors import ConfigError, InputError
from exporter.launch.render import wanted_tunnels
from exporter.launch.spec import load_spec
from exporter.sites.profile import Firewall
from exporter.store import leases, runs, tunnels
from exporter.store.leases import Lease
from exporter.store.supervised import TunnelRestarts
from exporter.store.tunnels import Health
from exporter.tunnels.authorized_keys import key_options
from exporter.tunnels.listeners import Address, exposed, listeners
from exporter.vm_settings import VmSettings, port_range

app = typer.Typer(help="The tunnels of jobs to this machine: ports, states, keys.", no_args_is_help=True)

SSHD = (
    ("PubkeyAuthentication", "yes", "jobs come by key"),
    ("AllowTcpForwarding", "yes", "`remote` is enough, and better where nobody else needs more"),
    ("GatewayPorts", "no", "so that only this machine reaches the tunnels, whatever a job asks for"),
    ("PermitListen", "any", "or every port of the key below"),
    ("DisableForwarding", "no", "its yes would overrule all else"),
    ("AllowStreamLocalForwarding", "no", "no option of a key keeps it from making Unix sockets"),
    ("ClientAliveInterval", "15", "so that the port of a tunnel whose link died is free again soon"),
    ("ClientAliveCountMax", "3", ""),
)
"""What this machine's sshd must be told, and why; see sshd_config(5)."""

_PUBLIC_KEY = re.compile(r"(?:ssh-[a-z0-9-]+|ecdsa-sha2-[a-z0-9-]+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/]+={0,3}")


def register(top: typer.Typer) -> None:
    """Adds the commands."""
    top.add_typer(app, name="tunnels")


# --- list -------------------------------------------------------------------------------------------------------------


@app.command("list")
def list_tunnels(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the ports that jobs' tunnels have: whose they are, how each was found, who listens there now."""
    _, settings = read_config(config)
    now = time.time()
    held: list[Lease] = []
    health: dict[tuple[str, str | None, str], Health] = {}
    restarts: dict[int, TunnelRestarts | None] = {}
    with peek_store(settings) as store:
        if store is not None:
            with store.snapshot() as connection:
                held = leases.all_leases(connection)
                health = {(one.site, one.job_id, one.tunnel): one for one in tunnels.current(connection, now=now)}
                restarts = {
                    lease.port: runs.restarts(connection, lease.site, lease.job_id or "").get(lease.tunnel)
                    for lease in held
                }
    listening = _listening()
    private = settings.vm.private_addresses if settings.vm else ()
    found = [(lease, health.get((lease.site, lease.job_id, lease.tunnel))) for lease in held]
    if as_json:
        print_json([_lease_json(lease, state, restarts[lease.port], listening, private) for lease, state in found])
        return
    print_table(
        ("PORT", "TUNNEL", "JOB", "NAME", "STATE", "RESTARTS", "MAY USE IT", "AGE", "LISTENS"),
        [
            (
                str(lease.port),
                lease.tunnel,
                f"{lease.site}/{lease.job_id or '?'}",
                lease.job_name,
                "" if state is None else state.state,
                "?" if (told := restarts[lease.port]) is None else str(told.restarts),
                "yes" if lease.open else "no: it has ended",
                age(now - lease.created),
                _who(lease.port, listening, private),
            )
            for lease, state in found
        ],
    )
    if any(not lease.open for lease in held):
        say("the port of a job that has ended is free again when nobody listens there any more; `rayslurm serve` looks")
    if listening is None:
        say("? is unknown: it can't be seen who listens on this machine")


def _listening() -> dict[int, frozenset[Address]] | None:
    try:
        return listeners()
    except OSError:
        return None


def _who(port: int, listening: dict[int, frozenset[Address]] | None, private: Collection[Address]) -> str:
    """Returns who listens on a port, in a word; addresses that others reach in capitals' company."""
    if listening is None:
        return "?"
    addresses = listening.get(port, frozenset())
    others = sorted(str(address) for address in addresses if exposed([address], private))
    if others:
        return " ".join(["EXPOSED", *others])
    if any(not address.is_loopback for address in addresses):
        return "private"
    return "loopback" if addresses else "nobody"


def _lease_json(
    lease: Lease,
    health: Health | None,
    restarts: TunnelRestarts | None,
    listening: dict[int, frozenset[Address]] | None,
    private: Collection[Address],
) -> dict[str, Any]:
    addresses = None if listening is None else listening.get(lease.port, frozenset())
    return {
        **asdict(lease),
        "health": None if health is None else asdict(health),
        "restarts": None if restarts is None else restarts.restarts,
        "restart_reason": None if restarts is None else restarts.reason or None,
        "listening": None if addresses is None else sorted(str(address) for address in addresses),
        "exposed": None if addresses is None else exposed(addresses, private),
    }


# --- authorize --------------------------------------------------------------------------------------------------------


@app.command()
def authorize(
    public_key: Annotated[
        Path, typer.Argument(metavar="KEY.pub", help="The public half of the key that vm.identity_file names.")
    ],
    *,
    spec_file: Annotated[
        Path | None,
        typer.Option("--spec", metavar="SPEC", help="Only the tunnels that this spec wants.", show_default=False),
    ] = None,
    ports: Annotated[
        list[str] | None,
        typer.Option("--ports", metavar="FROM-TO", help="Only these ports; may be repeated.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the line of authorized_keys for a key that you manage yourself, and what sshd and firewall need.

    Raises:
        ConfigError: there is no `vm`, or a range of ports is wrong.
        InputError: the file holds no public key.
    """
    _, settings = read_config(config)
    vm = settings.vm
    if vm is None:
        raise ConfigError("vm: is missing; add it with host, user, host_keys and identity_file")
    if ports and spec_file is not None:
        raise typer.BadParameter("and --spec say two things of the ports; leave one out", param_hint="--ports")
    allowed = _ports(settings, vm, spec_file, ports)
    line = f"{key_options(allowed)} {_public_key(public_key)}"
    firewalls = _firewalls(settings)
    if as_json:
        print_json(
            {
                "line": line,
                "ports": allowed,
                "sshd": {name: value for name, value, _ in SSHD},
                "port": vm.port,
                "firewall": {site: list(firewall.networks) if firewall else None for site, firewall in firewalls},
            }
        )
        return
    # What isn't the line is a comment of authorized_keys, so that all of it may be appended there.
    typer.echo(f"# {vm.user}'s authorized_keys on {vm.host}: {len(allowed)} ports for tunnels, nothing else")
    typer.echo(line)
    typer.echo(f"#\n# sshd_config there, then: systemctl reload ssh\n# Match User {vm.user}")
    for name, value, why in SSHD:
        typer.echo(f"#     {name} {value}".ljust(40) + (f"  # {why}" if why else ""))
    typer.echo(f"#\n# The firewall lets TCP port {vm.port} in from:")
    for site, firewall in firewalls:
        for network in firewall.networks if firewall else ("unknown; ask the site",):
            typer.echo(f"#     {site}: {network}" + (f"  ({firewall.source})" if firewall else ""))
        if firewall is not None and firewall.note:
            typer.echo(f"#         {firewall.note}")
    if vm.identity_file is None:
        say("vm.identity_file isn't set: each job gets a key of its own, and no such line is needed")


def _ports(settings: Config, vm: VmSettings, spec_file: Path | None, ports: list[str] | None) -> list[int]:
    if spec_file is not None:
        ranges = list(wanted_tunnels(load_spec(spec_file), settings).values())
    elif ports:
        try:
            ranges = [port_range(text) for text in ports]
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--ports") from None
    else:
        ranges = [vm.dashboard_ports, vm.client_ports, vm.metrics_ports, vm.serve_ports]
    allowed = sorted({port for one in ranges for port in one})
    if not allowed:
        raise InputError(f"{spec_file}: wants no tunnel, so its job needs no key")
    return allowed


def _public_key(path: Path) -> str:
    """Returns type, base64 and comment of a public key."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise InputError(f"{path}: {reason}; name the .pub file of the key that lies at the site") from None
    if "PRIVATE KEY" in text:
        raise InputError(f"{path}: is a private key, which stays where it is; name its public half, {path.name}.pub")
    words = text.split(None, 2)
    if "\n" in text or not _PUBLIC_KEY.fullmatch(" ".join(words[:2])):
        raise InputError(f"{path}: is no public key: {text[:60]!r}; one begins with ssh-ed25519 AAAA")
    return " ".join(words)


def _firewalls(settings: Config) -> list[tuple[str, Firewall | None]]:
    return [(name, site.profile.firewall) for name, site in sorted(settings.resolved_sites.items())]
