"""The keys to log in with: a key file, the certificate beside it, the agent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity

from exporter.errors import AuthError

_MAX_AGENT_KEYS = 5
"""More failed keys than sshd allows in a session end it, and repeated failures block an address."""


def certificate_path(key: Path) -> Path:
    """Returns where the certificate of a key lies, as OpenSSH has it."""
    return key.with_name(key.name.removesuffix(".pub") + "-cert.pub")


def certificate_expiry(key: Path) -> float | None:
    """Returns when the certificate beside a key ends.

    Returns:
        Epoch seconds; None where there is no certificate.

    Raises:
        AuthError: there is a file, but it isn't a certificate.
    """
    path = certificate_path(key)
    try:
        identity = load_ssh_public_identity(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise AuthError(f"{path}: is no SSH certificate: {error}") from None
    if not isinstance(identity, SSHCertificate):
        raise AuthError(f"{path}: is a public key, not an SSH certificate")
    return float(identity.valid_before)


def candidate_keys(key: Path | None, *, agent: bool) -> Iterator[tuple[str, paramiko.PKey]]:
    """Gives the keys to try, each with a name for people.

    A key file that has a passphrase is looked for in the agent. An expired certificate isn't offered at all: failed
    logins get an account blocked.

    Raises:
        AuthError: no key can be used, and why.
    """
    if key is None:
        keys = list(paramiko.Agent().get_keys()) if agent else []
        if not keys:
            raise AuthError("no key: the SSH agent holds none; start one and run ssh-add, or name a key (ssh.key)")
        for held in keys[:_MAX_AGENT_KEYS]:
            yield f"the agent's key {held.fingerprint}", held
        return
    expiry = certificate_expiry(key)
    if expiry is not None and expiry <= time.time():
        ended = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expiry))
        raise AuthError(f"{certificate_path(key)}: the certificate ended at {ended}; fetch a new one")
    label = f"{key}" + (" with its certificate" if expiry is not None else "")
    try:
        yield label, paramiko.PKey.from_path(key)
    except FileNotFoundError:
        raise AuthError(f"{key}: no such key file") from None
    except (paramiko.PasswordRequiredException, TypeError):
        yield label, _from_agent(key, agent=agent)
    except (OSError, ValueError, paramiko.SSHException) as error:
        raise AuthError(f"{key}: cannot be used as a private key: {error}") from None


def _from_agent(key: Path, *, agent: bool) -> paramiko.PKey:
    """Returns the agent's copy of a key file that has a passphrase."""
    if agent:
        public = key.with_name(key.name + ".pub")
        wanted = public.read_text(encoding="utf-8").split()[1] if public.is_file() else None
        certificate = certificate_path(key)
        for held in paramiko.Agent().get_keys():
            if wanted is not None and held.get_base64() == wanted:
                if certificate.is_file():
                    held.load_certificate(str(certificate))
                return held
    raise AuthError(f"{key}: has a passphrase, and the agent doesn't hold it; run: ssh-add {key}")
