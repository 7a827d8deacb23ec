"""What is served over HTTP, on loopback unless told otherwise in words. No request makes rayslurm ask a site."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable

from prometheus_client.exposition import gzip_accepted
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from exporter.errors import StoreError
from exporter.metrics.render import Renderer
from exporter.web.discovery import Discovery
from exporter.web.host import OwnNameOnly
from exporter.web.pages import Pages

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


_RENEW_SECONDS = "30"
_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_app(
    renderer: Renderer, pages: Pages, discovery: Discovery, ready: Callable[[], bool], *, local_only: bool = True
) -> Starlette:
    """Returns the application.

    Args:
        renderer: makes /metrics.
        pages: makes the pages for people.
        discovery: tells Prometheus what to scrape besides.
        ready: tells whether the owner's workers live.
        local_only: whether only this machine is served; see `OwnNameOnly`.
    """

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("rayslurm is healthy.\n")

    async def is_ready(_: Request) -> Response:
        if ready():
            return PlainTextResponse("rayslurm is ready.\n")
        return PlainTextResponse("rayslurm is not ready.\n", status_code=503)

    async def ray_targets(_: Request) -> Response:
        # Where this fails, Prometheus goes on with what it was told before.
        try:
            return JSONResponse(await run_in_threadpool(discovery.ray))
        except StoreError as error:
            return PlainTextResponse(f"The store cannot be read: {error}\n", status_code=503)

    return Starlette(
        routes=[
            *_for_people(pages),
            Route("/metrics", MetricsPage(renderer).answer),
            Route("/sd/ray", ray_targets),
            Route("/-/healthy", healthy),
            Route("/-/ready", is_ready),
        ],
        middleware=[Middleware(OwnNameOnly)] if local_only else [],
    )


def _for_people(pages: Pages) -> list[Route]:
    """Returns the routes of the pages for people."""

    async def page(request: Request, make: Callable[[bool], str | None]) -> Response:
        still = "still" in request.query_params
        # In the header: a page that renews itself by its own text cannot be kept from it by those whom it disturbs.
        headers = _PAGE_HEADERS if still else {**_PAGE_HEADERS, "Refresh": _RENEW_SECONDS}
        try:
            text, status = await run_in_threadpool(make, still), 200
        except StoreError as error:
            text, status = pages.message("The store cannot be read", str(error), still=still), 503
        if text is None:
            words = "No job of that name is followed, or none any more."
            text, status = pages.message("No such job", words, still=still), 404
        return HTMLResponse(text, status_code=status, headers=headers)

    async def front(request: Request) -> Response:
        return await page(request, lambda still: pages.front(still=still))

    async def job(request: Request) -> Response:
        site, job_id = request.path_params["site"], request.path_params["job_id"]
        return await page(request, lambda still: pages.job(site, job_id, still=still))

    async def probes(request: Request) -> Response:
        return await page(request, lambda still: pages.probes(still=still))

    async def style(_: Request) -> Response:
        headers = {"Cache-Control": "max-age=300", "X-Content-Type-Options": "nosniff"}
        return Response(pages.style(), media_type="text/css", headers=headers)

    return [
        Route("/", front),
        Route("/jobs/{site}/{job_id}", job),
        Route("/probes", probes),
        Route("/style.css", style),
    ]
