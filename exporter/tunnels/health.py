"""What is behind a tunnel: what it should lead to in this job, or what else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from dataclasses import dataclass

from exporter.store.tunnels import CLIENT, DASHBOARD, METRICS, SERVE, UP
from exporter.tunnels.http import NoAnswerError, NotHttpError, Reply, beginning, get

DEADLINE_SECONDS = 5.0
"""How long one probe may take, all its questions together."""

SAID_BYTES = 500
"""How much is kept of what was said."""

_OK, _UNAUTHORIZED, _FORBIDDEN, _SERVER_ERROR = 200, 401, 403, 500
_RAY_FIELDS = {"version", "ray_version", "session_name"}

# RFC 9113: a client begins with these words and a SETTINGS frame; a server's first frame is one too.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_NO_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_HEAD, _MOST_FRAME, _SETTING = 9, 16384, 6

_METRICS_TEXT = re.compile(rb"# (HELP|TYPE) [a-zA-Z_:][a-zA-Z0-9_:]* ")
_METRICS_ENOUGH = 512


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found.

    Attributes:
        state: `up`; `refused`: nobody listens, so there is no tunnel; `timeout`: no whole answer came in time; `auth`:
            a Ray that doesn't take our token; `foreign`: something that isn't what this tunnel should lead to;
            `target_down`: the tunnel lives, and what is behind it closes without an answer or is out of order. None
            where it cannot be told.
        said: what was said, at most `SAID_BYTES` of it and never a secret; in our words where nothing was.
    """

    state: str | None
    said: str = ""


async def probe(
    tunnel: str, port: int, secret: str | None, *, may_be_open: bool = False, deadline: float = DEADLINE_SECONDS
) -> Finding:
    """Looks what answers on a port of this machine.

    Behind `dashboard`: a Ray that says it wants a token and takes ours is ours: nobody else has it. It is shown only to
    who says so, so that what is no Ray never sees it. Of a job whose spec allows a Ray without authentication that asks
    for nothing, no more can be told than that a Ray answers, not whose. A status from 500 on is `target_down`.

    Behind `metrics-N`: text in Prometheus's format, of which only the beginning is read; whose it is can't be told.

    Behind `client`: gRPC, that is HTTP/2: its first frame.

    Behind `serve`: any answer over HTTP, whatever its status. Serve's proxy answers there also where an application is
    missing (404), at fault (500) or not ready (503); the tunnel carries all of these, and they are the application's
    own matter. It is asked for its proxy's health, so that no code of the application runs.

    Args:
        tunnel: `dashboard`, `client`, `serve` or `metrics-N`.
        port: where it should listen.
        secret: the token of the job's Ray; None where it is lost.
        may_be_open: whether the job's spec allows a Ray that asks for no token.
        deadline: seconds.

    Raises:
        ValueError: there is no such kind of tunnel.
    """
    kind = tunnel.partition("-")[0]
    question: Awaitable[Finding]
    if kind == DASHBOARD:
        question = _who_answers(port, secret, may_be_open=may_be_open)
    elif kind == METRICS:
        question = _has_metrics(port)
    elif kind == CLIENT:
        question = _speaks_grpc(port)
    elif kind == SERVE:
        question = _answers_http(port)
    else:
        raise ValueError(f"no kind of tunnel is called {tunnel}")
    return await _within(deadline, question, secret)


async def _within(deadline: float, question: Awaitable[Finding], secret: str | None) -> Finding:
    """Waits for what a question finds; what goes wrong meanwhile is a finding too."""
    try:
        async with asyncio.timeout(deadline):
            found = await question
    except TimeoutError:
        return Finding("timeout", f"no whole answer within {deadline:g} s")
    except ConnectionRefusedError:
        return Finding("refused", "nobody listens")
    except NoAnswerError as error:
        found = Finding("target_down", _text(error.said) or "it was closed without an answer")
    except ConnectionError as error:
        found = Finding("target_down", f"it was closed without an answer: {error.strerror or error}")
    except NotHttpError as error:
        found = Finding("foreign", _text(error.said))
    except OSError as error:  # this machine's own fault, such as too many open files: it says nothing about the tunnel
        return Finding(None, f"this machine could not ask: {error.strerror or error}")
    return Finding(found.state, _without(secret, found.said))


