"""The pages for people: what a reader finds there, and what must never be there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from exporter.config import Config
from exporter.metrics.render import Renderer
from exporter.states import METRIC_STATES
from exporter.store import tunnels
from exporter.store.db import Store
from exporter.store.tunnels import Health
from exporter.web.app import make_app
from exporter.web.discovery import Discovery
from exporter.web.pages import Pages
from exporter.web.shown import UNKNOWN, amount, exactly, length, moment, percent, size
from tests.unit.conftest import Clock, MakeSite
from tests.unit.filled import SITE, as_puhti, fill


@pytest.fixture
def config_path(config_path: Path) -> Path:
    return as_puhti(config_path)


@pytest.fixture
def pages(store: Store, make_site: MakeSite, clock: Clock, config: Config) -> Pages:
    fill(store, make_site, clock)
    return Pages(store, config, clock=clock)


class Read(HTMLParser):
    """What of a page a reader sees, and how its tables and links are made."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"tr", "p", "dt", "h1", "h2", "h3"}:
            self.words.append("\n")

    def handle_data(self, data: str) -> None:
        self.words.append(re.sub(r"\s+", " ", data))

    @property
    def lines(self) -> list[str]:
        text = re.sub(r"[ \t]+", " ", " ".join(self.words))
        return [line.strip() for line in text.splitlines() if line.strip()]

    def line(self, begins: str) -> str:
        found = [line for line in self.lines if line.startswith(begins)]
        assert found, f"no line begins with {begins!r}: {self.lines}"
        return found[0]


def answers(pages: Pages, store: Store, config: Config, *paths: str) -> list[httpx.Response]:
    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(
            make_app(Renderer(store, config), pages, Discovery(store, config), lambda: True)
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(ask())


def test_jobs_with_their_states_costs_and_use(pages: Pages) -> None:
    page = Read(pages.front())
    running, waiting, ended = page.line(f"{SITE}/77"), page.line(f"{SITE}/78"), page.line(f"{SITE}/79")
    assert "train running" in running
    assert "127.0.0.1:8100" in running
    assert "in 18 min" in running, "left of its limit"
    assert "pending Priority (expected in 8 min" in re.sub(r"\s+", " ", waiting)
    assert "failed" in ended
    assert "0.13 cpu BU" in ended
    assert "50.2 %" in ended
    assert page.line(f"{SITE}/80_1").count("\N{EN DASH}") >= 1, "what is not known is not 0"


def test_balances_areas_and_sites(pages: Pages) -> None:
    page = Read(pages.front())
    cpu = next(line for line in page.lines if "cpu BU 60,020 60,000 -20" in line)
    assert cpu.endswith("overspent")
    assert "2027-12-31" in cpu, "the day as the site has it, not that of UTC"
    scratch = page.line("/scratch/project_2001234")
    assert "7.2 TiB 7.0 TiB 2,700,000 5,000,000 space over the limit" in scratch
    assert page.line("114 of 120 commands left of this hour.")
    assert "slurmdbd_unreachable: down" in page.line("reports")


def test_one_jobs_life(pages: Pages) -> None:
    running, ended = Read(pages.job(SITE, "77") or ""), Read(pages.job(SITE, "79") or "")
    assert running.line(f"{SITE}/77: train")
    assert "1 min of 20 min" in running.line("Ran")
    cost = running.line("It is known when the job has ended.")
    assert "So far about 0.11 cpu BU, by what the queue told" in cost
    assert "At its time limit it has cost 1.53 cpu BU." in cost
    assert "0.13 cpu BU, paid by project_2001234 (source: seff)." in ended.lines
    assert "50.2 %: 3 min of 6 min (source: seff)" in ended.line("CPU 50")
    assert ended.line("Exit code").endswith("7")
    assert pages.job(SITE, "999") is None
    assert pages.job("nowhere", "77") is None


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("up", "up, 0 s ago"),
        ("refused", "down: nobody listens, last up 1 min ago"),
        ("timeout", "down: no answer in time, last up 1 min ago"),
        ("auth", "a Ray that refuses our token, last up 1 min ago"),
        ("foreign", "something else answers, last up 1 min ago"),
        ("target_down", "open, but Ray is gone behind it, last up 1 min ago"),
    ],
)
def test_how_the_tunnel_of_a_running_job_is(store: Store, pages: Pages, clock: Clock, state: str, words: str) -> None:
    now = Health(SITE, "77", "dashboard", state, clock.now, 0.1, clock.now + 50)
    store.write(lambda connection: tunnels.keep(connection, [now]))
    assert words in tidy(Read(pages.front()).line(f"{SITE}/77"))
    assert tidy(Read(pages.job(SITE, "77") or "").line("Tunnel")) == f"Tunnel to it {words} ({state}, probed 0 s ago )"


def test_a_tunnel_that_is_not_known_is_not_guessed(store: Store, pages: Pages, clock: Clock) -> None:
    waiting = tidy(Read(pages.front()).line(f"{SITE}/78"))
    assert "up" not in waiting.split()
    clock.now += 51
    assert "gone" not in pages.front()
    assert tidy(Read(pages.job(SITE, "77") or "").line("Tunnel")) == "Tunnel to it \N{EN DASH} unknown"
    store.write(lambda connection: connection.execute("DELETE FROM tunnel_health"))
    new = Health(SITE, "77", "dashboard", "refused", clock.now, 0.1, clock.now + 50)
    store.write(lambda connection: tunnels.keep(connection, [new]))
    assert "down: nobody listens, never up" in tidy(Read(pages.front()).line(f"{SITE}/77"))


