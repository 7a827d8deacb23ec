"""What is served over HTTP, on loopback unless told otherwise in words. No request makes rayslurm ask a site."""

from __future__ import annotations

import asyncio
import gzip
import html
from collections.abc import Awaitable, Callable

from prometheus_client.exposition import gzip_accepted
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from exporter import __version__
from exporter.metrics.render import Renderer

_GZIP_LEVEL = 5

Endpoint = Callable[[Request], Awaitable[Response]]


class MetricsPage:
    """Gives /metrics, made once for all requests that come while it is being made.

    Args:
        renderer: what makes it.
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._under_way: dict[str, asyncio.Task[tuple[bytes, bytes, str]]] = {}

    async def answer(self, request: Request) -> Response:
        """Answers a scrape, compressed where the client takes that."""
        plain, packed, content_type = await self._page(request.headers.get("accept", ""))
        headers = {"content-type": content_type, "vary": "Accept, Accept-Encoding"}
        if gzip_accepted(request.headers.get("accept-encoding", "")):
            return Response(packed, headers={**headers, "content-encoding": "gzip"})
        return Response(plain, headers=headers)

    async def _page(self, accept: str) -> tuple[bytes, bytes, str]:
        task = self._under_way.get(accept)
        if task is None:
            task = asyncio.create_task(self._make(accept))
            self._under_way[accept] = task
            task.add_done_callback(lambda _: self._under_way.pop(accept))
        return await asyncio.shield(task)

    async def _make(self, accept: str) -> tuple[bytes, bytes, str]:
        return await run_in_threadpool(self._make_now, accept)

    def _make_now(self, accept: str) -> tuple[bytes, bytes, str]:
        plain, content_type = self._renderer.render(accept)
        return plain, gzip.compress(plain, _GZIP_LEVEL), content_type


def make_app(renderer: Renderer, ready: Callable[[], bool]) -> Starlette:
    """Returns the application.

    Args:
        renderer: makes /metrics.
        ready: tells whether the owner's workers live.
    """

    async def front(_: Request) -> Response:
        title = f"rayslurm {html.escape(__version__)}"
        return HTMLResponse(
            f"<!doctype html><html lang=en><title>{title}</title><h1>{title}</h1><ul>"
            "<li><a href=/metrics>Metrics</a><li><a href=/-/healthy>Healthy</a><li><a href=/-/ready>Ready</a></ul>"
        )

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("rayslurm is healthy.\n")

    async def is_ready(_: Request) -> Response:
        if ready():
            return PlainTextResponse("rayslurm is ready.\n")
        return PlainTextResponse("rayslurm is not ready.\n", status_code=503)

    return Starlette(
        routes=[
            Route("/", front),
            Route("/metrics", MetricsPage(renderer).answer),
            Route("/-/healthy", healthy),
            Route("/-/ready", is_ready),
        ]
    )
