"""Which OpenSSH takes the jobs' tunnels on this machine."""

from __future__ import annotations

import re
import socket
import subprocess
from contextlib import suppress

from exporter.tunnels.listeners import listeners

KEYS_END_SINCE = (9, 1)
"""From this version on sshd takes a time in UTC, with a Z, as the end of a key; see its release notes."""

_SECONDS = 2.0
_BANNER_BYTES = 255
_VERSION = re.compile(r"OpenSSH_(\d+)\.(\d+)")


def openssh_version(port: int) -> tuple[tuple[int, int] | None, str]:
    """Returns the version of this machine's OpenSSH, and who said so; None where nobody does.

    Args:
        port: on which sshd is reached.
    """
    banner = _banner(port)
    if banner:
        return _read(banner), "sshd"
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["ssh", "-V"], capture_output=True, text=True, timeout=_SECONDS, check=False)
        return _read(done.stderr), "ssh -V"
    return None, "nobody"


def _banner(port: int) -> str:
    """Returns what sshd says first; nothing where nobody answers on that port of this machine."""
    try:
        addresses = listeners().get(port, ())
    except OSError:
        return ""
    for address in sorted(addresses, key=lambda one: not one.is_loopback):
        target = ("::1" if address.version == 6 else "127.0.0.1") if address.is_unspecified else str(address)  # noqa: PLR2004 - IPv6
        with suppress(OSError), socket.create_connection((target, port), timeout=_SECONDS) as connection:
            return connection.recv(_BANNER_BYTES).decode("ascii", "replace")
    return ""


def _read(text: str) -> tuple[int, int] | None:
    match = _VERSION.search(text)
    return None if match is None else (int(match[1]), int(match[2]))
