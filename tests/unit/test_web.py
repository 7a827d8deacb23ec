"""The HTTP side: formats, compression, and one rendering for all who ask at once."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Callable, Mapping

import httpx
import pytest

from exporter.config import Config
from exporter.metrics.render import Renderer
from exporter.store.db import Store
from exporter.web.app import make_app
from exporter.web.discovery import Discovery
from exporter.web.pages import Pages
from tests.unit.conftest import Clock


def ask(
    renderer: Renderer,
    *paths: str,
    ready: Callable[[], bool] = lambda: True,
    headers: Mapping[str, str] | None = None,
) -> list[httpx.Response]:
    """Asks for all paths at once."""

    async def all_at_once() -> list[httpx.Response]:
        pages = Pages(renderer._store, renderer._config)
        transport = httpx.ASGITransport(make_app(renderer, pages, Discovery(renderer._store, renderer._config), ready))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(*(client.get(path, headers=headers) for path in paths))

    return asyncio.run(all_at_once())


def test_text_and_openmetrics(store: Store, config: Config, clock: Clock) -> None:
    renderer = Renderer(store, config, clock=clock)
    (plain,) = ask(renderer, "/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert plain.text.startswith("# HELP rayslurm_")
    accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    (openmetrics,) = ask(renderer, "/metrics", headers=accept)
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9810", 200),
        ("localhost", 200),
        ("LOCALHOST:19810", 200),
        ("[::1]:9810", 200),
        ("10.0.0.5", 200),
        ("evil.example:9810", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
    ],
)
def test_a_page_whose_name_was_rebound_reads_nothing(
    store: Store, config: Config, clock: Clock, host: str, status: int
) -> None:
    renderer = Renderer(store, config, clock=clock)
    answers = ask(renderer, "/", "/metrics", "/sd/ray", "/jobs/x/1", headers={"host": host})
    assert {answer.status_code == 421 for answer in answers} == {status == 421}
    assert ("rayslurm_" in answers[1].text) == (status == 200)


def test_compressed_only_for_those_who_take_it(store: Store, config: Config, clock: Clock) -> None:
    renderer = Renderer(store, config, clock=clock)
    (packed,) = ask(renderer, "/metrics", headers={"accept-encoding": "gzip"})
    (plain,) = ask(renderer, "/metrics", headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.text == plain.text
    assert len(gzip.compress(plain.content)) < len(plain.content)


def test_one_rendering_serves_all_who_ask_at_once(store: Store, config: Config, clock: Clock) -> None:
    class Slow(Renderer):
        made = 0

        def render(self, accept: str) -> tuple[bytes, str]:
            type(self).made += 1
            waiting.wait(0.2)
            return super().render(accept)

    waiting = threading.Event()
    answers = ask(Slow(store, config, clock=clock), *["/metrics"] * 20)
    assert {answer.status_code for answer in answers} == {200}
    assert Slow.made == 1
    ask(Slow(store, config, clock=clock), "/metrics")
    assert Slow.made == 2, "a later scrape is made anew"


def test_health_and_readiness(store: Store, config: Config, clock: Clock) -> None:
    renderer = Renderer(store, config, clock=clock)
    healthy, ready, front, missing = ask(renderer, "/-/healthy", "/-/ready", "/", "/nothing")
    assert (healthy.status_code, ready.status_code, missing.status_code) == (200, 200, 404)
    assert 'href="/metrics"' in front.text
    (unready,) = ask(renderer, "/-/ready", ready=lambda: False)
    assert unready.status_code == 503
