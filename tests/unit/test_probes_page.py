"""/probes: what failed, when, and what was said; whatever that is, it stays text."""

from __future__ import annotations

import re

import pytest

from exporter.config import Config
from exporter.store import tunnel_failures, tunnels
from exporter.store.db import Store
from exporter.store.tunnel_failures import Failed
from exporter.store.tunnels import Health
from exporter.web.pages import Pages
from tests.unit.conftest import Clock, MakeSite
from tests.unit.filled import SITE, fill


@pytest.fixture
def pages(store: Store, make_site: MakeSite, clock: Clock, config: Config) -> Pages:
    fill(store, make_site, clock)
    return Pages(store, config, clock=clock)


def failed(store: Store, clock: Clock, said: str, *, site: str = SITE) -> None:
    one = Failed(site, "77", "metrics-1", "foreign", clock.now - 60, said, goes_on=False)
    store.write(lambda connection: tunnel_failures.keep(connection, [one]))


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_what_sites_were_asked_and_how_tunnels_are(pages: Pages, store: Store, clock: Clock) -> None:
    health = Health(SITE, "77", "metrics-0", "up", clock.now - 5, 0.0125, clock.now + 50)
    store.write(lambda connection: tunnels.keep(connection, [health]))
    told = words(pages.probes())
    assert "reports" in told
    assert "slurmdbd_unreachable: down" in told
    assert re.search(r"puhti2/77 dashboard open, but Ray is gone behind it, last up 1 min ago \(target_down\)", told)
    assert re.search(r"puhti2/77 metrics-0 up, 5 s ago \(up\) 5 s ago 12\.50 ms", told)
    assert "No probe of a tunnel on puhti2 has failed lately." in told


def test_a_failure_stands_there_with_what_was_said(pages: Pages, store: Store, clock: Clock) -> None:
    failed(store, clock, "220 mail.example.org <script>alert('ESMTP')</script>\x00")
    failed(store, clock, "of a site that isn't configured", site="elsewhere")
    page = pages.probes()
    assert "puhti2/77 metrics-1 foreign 1 min ago 1 min ago 1 220 mail.example.org" in words(page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "configured" not in page


def test_without_any_job_it_says_so(store: Store, config: Config, clock: Clock) -> None:
    told = words(Pages(store, config, clock=clock).probes())
    assert "It was not asked yet." in told
    assert "No running job on puhti2 has a tunnel that was probed lately." in told
    assert 'href="/probes?still"' in Pages(store, config, clock=clock).front(still=True)
