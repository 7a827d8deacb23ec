"""The keys to log in with: a key file, the certificate beside it, the agent."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from base64 import b64encode
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity
from paramiko.agent import AgentSSH
from paramiko.pkey import UnknownKeyType

from exporter.dates import LAST, minute
from exporter.errors import NoKeyError

_MAX_AGENT_KEYS = 5
"""More failed keys than sshd allows in a session end it, and repeated failures block an address."""

_AGENT_SECONDS = 10.0
"""How long the agent may take to answer; one that asks a person for each use cannot serve an exporter."""


class AgentError(paramiko.SSHException):
    """The SSH agent doesn't answer."""


class _Agent(AgentSSH):
    """The SSH agent, asked with a deadline: `paramiko.Agent` waits for ever.

    Attributes:
        connected: whether there is one.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.connected = False
        path = os.environ.get("SSH_AUTH_SOCK")
        if path is None:
            return
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(seconds)
        try:
            connection.connect(path)
        except OSError:  # as good as none: paramiko has it so, too
            connection.close()
            return
        self.connected = True
        try:
            self._connect(connection)  # type: ignore[attr-defined]  # paramiko's types leave it out
        except BaseException:
            connection.close()
            raise

    def _send_message(self, message: paramiko.Message) -> tuple[int, paramiko.Message]:
        try:
            answer: tuple[int, paramiko.Message] = super()._send_message(message)  # type: ignore[misc]  # as above
        except (OSError, paramiko.SSHException) as error:  # the former would end paramiko's thread and leave us waiting
            raise AgentError(str(error) or type(error).__name__) from None
        return answer

    def close(self) -> None:
        """Ends the connection with the agent."""
        self._close()  # type: ignore[attr-defined]  # paramiko's types leave it out


def certificate_path(key: Path) -> Path:
    """Returns where the certificate of a key lies, as OpenSSH has it."""
    return key.with_name(key.name.removesuffix(".pub") + "-cert.pub")


def certificate_expiry(key: Path) -> float | None:
    """Returns when the certificate beside a key ends.

    Returns:
        Epoch seconds; None where there is no certificate, or it never ends.

    Raises:
        NoKeyError: there is a file, but it isn't a certificate.
    """
    path = certificate_path(key)
    try:
        identity = load_ssh_public_identity(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise NoKeyError(f"{path}: is no SSH certificate: {error}") from None
    if not isinstance(identity, SSHCertificate):
        raise NoKeyError(f"{path}: is a public key, not an SSH certificate")
    # 2^64-1 stands for "never" (PROTOCOL.certkeys of OpenSSH); what ends after the year 9999 is no different.
    return float(identity.valid_before) if identity.valid_before < LAST else None


def credential_state(key: Path | None, *, agent: bool, seconds: float) -> str | None:
    """Returns what changes when the person brings another key or certificate.

    Args:
        key: a key file; None for the agent's keys.
        agent: whether the agent may be asked.
        seconds: how long each answer of the agent may take at most.

    Returns:
        When the key file and the certificate beside it were written; without a key file, a digest of what the agent
        holds. None where the agent can't be asked, so that nobody knows what it holds.
    """
    if key is not None:
        files = (key, certificate_path(key))
        return " ".join(f"{path}={path.stat().st_mtime if path.exists() else 0.0}" for path in files)
    if not agent:
        return "none"
    try:
        with closing(_ask_agent(min(seconds, _AGENT_SECONDS))) as asked:
            if not asked.connected:
                return None
            held = sorted(one.blob for one in asked.get_keys())
    except NoKeyError:
        return None
    return "agent " + hashlib.sha256(b"".join(hashlib.sha256(blob).digest() for blob in held)).hexdigest()


def candidate_keys(
    key: Path | None, *, agent: bool, seconds: float
) -> Generator[tuple[str, paramiko.PKey], None, None]:
    """Gives the keys to try, each with a name for people; to be closed when one was accepted.

    A key file that has a passphrase is looked for in the agent. An expired certificate isn't offered at all, neither
    a file's nor the agent's: failed logins get an account blocked.

    Args:
        key: a key file; None for the agent's keys.
        agent: whether the agent may be asked.
        seconds: how long each answer of the agent may take at most. Signing with one of its keys is such an answer:
            `AgentError` comes out of that when it is late.

    Raises:
        NoKeyError: no key can be used, and why.
    """
    with closing(_ask_agent(min(seconds, _AGENT_SECONDS))) if agent else nullcontext() as asked:
        held = asked.get_keys() if asked else ()
        if key is None:
            if not held:
                raise NoKeyError("no key: the SSH agent holds none; start one and run ssh-add, or name a key (ssh.key)")
            for one in _not_ended(held)[:_MAX_AGENT_KEYS]:
                yield f"the agent's key {one.fingerprint}", one
            return
        yield _label(key), _load(key, held)


def silent_agent(error: Exception) -> NoKeyError:
    """Returns the error that names the agent as what is broken."""
    return NoKeyError(f"the SSH agent doesn't answer ({error}); restart it, or set ssh.agent: false")


def _ask_agent(seconds: float) -> _Agent:
    try:
        return _Agent(seconds)
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise silent_agent(error) from None


def _not_ended(held: Sequence[paramiko.AgentKey]) -> list[paramiko.AgentKey]:
    """Returns the agent's keys without the certificates that have ended."""
    now = time.time()
    expiries = [_held_expiry(one) for one in held]
    left = [one for one, expiry in zip(held, expiries, strict=True) if expiry is None or expiry > now]
    if not left:
        ended = minute(max(expiry for expiry in expiries if expiry is not None))
        raise NoKeyError(
            f"no key: the SSH agent holds only certificates that have ended, the last at {ended}; fetch a new one and "
            "run ssh-add, or name a key (ssh.key)"
        )
    return left


