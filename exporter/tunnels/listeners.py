"""Who listens on this machine, as the kernel has it: the truth about what others can reach."""

from __future__ import annotations

import ipaddress
import struct
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

_TABLES = ("tcp", "tcp6")
_LISTENS = "0A"  # TCP_LISTEN in the kernel's include/net/tcp_states.h
_FIELDS = 4
_SOCKET = 9

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def listeners(folder: Path = Path("/proc/net")) -> dict[int, frozenset[Address]]:
    """Returns the addresses on which somebody listens, by port; Linux's `/proc/net/tcp` and `tcp6` say so.

    Args:
        folder: where these lie.

    Raises:
        OSError: they cannot be read.
    """
    found: dict[int, set[Address]] = defaultdict(set)
    for address, port, _ in _rows(folder):
        found[port].add(address)
    return {port: frozenset(addresses) for port, addresses in found.items()}


def sockets(folder: Path = Path("/proc/net")) -> dict[int, str]:
    """Returns the numbers of the sockets that listen, by port: who listens anew has another one.

    Args:
        folder: as above.

    Raises:
        OSError: they cannot be read.
    """
    found: dict[int, set[str]] = defaultdict(set)
    for _, port, number in _rows(folder):
        found[port].add(number)
    return {port: ",".join(sorted(numbers)) for port, numbers in found.items()}


def _rows(folder: Path) -> Iterator[tuple[Address, int, str]]:
    """Yields address, port and number of each socket that listens."""
    for table in _TABLES:
        path = folder / table
        if table == "tcp6" and not path.exists():  # a kernel without IPv6
            continue
        for line in path.read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if len(fields) >= _FIELDS and fields[3] == _LISTENS:
                address, _, port = fields[1].partition(":")
                yield _address(address), int(port, 16), fields[_SOCKET] if len(fields) > _SOCKET else ""


def exposed(addresses: Collection[Address], allowed: Collection[Address] = ()) -> bool:
    """Tells whether others can reach one of these addresses.

    Args:
        addresses: on which somebody listens.
        allowed: addresses of this machine that only its owner reaches.
    """
    return any(not address.is_loopback and address not in allowed for address in addresses)


def _address(text: str) -> Address:
    """Reads an address as the kernel writes it: words of 32 bits, each in the byte order of the machine."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(packed) == 4:  # noqa: PLR2004 - the bytes of an IPv4 address
        return ipaddress.IPv4Address(packed)
    address = ipaddress.IPv6Address(packed)
    return address.ipv4_mapped or address


def busy_ports() -> frozenset[int] | None:
    """Returns the ports of this machine on which somebody listens; None where that can't be seen."""
    try:
        return frozenset(listeners())
    except OSError:
        return None
