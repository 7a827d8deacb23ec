"""What `rayslurm config check` and `rayslurm doctor` say of this machine's sshd, to which jobs open their tunnels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exporter.tunnels.openssh import KEYS_END_SINCE, openssh_version
from exporter.tunnels.sshd import YES, GatewayPorts, gateway_ports
from exporter.vm_settings import VmSettings


@dataclass(frozen=True, slots=True)
class Sshd:
    """What is known of it.

    Attributes:
        gateway_ports: whether tunnels are listened on where others reach them.
        version: OpenSSH's; None where it isn't known.
        version_source: who said so.
        gives_keys: whether rayslurm gives each job a key of its own there.
    """

    gateway_ports: GatewayPorts
    version: tuple[int, int] | None
    version_source: str
    gives_keys: bool

    def in_words(self) -> Iterator[str]:
        """Yields what there is to say for people, warnings last."""
        ports = self.gateway_ports
        told = "isn't known" if ports.value is None else f"is {ports.value}"
        version = "of unknown version" if self.version is None else f"OpenSSH {self.number} (by {self.version_source})"
        yield f"this machine's sshd: {version}; GatewayPorts {told} ({ports.source})"
        yield from (f"warning: {text}" for text in self.warnings())

    def warnings(self) -> Iterator[str]:
        """Yields what is wrong with it, with the cure."""
        if self.gateway_ports.value == YES:
            yield (
                "GatewayPorts yes makes sshd listen on all addresses, so that others reach the tunnels: launches with "
                "tunnels are refused. Set it to no and reload sshd"
            )
        if self.gives_keys and self.version is not None and self.version < KEYS_END_SINCE:
            yield (
                f"OpenSSH {self.number} refuses the keys of jobs, whose end is told in UTC (since 9.1): upgrade it, or "
                "manage the key yourself and name it in vm.identity_file (rayslurm tunnels authorize prints its line)"
            )

    @property
    def number(self) -> str | None:
        """The version as people write it."""
        return None if self.version is None else ".".join(map(str, self.version))

    def as_json(self) -> dict[str, Any]:
        """Returns the same for programs."""
        return {
            "gateway_ports": self.gateway_ports.value,
            "gateway_ports_source": self.gateway_ports.source,
            "openssh_version": self.number,
            "openssh_version_source": self.version_source,
            "warnings": list(self.warnings()),
        }


def look_at_sshd(vm: VmSettings) -> Sshd:
    """Looks, without asking anybody but this machine."""
    version, source = openssh_version(vm.port)
    return Sshd(gateway_ports(vm.user, vm.port), version, source, gives_keys=vm.identity_file is None)
