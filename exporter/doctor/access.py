"""What a site is logged in with, and what it is known by, as far as this machine tells."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from exporter.client.credentials import candidate_keys, certificate_expiry, certificate_path
from exporter.client.hostkeys import PinnedKeys, known_name, pinned_keys
from exporter.config import Site
from exporter.dates import minute
from exporter.doctor.finding import Finding, look, well, wrong
from exporter.errors import HostKeyError, NoKeyError

_AGENT_SECONDS = 3.0
_SOON_SECONDS = 4 * 3600
"""A certificate that ends within that is near its end; as the alert has it, since some are good for a day."""

_TYPES = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}


def check_service(site: Site) -> Iterator[Finding]:
    """Yields that a site runs no jobs any more."""
    closed = site.profile.closing
    if closed is not None and closed.compute <= datetime.now(site.timezone).date():
        text = f"no job has run there since {closed.compute} ({closed.source})"
        cure = f"its successor is {closed.successor}" if closed.successor else ""
        yield look("service", text, cure, site=site.name)


def check_key(site: Site) -> Iterator[Finding]:
    """Yields whether there is a key that can be offered, and when the certificate beside it ends."""
    ssh, name = site.settings.ssh, site.name
    try:
        expiry = certificate_expiry(ssh.key) if ssh.key is not None else None
        with closing(candidate_keys(ssh.key, agent=ssh.agent, seconds=_AGENT_SECONDS)) as candidates:
            label, _ = next(candidates)
    except NoKeyError as error:
        text, _, cure = str(error).partition("; ")
        signer = site.profile.certificate
        new = f"fetch a new certificate from {signer.signed_by}" if signer else "name a key that can be used (ssh.key)"
        yield wrong("key", text, cure or new, site=name)
        return
    wanted = site.profile.certificate
    if wanted is not None and ssh.key is not None and not certificate_path(ssh.key).exists():
        yield wrong(
            "key",
            f"{certificate_path(ssh.key)} is missing, and {name} wants a certificate beside the key",
            f"fetch one from {wanted.signed_by}",
            site=name,
        )
    elif expiry is not None and ssh.key is not None and expiry - time.time() < _SOON_SECONDS:
        cure = f"fetch a new one from {wanted.signed_by}" if wanted else "fetch a new one"
        yield look("key", f"{certificate_path(ssh.key)} ends at {minute(expiry)}", cure, site=name)
    else:
        until = "" if expiry is None else f", which ends at {minute(expiry)}"
        yield well("key", f"{label} can be offered{until}", site=name)


def check_known_hosts(site: Site) -> Iterator[Finding]:
    """Yields whether the host keys of the site, and of what lies before it, are pinned."""
    ssh = site.settings.ssh
    if not ssh.known_hosts.is_file():  # told with the files
        return
    own = ssh.host_key_alias or known_name(site.login_host, ssh.port)
    for name in (*(_jump_name(jump) for jump in ssh.proxy_jump), own):
        try:
            pinned = pinned_keys(ssh.known_hosts, name)
        except HostKeyError as error:
            yield wrong("known_hosts", str(error), "make it readable for you", site=site.name)
            return
        if not pinned.accepted:
            yield wrong(
                "known_hosts",
                f"{ssh.known_hosts} has no key of {name}, so it is not trusted",
                _how_to_pin(site, ssh.known_hosts),
                site=site.name,
            )
        elif name == own and (odd := _unlike_published(site, pinned)):
            yield wrong(
                "known_hosts",
                f"{ssh.known_hosts} has {odd} for {name}, which is not the one that the site publishes",
                f"compare them again: rayslurm sites show {site.profile.name}",
                site=site.name,
            )
        else:
            kinds = ", ".join(sorted(pinned.types))
            yield well("known_hosts", f"{name} is pinned in {ssh.known_hosts} ({kinds})", site=site.name)


def _jump_name(jump: str) -> str:
    host, _, port = jump.partition("@")[2].partition(":")
    return known_name(host, int(port or 22))


def _how_to_pin(site: Site, path: Path) -> str:
    if site.profile.host_keys:
        return f"put it there after comparing it with what `rayslurm sites show {site.profile.name}` tells"
    return f"put it into {path} after comparing it with the one that the site publishes"


def _unlike_published(site: Site, pinned: PinnedKeys) -> str:
    """Returns the pinned key that the site file knows otherwise; nothing where none is.

    Only for the site file's own login hosts: what stands in front of another one is not what the site publishes.
    """
    if site.login_host not in {login.host for login in site.profile.login_hosts}:
        return ""
    published: dict[str, str] = {key.type: f"SHA256:{key.sha256}" for key in site.profile.host_keys}
    for key in pinned.accepted:
        known = published.get(_TYPES.get(key.get_name(), "ecdsa"))
        if known is not None and key.fingerprint != known:
            return f"{key.get_name()} {key.fingerprint}"
    return ""
