"""Whether a job's tunnels would be open to others on this machine: such a launch is refused."""

from __future__ import annotations

import ipaddress
import time

from exporter.config import Config
from exporter.errors import RefusedError
from exporter.launch.render import wanted_tunnels
from exporter.launch.spec import Spec
from exporter.store import exposure
from exporter.store.db import Store
from exporter.tunnels.sshd import YES, gateway_ports


def check_reach(spec: Spec, config: Config, store: Store | None, *, now: float | None = None) -> None:
    """Refuses a spec whose tunnels others would reach, where that is known; the metric tells where it isn't.

    Args:
        spec: what is to be launched.
        config: where the tunnels end.
        store: what was seen of others' tunnels; None where there is none yet.
        now: epoch seconds; this machine's clock where left out.

    Raises:
        RefusedError: says how that is known, and the cure.
    """
    vm = config.vm
    if vm is None or not wanted_tunnels(spec, config) or _is_loopback(vm.host):
        return
    found = gateway_ports(vm.user, vm.port)
    if found.value == YES:
        raise RefusedError(
            f"others would reach the job's tunnels: this machine's sshd has GatewayPorts yes ({found.source}), and so "
            "listens on all addresses whatever a job asks for. Set it to no, reload sshd (systemctl reload ssh), and "
            "launch again"
        )
    if store is None:
        return
    with store.snapshot() as connection:
        seen = exposure.alive(connection, now=time.time() if now is None else now)
    if seen:
        one = seen[0]
        raise RefusedError(
            f"others would reach the job's tunnels: they reach {one.tunnel} of {one.site}/{one.job_id}, which "
            f"is listened on at {one.addresses}. Set GatewayPorts no in sshd_config, restart sshd and end its sessions "
            f"(pkill -u {vm.user} sshd: the job opens its tunnels again), or name that address in vm.private_addresses "
            "where only you reach it; then launch again"
        )


def _is_loopback(host: str) -> bool:
    """Tells whether jobs reach this machine at its loopback, as those of the practice sites do: without an sshd."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
