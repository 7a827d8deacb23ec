"""Pinned host keys: read from a known_hosts file, never learnt from the network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import paramiko

from exporter.errors import HostKeyError


@dataclass(frozen=True, slots=True)
class PinnedKeys:
    """What a known_hosts file says about one host.

    Attributes:
        accepted: its keys; several of one type where keys are being changed or a name stands for several machines.
        revoked: keys that `@revoked` lines forbid.
    """

    accepted: tuple[paramiko.PKey, ...]
    revoked: tuple[paramiko.PKey, ...]

    @property
    def types(self) -> frozenset[str]:
        """The types of the accepted keys, such as `ssh-ed25519`."""
        return frozenset(key.get_name() for key in self.accepted)


def pinned_keys(path: Path, name: str) -> PinnedKeys:
    """Reads from a known_hosts file, as OpenSSH writes and reads it, what it says about a host.

    Hashed names, wildcards and `!` are understood. Lines that cannot be used (`@cert-authority`, unknown key types,
    damaged ones) are passed over instead of spoiling the file, as they do for `paramiko.HostKeys`.

    Args:
        path: the file.
        name: the host as `known_name` has it.

    Raises:
        HostKeyError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise HostKeyError(f"{path}: {error.strerror}: no host key is pinned, so no host is trusted") from None
    accepted: list[paramiko.PKey] = []
    revoked: list[paramiko.PKey] = []
    for line in lines:
        text = line.strip()
        marked, text = text.startswith("@revoked"), text.removeprefix("@revoked").strip()
        if not text or text.startswith(("#", "@")):
            continue
        entry = _entry(text)
        if entry is not None and _matches(entry.hostnames, name):
            (revoked if marked else accepted).append(entry.key)
    return PinnedKeys(tuple(accepted), tuple(revoked))


def known_name(host: str, port: int) -> str:
    """Returns the name under which a known_hosts file holds a host."""
    return host if port == paramiko.config.SSH_PORT else f"[{host}]:{port}"


def _entry(line: str) -> paramiko.hostkeys.HostKeyEntry | None:
    try:
        return paramiko.hostkeys.HostKeyEntry.from_line(line)
    except (paramiko.SSHException, paramiko.hostkeys.InvalidHostKey, ValueError):
        return None


def _matches(patterns: list[str], name: str) -> bool:
    """Tells whether a line's patterns mean a host: one of them does, and none with `!` before it."""
    found = False
    for pattern in patterns:
        if pattern.startswith("!") and _means(pattern[1:], name):
            return False
        found = found or _means(pattern, name)
    return found


def _means(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        try:
            return bool(paramiko.HostKeys.hash_host(name, pattern) == pattern)
        except ValueError:
            return False
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, name, re.IGNORECASE) is not None
