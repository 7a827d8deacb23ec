"""The section `vm` of rayslurm.yaml: this machine, as the jobs reach it for their tunnels."""

from __future__ import annotations

import base64
import ipaddress
import itertools
import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PlainValidator, field_validator, model_validator

from exporter.yamlfile import FileModel, HostName, OneLine, Port, UserName, UserPath


def port_range(value: object) -> range:
    """Reads a range of ports such as `8100-8150`.

    Raises:
        ValueError: it is none, or one of ports that are not for everybody.
    """
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value) if isinstance(value, str) else None
    if not match or not 1024 <= int(match[1]) <= int(match[2]) <= 65535:  # noqa: PLR2004 - the range of unprivileged ports
        raise ValueError("write a range of unprivileged ports such as 8100-8150")
    return range(int(match[1]), int(match[2]) + 1)


PortRange = Annotated[range, PlainValidator(port_range)]


def _private_address(value: object) -> object:
    try:
        address = ipaddress.ip_address(value) if isinstance(value, str) else None
    except ValueError:
        address = None
    if address is None or address.is_unspecified:
        raise ValueError("write an IP address that only you reach, such as 10.0.0.7")
    return address


PrivateAddress = Annotated[ipaddress.IPv4Address | ipaddress.IPv6Address, PlainValidator(_private_address)]


class VmSettings(FileModel):
    """This machine as the jobs see it: where their reverse tunnels go.

    Attributes:
        host: the address that compute nodes reach.
        user: the account that takes the tunnels.
        authorized_keys: that account's file of keys, where each job gets one of its own; where left out the
            `~/.ssh/authorized_keys` of who runs rayslurm.
        identity_file: a private key *on the site* that the account accepts, where you manage that file yourself; no job
            gets one of its own then.
        host_keys: lines `type base64` of this machine's own host keys, which the job pins.
        dashboard_ports: ports on this machine's loopback for Ray's dashboards.
        client_ports: the same for Ray's clients.
        metrics_ports: the same for Ray's own metrics, one a node.
        serve_ports: the same for Ray Serve.
        shared: whether others have accounts here too, who reach what listens on its loopback.
        private_addresses: addresses of this machine that only its owner reaches, where tunnels may be listened on too.
    """

    host: HostName
    port: Port = 22
    user: UserName
    authorized_keys: UserPath | None = None
    identity_file: OneLine | None = None
    host_keys: Annotated[tuple[OneLine, ...], Field(min_length=1)]
    dashboard_ports: PortRange = range(8100, 8151)
    client_ports: PortRange = range(8151, 8201)
    metrics_ports: PortRange = range(8201, 8301)
    serve_ports: PortRange = range(8301, 8401)
    shared: bool = True
    private_addresses: tuple[PrivateAddress, ...] = ()

    @model_validator(mode="after")
    def _one_way_of_keys(self) -> Self:
        if self.identity_file is not None and self.authorized_keys is not None:
            raise ValueError(
                "authorized_keys: is where each job gets a key of its own, identity_file one that you manage; leave "
                "one of them out"
            )
        names = ("dashboard_ports", "client_ports", "metrics_ports", "serve_ports")
        for one, other in itertools.combinations(names, 2):
            if not set(getattr(self, one)).isdisjoint(getattr(self, other)):
                raise ValueError(f"{one} and {other} overlap; give each purpose ports of its own")
        return self

    @property
    def keys_file(self) -> Path:
        """Where jobs' own keys are put."""
        return self.authorized_keys or Path("~/.ssh/authorized_keys").expanduser()

    @field_validator("host_keys")
    @classmethod
    def _key_lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for line in value:
            words = line.split()
            try:
                kind = base64.b64decode(words[1], validate=True)[4:].decode("ascii", "ignore")
            except (ValueError, IndexError):
                kind = ""
            if not words or not kind.startswith(words[0]):
                raise ValueError(
                    f"{line[:40]!r} is no host key; copy the line of /etc/ssh/ssh_host_ed25519_key.pub of this machine"
                )
        return value
