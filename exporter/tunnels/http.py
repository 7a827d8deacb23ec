"""One question over HTTP to a port of this machine, bounded in what it takes in; its caller bounds the time.

A TCP connect says nothing of a tunnel: it succeeds while the target is dead. And `http.client` bounds each wait, not
the whole of them, so that a peer who sends a byte now and then would hold it for ever.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass

MOST_BYTES = 64 * 1024
"""What an answer may have, its head included, unless said otherwise."""

_SMALL_BYTES = 4096
_BEGIN = b"HTTP/"
_HEAD_END = b"\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)


class NoAnswerError(Exception):
    """The connection was closed before an answer was there as a whole.

    Attributes:
        said: what of it came.
    """

    def __init__(self, said: bytes = b"") -> None:
        super().__init__("the connection was closed before an answer was there as a whole")
        self.said = said


class NotHttpError(Exception):
    """Something was said that is no answer over HTTP, or is longer than it may be.

    Attributes:
        said: what was said.
    """

    def __init__(self, said: bytes = b"") -> None:
        super().__init__("what was said is no answer over HTTP, or is too long")
        self.said = said


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered."""

    status: int
    body: bytes

    def fields(self) -> dict[str, object]:
        """Returns the fields of a JSON object; none where the body is no such thing."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


async def get(port: int, path: str, *, bearer: str | None = None, most_bytes: int = MOST_BYTES) -> Reply:
    """Asks 127.0.0.1 for a path, through no proxy.

    Args:
        port: where.
        path: what for.
        bearer: what to show; nothing where left out.
        most_bytes: what an answer may have, its head included.

    Raises:
        ConnectionRefusedError: nobody listens there.
        ConnectionError: it was accepted and then reset.
        NoAnswerError: it was accepted and then closed.
        NotHttpError: somebody answered something else.
        OSError: this machine could not ask.
    """
    reader, writer = await _asked(port, path, "application/json", bearer)
    try:
        return _reply(await _receive(reader, most_bytes))
    finally:
        writer.close()


async def beginning(port: int, path: str, *, enough: int) -> Reply:
    """Asks 127.0.0.1 for a path and reads no more of the answer than its head and the first bytes of its body.

    Args:
        port: where.
        path: what for.
        enough: how much of the body is wanted; there is less of it where the answer is shorter.

    Raises:
        ConnectionRefusedError, ConnectionError, NoAnswerError, NotHttpError, OSError: see `get`.
    """
    reader, writer = await _asked(port, path, "*/*", None)
    try:
        raw = await _receive(reader, MOST_BYTES, enough=enough)
        _, end, body = raw.partition(_HEAD_END)
        return _reply(raw, cut=bool(end) and len(body) >= enough)
    finally:
        writer.close()


async def _asked(
    port: int, path: str, accept: str, bearer: str | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects and asks."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    # HTTP/1.0: the answer ends where the connection does and comes in one piece, whatever its length.
    lines = [f"GET {path} HTTP/1.0", f"Host: 127.0.0.1:{port}", "User-Agent: rayslurm", f"Accept: {accept}"]
    if bearer is not None:
        lines.append(f"Authorization: Bearer {bearer}")
    writer.write("\r\n".join([*lines, "", ""]).encode())
    return reader, writer


async def _receive(reader: asyncio.StreamReader, most_bytes: int, *, enough: int | None = None) -> bytes:
    """Reads until there is a whole answer, or so much of its body, or the connection is closed."""
    raw = b""
    while chunk := await reader.read(MOST_BYTES if enough is None else _SMALL_BYTES):
        raw += chunk
        if not raw.startswith(_BEGIN[: len(raw)]):
            raise NotHttpError(raw)
        length = _length(raw)
        if length is not None and len(raw) >= length:
            break
        _, end, body = raw.partition(_HEAD_END)
        if enough is not None and end and len(body) >= enough:
            break
        if len(raw) > most_bytes:
            raise NotHttpError(raw)
    return raw


def _length(raw: bytes) -> int | None:
    """Returns how long the answer is, its head included; None while, or where, that isn't told."""
    head, end, _ = raw.partition(_HEAD_END)
    told = _LENGTH.search(head + b"\r\n") if end else None
    return None if told is None else len(head) + len(end) + int(told[1])


def _reply(raw: bytes, *, cut: bool = False) -> Reply:
    head, end, body = raw.partition(_HEAD_END)
    length = _length(raw)
    if not end or (not cut and length is not None and len(raw) < length):
        raise NoAnswerError(raw)
    status = _STATUS.match(head + b"\r")
    if status is None:
        raise NotHttpError(raw)
    return Reply(int(status[1]), body)