def _held_expiry(held: paramiko.AgentKey) -> float | None:
    """Returns when a certificate in the agent ends, epoch seconds; None for a bare key, and where it can't be read."""
    try:
        identity = load_ssh_public_identity(held.name.encode() + b" " + b64encode(held.blob))
    except (ValueError, UnsupportedAlgorithm):
        return None
    return float(identity.valid_before) if isinstance(identity, SSHCertificate) else None


def _label(key: Path) -> str:
    """Returns what a key is called, after a look at the certificate beside it."""
    expiry = certificate_expiry(key)
    if expiry is None:
        return str(key)
    if expiry <= time.time():
        raise NoKeyError(f"{certificate_path(key)}: the certificate ended at {minute(expiry)}; fetch a new one")
    return f"{key} with its certificate"


def _load(key: Path, held: Sequence[paramiko.AgentKey]) -> paramiko.PKey:
    try:
        # As `serve` does at its start: what acts without it mustn't use such a key silently either.
        if key.is_file() and (mode := key.stat().st_mode & 0o777) & 0o077:
            raise NoKeyError(f"{key}: can be read by others (mode {mode:04o}); run: chmod 600 {key}")
        return paramiko.PKey.from_path(key)
    except FileNotFoundError:
        raise NoKeyError(f"{key}: no such key file") from None
    except (paramiko.PasswordRequiredException, TypeError):
        return _from_agent(key, held)
    except (OSError, ValueError, paramiko.SSHException, UnknownKeyType) as error:
        raise NoKeyError(f"{key}: cannot be used as a private key: {str(error) or type(error).__name__}") from None


def _from_agent(key: Path, held: Sequence[paramiko.AgentKey]) -> paramiko.PKey:
    """Returns the agent's copy of a key file that has a passphrase."""
    public = key.with_name(key.name + ".pub")
    words = public.read_text(encoding="utf-8", errors="replace").split() if public.is_file() else []
    for one in held:
        if one.get_base64() in words:
            if certificate_path(key).is_file():
                one.load_certificate(str(certificate_path(key)))
            return one
    raise NoKeyError(
        f"{key}: has a passphrase, and the agent doesn't hold it (it is looked for by {public.name}); "
        f"run: ssh-add {key}"
    )
