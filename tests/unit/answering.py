"""Servers that answer what a test says, in the loop of the test."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(answer: Answer, port: int = 0) -> AsyncIterator[int]:
    """Takes connections and hands them to `answer`, then closes them; gives the port."""

    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await answer(reader, writer)
                await writer.drain()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            served.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        async with server:
            yield server.sockets[0].getsockname()[1]
    finally:
        for task in list(served):
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


def says(raw: bytes) -> Answer:
    """Answers a request with these bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(raw)

    return answer


def pages(known: dict[str, bytes | None], asked: list[bytes] | None = None) -> Answer:
    """Answers by the path: 404 where it isn't named; nothing while somebody waits where it is None."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read(65536)
        if asked is not None:
            asked.append(request)
        found = known.get(request.split()[1].decode().partition("?")[0], http(404, b"no such page"))
        if found is None:
            await reader.read()
        else:
            writer.write(found)

    return answer


def http(status: int, body: object = b"", *, length: bool = True) -> bytes:
    """Returns an answer over HTTP."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = b"Content-Length: %d\r\n" % len(text) if length else b""
    return b"HTTP/1.1 %d Whatever\r\nServer: x\r\n%s\r\n%s" % (status, told, text)


@contextmanager
def unused() -> Iterator[int]:
    """Gives a port that nobody listens on and nobody else gets meanwhile."""
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
