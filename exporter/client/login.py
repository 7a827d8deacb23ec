"""Logging in to a host over SSH, with paramiko: its key is pinned, ours is shown. Nothing is trusted on first sight."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import paramiko

from exporter.client.credentials import AgentError, candidate_keys, silent_agent
from exporter.client.hostkeys import known_name, pinned_keys
from exporter.errors import AuthError, ConnectError, HostKeyError

_KEEPALIVE_SECONDS = 60

# paramiko logs what it raises as well, with tracebacks; what matters is in our errors.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host to log in to.

    Attributes:
        host_key_alias: the name to look up in known_hosts; None for the host itself.
    """

    host: str
    port: int
    user: str
    host_key_alias: str | None = None

    def __str__(self) -> str:
        return f"{self.user}@{known_name(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What hosts are known by, and what we are known by.

    Attributes:
        known_hosts: the file with pinned host keys.
        key: a private key, used with the certificate beside it; None for the agent's keys.
        agent: whether the agent may be asked.
    """

    known_hosts: Path
    key: Path | None
    agent: bool


def log_in(
    endpoint: Endpoint,
    credentials: Credentials,
    sock: socket.socket | paramiko.Channel | None,
    *,
    ends: float,
    begun: Callable[[paramiko.Transport], None],
) -> paramiko.Transport:
    """Logs in to one host.

    Args:
        endpoint: the host.
        credentials: what it is known by, and what we are known by.
        sock: the way there; None for a connection of its own.
        ends: until when it may take, by the monotonic clock.
        begun: told of the session as soon as there is one, so that somebody else can close it.

    Raises:
        SiteError: says what went wrong.
        OSError, EOFError, paramiko.SSHException: the same, in others' words.
    """
    name = endpoint.host_key_alias or known_name(endpoint.host, endpoint.port)
    pinned = pinned_keys(credentials.known_hosts, name)
    if not pinned.accepted:
        raise HostKeyError(
            f"{name} is not in {credentials.known_hosts}; put its key there after comparing it with the published one"
        )
    session = _Session(sock or _dial(endpoint, ends))
    begun(session)
    timeout = max(ends - time.monotonic(), 0.1)
    session.banner_timeout = session.auth_timeout = session.channel_timeout = timeout
    options = session.get_security_options()
    wanted = {algorithm for kind in pinned.types for algorithm in _algorithms(kind)}
    options.key_types = [kind for kind in options.key_types if kind in wanted] or options.key_types
    try:
        session.start_client(timeout=timeout)
    except paramiko.ssh_exception.IncompatiblePeer as error:
        if "host key" not in str(error):
            raise
        raise HostKeyError(
            f"{name}: has no key of a type in {credentials.known_hosts} ({', '.join(sorted(pinned.types))}); somebody "
            "may be between you, or the site has new keys: compare with the published ones before you change "
            "anything"
        ) from None
    offered = session.get_remote_server_key()
    if offered in pinned.revoked:
        raise HostKeyError(f"{name}: its key {offered.fingerprint} is marked @revoked in {credentials.known_hosts}")
    if offered not in pinned.accepted:
        raise HostKeyError(
            f"{name}: its key {offered.fingerprint} is not the one in {credentials.known_hosts}; somebody may be "
            "between you, or the site has new keys: compare with the published ones before you change anything"
        )
    _authenticate(session, endpoint, credentials, ends)
    session.set_keepalive(_KEEPALIVE_SECONDS)
    return session


def channel_to(endpoint: Endpoint, session: paramiko.Transport, ends: float) -> paramiko.Channel:
    """Returns a way to a host through one that we are logged in to.

    Args:
        endpoint: the host.
        session: with the other one.
        ends: until when it may take, by the monotonic clock.

    Raises:
        OSError, EOFError, paramiko.SSHException: there is none.
    """
    timeout = max(ends - time.monotonic(), 0.1)
    return session.open_channel("direct-tcpip", (endpoint.host, endpoint.port), ("127.0.0.1", 0), timeout=timeout)


def _authenticate(session: _Session, endpoint: Endpoint, credentials: Credentials, ends: float) -> None:
    refused: list[str] = []
    patience = max((ends - time.monotonic()) / 2, 0.1)
    with closing(candidate_keys(credentials.key, agent=credentials.agent, seconds=patience)) as candidates:
        for label, key in candidates:
            try:
                still_wanted = session.auth_publickey(endpoint.user, key)
            except paramiko.BadAuthenticationType as error:
                raise AuthError(f"{endpoint}: takes no keys, only {', '.join(error.allowed_types)}") from None
            except AgentError as error:
                raise silent_agent(error) from None
            except paramiko.SSHException as error:
                if session.is_active():
                    refused.append(label)
                    continue
                if "authentication failures" in session.farewell:  # sshd hangs up after too many keys
                    refused.append(label)
                if refused:
                    break
                raise ConnectError(f"{endpoint}: the connection ended during the login: {error}") from None
            if still_wanted:
                raise AuthError(f"{endpoint}: wants {', '.join(still_wanted)} after the key, which needs a person")
            return
    raise AuthError(f"{endpoint}: did not accept {', '.join(refused)}")


class _Session(paramiko.Transport):
    """A session that keeps what the server said when it hung up."""

    farewell = ""

    def _parse_disconnect(self, message: paramiko.Message) -> None:
        message.get_int()
        self.farewell = message.get_text()


def _dial(endpoint: Endpoint, ends: float) -> socket.socket:
    """Connects to the first of a host's addresses that answers before the time is up."""
    failure: OSError | None = None
    found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, address) in enumerate(found):
        remaining = ends - time.monotonic()
        if remaining <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        sock.settimeout(remaining / (len(found) - number))  # a silent one leaves time for the others
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
            continue
        # What we send is waited for: else the last bytes of each message wait for an acknowledgement of the first.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    raise failure or TimeoutError(f"no address of {endpoint.host} answered")


def _algorithms(key_type: str) -> tuple[str, ...]:
    """Returns the signature algorithms that prove a host key of that type."""
    return ("rsa-sha2-512", "rsa-sha2-256") if key_type == "ssh-rsa" else (key_type,)
