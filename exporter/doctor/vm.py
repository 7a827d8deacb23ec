"""This machine as jobs reach it: its sshd, the keys that it takes, the ports for tunnels."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from exporter.config import Config
from exporter.doctor.finding import Finding, look, well, wrong
from exporter.doctor.sshd import Sshd
from exporter.tunnels.listeners import Address
from exporter.vm_settings import VmSettings

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""The ports that the kernel hands out for connections; see ip(7)."""

_PURPOSES = ("dashboard_ports", "client_ports", "metrics_ports", "serve_ports")


def check_sshd(vm: VmSettings, sshd: Sshd, listening: Mapping[int, frozenset[Address]] | None) -> Iterator[Finding]:
    """Yields what is known of the sshd that takes tunnels, as `rayslurm config check` has it.

    Args:
        vm: this machine.
        sshd: what was seen of it.
        listening: who listens here, by port; None where that can't be seen.
    """
    warnings = list(sshd.warnings())
    for text in warnings:
        yield wrong("sshd", text, "see docs/security.md")
    if warnings:
        return
    said = next(sshd.in_words()).removeprefix("this machine's sshd: ")
    if listening is not None and vm.port not in listening:
        yield look(
            "sshd",
            f"nobody listens on port {vm.port} of this machine, so no job's tunnel gets here",
            "start sshd, or write its port (vm.port); in a container its machine's sshd isn't seen",
        )
    elif sshd.gateway_ports.value is None:
        yield look("sshd", said, "see that others can't reach the tunnels: GatewayPorts no (docs/security.md)")
    else:
        yield well("sshd", said)


def check_keys_file(vm: VmSettings) -> Iterator[Finding]:
    """Yields whether jobs' keys can be put into the file that sshd reads, and sshd will take them from it."""
    if vm.identity_file is not None:
        yield well("authorized_keys", f"is yours to manage: jobs use {vm.identity_file} at the site")
        return
    path = vm.keys_file
    folder = next(one for one in path.absolute().parents if one.exists())
    own = "or manage the key yourself (vm.identity_file)"
    if not os.access(folder, os.W_OK | os.X_OK):  # the file is replaced as a whole
        yield wrong("authorized_keys", f"{folder} can't be written by you, so no job gets a key", f"allow it, {own}")
    elif not path.exists():
        yield well("authorized_keys", f"{path} isn't there yet, and is made with the first job's key")
    elif not os.access(path, os.R_OK | os.W_OK):
        yield wrong(
            "authorized_keys", f"{path} can't be read and written by you, so no job gets a key", f"allow it, {own}"
        )
    elif (mode := path.stat().st_mode & 0o777) & 0o022:
        yield wrong(
            "authorized_keys",
            f"{path} can be written by others (mode {mode:04o}), so that sshd takes no key from it (StrictModes)",
            f"run: chmod 600 {path}",
        )
    elif mode & 0o044:
        yield look("authorized_keys", f"{path} can be read by others (mode {mode:04o})", f"run: chmod 600 {path}")
    else:
        yield well("authorized_keys", f"{path} can be written by you, and by nobody else")


def check_ports(
    vm: VmSettings,
    listening: Mapping[int, frozenset[Address]] | None,
    leased: Collection[int],
    ephemeral: Path = EPHEMERAL,
) -> Iterator[Finding]:
    """Yields whether the ports for tunnels are free, or ours, and not among those that the kernel hands out.

    Args:
        vm: this machine.
        listening: who listens here, by port; None where that can't be seen.
        leased: the ports that jobs' tunnels have.
        ephemeral: where the kernel tells which ports it hands out.
    """
    fine = True
    handed_out = _handed_out(ephemeral)
    for purpose in _PURPOSES:
        ports: range = getattr(vm, purpose)
        told = f"vm.{purpose}: {ports[0]}-{ports[-1]}"
        if handed_out and ports[-1] >= handed_out[0] and ports[0] <= handed_out[-1]:
            fine = False
            yield look(
                "ports",
                f"{told} reaches into {handed_out[0]}-{handed_out[-1]}, which the kernel hands out: any "
                "connection may have a port that a tunnel wants",
                f"write ports below {handed_out[0]}, or have the kernel leave them out (ip_local_reserved_ports)",
            )
        taken = sorted(set(ports) & set(listening or ()) - set(leased))
        if not taken:
            continue
        fine = False
        some = f"{', '.join(map(str, taken[:5]))}{' ...' if taken[5:] else ''}"
        if len(taken) == len(ports):
            yield wrong("ports", f"{told}: something else listens on all of them", "write others")
        else:
            cure = "no job gets these; end what listens there, or write others"
            yield look("ports", f"{told}: something that is no tunnel of ours listens on {some}", cure)
    if listening is None:
        yield look("ports", "it can't be seen who listens on this machine (/proc/net/tcp)")
    elif fine:
        none = ", and the kernel hands out none of them" if handed_out else ""
        yield well("ports", f"those for tunnels are free or ours ({len(leased)} leased){none}")


def check_no_vm(config: Config) -> Iterator[Finding]:
    """Yields that no tunnels can be opened, where the configuration doesn't say to where."""
    if config.vm is None:
        yield look("vm", "isn't configured: jobs run, but their Ray can't be seen from here", "add vm to have tunnels")


def _handed_out(path: Path) -> range | None:
    try:
        first, last = path.read_text(encoding="ascii").split()
        return range(int(first), int(last) + 1)
    except (OSError, ValueError):
        return None
