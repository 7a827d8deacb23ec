"""Pinned host keys: read from a known_hosts file, never learnt from the network."""

from __future__ import annotations

from pathlib import Path

import paramiko

from exporter.errors import HostKeyError


def load_host_keys(path: Path) -> tuple[paramiko.HostKeys, frozenset[bytes]]:
    """Reads a known_hosts file as OpenSSH writes it.

    Lines that paramiko cannot use (`@cert-authority`, key types it doesn't know) are passed over instead of breaking
    the whole file, as `HostKeys.load` lets them.

    Returns:
        The pinned keys, and the keys that `@revoked` lines forbid.

    Raises:
        HostKeyError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise HostKeyError(f"{path}: {error.strerror}: no host key is pinned, so no host is trusted") from None
    keys, revoked = paramiko.HostKeys(), set()
    for line in lines:
        text = line.strip()
        if not text or text.startswith(("#", "@cert-authority")):
            continue
        forbidden = text.startswith("@revoked")
        entry = _entry(text.removeprefix("@revoked").strip())
        if entry is None or entry.key is None:
            continue
        if forbidden:
            revoked.add(entry.key.asbytes())
            continue
        for name in entry.hostnames:
            keys.add(name, entry.key.get_name(), entry.key)
    return keys, frozenset(revoked)


def _entry(line: str) -> paramiko.hostkeys.HostKeyEntry | None:
    try:
        return paramiko.hostkeys.HostKeyEntry.from_line(line)
    except (paramiko.SSHException, paramiko.hostkeys.InvalidHostKey, ValueError):
        return None


def known_name(host: str, port: int) -> str:
    """Returns the name under which a known_hosts file holds a host."""
    return host if port == paramiko.config.SSH_PORT else f"[{host}]:{port}"