def tidy(line: str) -> str:
    return re.sub(r"\s+", " ", line).replace(" ,", ",")


def test_every_state_has_its_word(store: Store, pages: Pages) -> None:
    def states(connection: sqlite3.Connection) -> None:
        for number in range(30):
            state = METRIC_STATES[number % len(METRIC_STATES)]
            connection.execute("INSERT INTO tracked (site, root_id, since) VALUES (?, ?, 1)", (SITE, str(900 + number)))
            connection.execute(
                "INSERT INTO jobs (site, job_id, root_id, state, state_since, seen) VALUES (?, ?, ?, ?, 1, 1)",
                (SITE, str(900 + number), str(900 + number), state),
            )

    store.write(states)
    page = Read(pages.front())
    for number in range(30):
        state = METRIC_STATES[number % len(METRIC_STATES)].replace("_", " ")
        assert state in page.line(f"{SITE}/{900 + number}")


def test_a_hostile_name_is_only_text(store: Store, pages: Pages) -> None:
    hostile = "<script>alert(1)</script>\"'"
    store.write(lambda connection: connection.execute("UPDATE jobs SET job_name = ? WHERE job_id = '78'", (hostile,)))
    for page in (pages.front(), pages.job(SITE, "78") or ""):
        assert "<script" not in page
        assert any(hostile in line for line in Read(page).lines)


def test_what_may_be_a_key_in_a_spec_is_shown_nowhere(
    pages: Pages, store: Store, config: Config, config_path: Path, clock: Clock
) -> None:
    keys = json.dumps({"ray": {"env": {"WANDB_API_KEY": "s3cr3t"}}})
    store.write(
        lambda connection: connection.execute(
            "UPDATE submissions SET spec = json_patch(spec, ?), sent = ?", (keys, keys)
        )
    )
    assert store.path.stat().st_mode & 0o777 == 0o600
    metrics = Renderer(store, config, clock=clock).render("")[0].decode()
    told = subprocess.run(
        [sys.executable, "-m", "exporter.cli.entry", "status", "--json"],
        env=os.environ | {"RAYSLURM_CONFIG": str(config_path)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    for text in (pages.front(), pages.job(SITE, "77") or "", metrics, told.stdout, told.stderr):
        assert "s3cr3t" not in text
    assert '"77"' in told.stdout, "the job is there"


def test_what_it_is_served_with(pages: Pages, store: Store, config: Config) -> None:
    front, job, style, missing = answers(pages, store, config, "/", f"/jobs/{SITE}/77", "/style.css", "/jobs/x/1")
    assert [answer.status_code for answer in (front, job, style, missing)] == [200, 200, 200, 404]
    assert "No such job" in missing.text
    assert style.headers["content-type"].startswith("text/css")
    assert {answer.headers["refresh"] for answer in (front, job)} == {"30"}
    (still,) = answers(pages, store, config, "/?still")
    assert "refresh" not in still.headers, "who is disturbed by it can stop it"
    assert 'href="?still"' in front.text
    assert 'href="?"' in still.text
    (of_job,) = re.findall(rf'href="(/jobs/{SITE}/77[^"]*)"', still.text)
    (followed,) = answers(pages, store, config, of_job)
    assert "refresh" not in followed.headers, "nor is it disturbed where that page leads to"
    for answer in (front, job, missing):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        page = Read(answer.text)
        assert len([tag for tag, _ in page.tags if tag == "h1"]) == 1
        assert not re.search(r"(src|href)=.?(https?:)?//", answer.text), "nothing from elsewhere"
        assert "<script" not in answer.text
        assert "style=" not in answer.text, "the policy would not allow it"
        assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")


def test_a_store_that_cannot_be_read_is_told_in_words(
    pages: Pages, store: Store, config: Config, config_path: Path
) -> None:
    del config_path
    store.close()
    store.path.write_bytes(b"no database")
    for left in store.path.parent.glob(f"{store.path.name}-*"):
        left.unlink()
    (front,) = answers(pages, store, config, "/")
    assert front.status_code == 503
    assert "The store cannot be read" in front.text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3600, "1 h"), (5000, "1 h 23 min"), (90000, "1 d 1 h"), (-5, "0 s")],
)
def test_lengths(seconds: float, words: str) -> None:
    assert length(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1024**5 * 3, "3.0 PiB")]
)
def test_sizes(value: float, words: str) -> None:
    assert size(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (0.003, "< 0.01"), (-0.003, "> -0.01"), (0.01, "0.01"), (-20.0, "-20"), (1234567.891, "1,234,567.89")],
)
def test_amounts(value: float, words: str) -> None:
    assert amount(value) == words


@pytest.mark.parametrize(("ratio", "words"), [(0, "0.0 %"), (0.0004, "< 0.1 %"), (0.5, "50.0 %"), (1.034, "103.4 %")])
def test_percents(ratio: float, words: str) -> None:
    assert percent(ratio) == words


def test_a_job_of_a_site_that_is_not_configured_any_more_keeps_its_page(
    pages: Pages, store: Store, config: Config, clock: Clock
) -> None:
    del pages
    without = config.model_copy(update={"sites": {}})

    page = Pages(store, without, clock=clock).job(SITE, "77")

    assert page is not None
    assert "could have asked for less of" not in page


@pytest.mark.parametrize("epoch", [None, -1.0, 1.8446744073709552e19, float("inf"), float("nan")])
def test_a_time_that_is_none_costs_no_page(epoch: float | None) -> None:
    assert moment(epoch, 1795000000) == exactly(epoch, 1795000000) == UNKNOWN