async def _who_answers(port: int, secret: str | None, *, may_be_open: bool) -> Finding:
    mode = await get(port, "/api/authentication_mode")
    told = f"authentication mode: {_summary(mode)}"
    if mode.status >= _SERVER_ERROR:
        return Finding("target_down", told)
    wants_token = mode.status == _OK and mode.fields().get("authentication_mode") == "token"
    if not wants_token and not may_be_open:
        return Finding("foreign", told)
    if wants_token and secret is None:
        return Finding(None, "the secret of this job's Ray is not on this machine")
    version = await get(port, "/api/version", bearer=secret if wants_token else None)
    told = f"version: {_summary(version)}"
    if version.status >= _SERVER_ERROR:
        return Finding("target_down", told)
    if wants_token and version.status in {_UNAUTHORIZED, _FORBIDDEN}:
        return Finding("auth", told)
    return Finding(UP if _is_ray(version) else "foreign", told)


def _is_ray(version: Reply) -> bool:
    return version.status == _OK and version.fields().keys() >= _RAY_FIELDS


async def _has_metrics(port: int) -> Finding:
    reply = await beginning(port, "/metrics", enough=_METRICS_ENOUGH)
    told = _summary(reply)
    if reply.status >= _SERVER_ERROR:
        return Finding("target_down", told)
    return Finding(UP if reply.status == _OK and _METRICS_TEXT.match(reply.body) else "foreign", told)


async def _answers_http(port: int) -> Finding:
    return Finding(UP, _summary(await beginning(port, "/-/healthz", enough=0)))


async def _speaks_grpc(port: int) -> Finding:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_PREFACE + _NO_SETTINGS)
        head = b""
        while len(head) < _FRAME_HEAD and (chunk := await reader.read(_FRAME_HEAD - len(head))):
            head += chunk
            if not _may_be_settings(head):
                return Finding("foreign", _text(head + await _rest(reader)))
        if len(head) < _FRAME_HEAD:
            raise NoAnswerError(head)
        return Finding(UP)
    finally:
        writer.close()


def _may_be_settings(head: bytes) -> bool:
    """Tells whether what came so far can begin a SETTINGS frame: its length, type, flags and stream."""
    if len(head) >= 3 and not _fits(int.from_bytes(head[:3], "big")):  # noqa: PLR2004 - a length has three bytes
        return False
    return (head[:1] in {b"", b"\0"}) and head[3:9] == bytes([4, 0, 0, 0, 0, 0])[: len(head[3:9])]


def _fits(length: int) -> bool:
    return length <= _MOST_FRAME and length % _SETTING == 0


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """Returns what more was said, where it is there already."""
    try:
        async with asyncio.timeout(0.1):
            return await reader.read(SAID_BYTES)
    except (TimeoutError, OSError):
        return b""


def _summary(reply: Reply) -> str:
    return f"HTTP status {reply.status}: {_text(reply.body)}"


def _text(said: bytes) -> str:
    """Returns the beginning of what was said, as text."""
    return said[:SAID_BYTES].decode("utf-8", errors="backslashreplace")


def _without(secret: str | None, text: str) -> str:
    """Returns a text of at most so many bytes, without the secret, or the half of one at its end."""
    if secret:
        text = text.replace(secret, "(secret)")
        for length in range(min(len(secret), len(text)), 7, -1):
            if text.endswith(secret[:length]):
                text = text[:-length] + "(secret)"
                break
    return text.encode()[:SAID_BYTES].decode(errors="ignore")
