"""What the pages say of age, source and what is not known, and that reading them asks and holds up nobody."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from exporter.config import Config
from exporter.metrics.render import Renderer
from exporter.store import balances, following, jobs, probe_runs, samples, submissions
from exporter.store.commands import CommandLedger
from exporter.store.db import Store
from exporter.store.samples import Sample
from exporter.web.app import make_app
from exporter.web.discovery import Discovery
from exporter.web.pages import Pages
from tests.unit.conftest import Clock, MakeSite
from tests.unit.filled import SITE, as_puhti, fill

UNKNOWN = "\N{EN DASH} unknown"
SECRET = "s3cret-of-the-dashboard"


@pytest.fixture
def config_path(config_path: Path) -> Path:
    return as_puhti(config_path)


@pytest.fixture
def pages(store: Store, make_site: MakeSite, clock: Clock, config: Config) -> Pages:
    fill(store, make_site, clock)
    return Pages(store, config, clock=clock)


class Tables(HTMLParser):
    """The tables of a page by their captions: each row as its cells by their column heads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[dict[str, str]]] = {}
        self._rows: list[list[str]] = []
        self._caption = ""
        self._text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in {"th", "td", "caption"}:
            self._text = []

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        words = " ".join(" ".join(self._text).split())
        if tag == "caption":
            self._caption = words
        elif tag in {"th", "td"}:
            self._rows[-1].append(words)
        elif tag == "table":
            assert self._caption, "a table says what it is"
            head, *body = self._rows
            assert {len(row) for row in body} == {len(head)}, "a cell for each column"
            self.tables[self._caption] = [dict(zip(head, row, strict=True)) for row in body]

    def row(self, caption: str, **cells: str) -> dict[str, str]:
        """Returns the row of a table that has those cells."""
        (table,) = (rows for name, rows in self.tables.items() if name.startswith(caption))
        found = [row for row in table if cells.items() <= row.items()]
        assert len(found) == 1, f"{len(found)} rows have {cells}: {table}"
        return found[0]


def facts(page: str | None) -> dict[str, str]:
    """Returns a job's page as what stands beside each name."""
    pairs = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page or "", re.DOTALL)
    return {
        name: " ".join(re.sub(r"<[^>]*>", " ", value).replace("&ndash;", "\N{EN DASH}").split())
        for name, value in pairs
    }


def paragraphs(pages: Pages) -> dict[str, str]:
    """Returns the paragraphs of the front page, each with its class."""
    found = re.findall(r'<p(?: class="(\w+)")?>(.*?)</p>', pages.front(), re.DOTALL)
    return {" ".join(re.sub(r"<[^>]*>", "", words).split()): of for of, words in found}


def test_costs_and_efficiencies_name_their_source(pages: Pages) -> None:
    page = Tables(pages.front())
    by_seff, by_accounting = (
        page.row("Followed jobs that ended", Job=f"{SITE}/79"),
        page.row("Followed jobs that ended", Job=f"{SITE}/80_1"),
    )
    assert (by_seff["Cost"], by_seff["CPU"]) == ("0.13 cpu BU seff", "50.2 % seff")
    assert (by_accounting["Cost"], by_accounting["CPU"]) == (UNKNOWN, "50.0 % sacct")


def test_a_waiting_job_tells_how_long_and_why(store: Store, pages: Pages) -> None:
    row = Tables(pages.front()).row("Followed jobs that have not ended", Job=f"{SITE}/78")
    assert row["Why it waits"] == "Priority (expected in 8 min )"
    assert row["Waited"] == "1 min"
    assert row["Has run"] == row["Reaches its limit"] == ""
    store.write(
        lambda connection: connection.execute("UPDATE jobs SET pending_reason = NULL, expected_start_time = NULL")
    )
    row = Tables(pages.front()).row("Followed jobs that have not ended", Job=f"{SITE}/78")
    assert row["Why it waits"] == UNKNOWN


def test_balances_have_their_age_and_what_is_lost_is_unknown(store: Store, pages: Pages, clock: Clock) -> None:
    def lose(connection: sqlite3.Connection) -> None:
        balances.lost(connection, "csc", "project_2009999", now=clock.now - 7200)
        balances.lost(connection, "of-no-configured-site", "project_1", now=clock.now)

    store.write(lose)
    page = Tables(pages.front())
    assert page.row("What projects may use", Kind="cpu BU")["Read"] == "0 s ago"
    lost = page.row("What projects may use", Project="project_2009999")
    assert lost["Remark"] == "no access"
    assert lost["Read"] == "2 h ago"
    assert {lost[column] for column in ("Kind", "Used", "Granted", "Left", "As of")} == {UNKNOWN}
    (table,) = (rows for name, rows in page.tables.items() if name.startswith("What projects"))
    assert "project_1" not in {row["Project"] for row in table}, "as on /metrics"


def test_areas_and_probes_have_their_age(store: Store, pages: Pages, clock: Clock) -> None:
    assert Tables(pages.front()).row("Bytes and files", Area="/users/maija")["Read"] == UNKNOWN
    store.write(
        lambda connection: probe_runs.note_run(connection, SITE, "areas", at=clock.now, duration_seconds=1, error=None)
    )
    clock.now += 5 * 3600
    store.write(
        lambda connection: probe_runs.note_run(
            connection, SITE, "areas", at=clock.now, duration_seconds=1, error="no answer", reason="timeout"
        )
    )
    page = Tables(pages.front())
    assert page.row("Bytes and files", Area="/users/maija")["Read"] == "5 h ago", "as old as the last good run"
    probe = page.row(f"What {SITE} is asked", Probe="areas")
    assert (probe["Last went well"], probe["Last tried"], probe["State"]) == (
        "5 h ago",
        "0 s ago",
        "timeout: no answer",
    )
    assert page.row(f"What {SITE} is asked", Probe="reports")["Last went well"] == "never"


def test_a_site_that_does_not_tell_of_its_jobs_is_named_above_them(store: Store, pages: Pages, clock: Clock) -> None:
    def ask(error: str | None) -> None:
        store.write(
            lambda connection: probe_runs.note_run(
                connection, SITE, "jobs", at=clock.now, duration_seconds=1, error=error, reason=error and "timeout"
            )
        )

    ask(None)
    assert "its jobs were" not in pages.front()
    clock.now += 3600
    ask("no answer")
    assert f"{SITE}: its jobs were last read 1 h ago; the try 0 s ago failed (timeout): no answer" in paragraphs(pages)


def test_a_submission_in_doubt_is_told_so_and_one_under_way_is_no_fault(
    store: Store, pages: Pages, clock: Clock
) -> None:
    def begin(connection: sqlite3.Connection) -> None:
        submissions.intend(
            connection, token="zyxwvutsrqpm", site=SITE, campaign="", name="tune", run_dir="x", spec={},
            tunnels={}, now=clock.now - 5,
        )  # fmt: skip

    store.write(begin)
    told = f"{SITE}: tune (zyxwvutsrqpm)"
    assert paragraphs(pages)[f"{told} is being submitted; that began 5 s ago."] == ""
    store.write(
        lambda connection: submissions.unsettle(connection, "zyxwvutsrqpm", "unknown", "no answer", now=clock.now)
    )
    doubt = f"{SITE}: whether tune (zyxwvutsrqpm) was accepted is not known: no answer (0 s ago)"
    assert paragraphs(pages)[doubt] == "bad"


def test_what_of_an_area_is_used_up(store: Store, pages: Pages, clock: Clock) -> None:
    def remark(**values: float) -> str:
        found = [Sample(f"storage_{name}", value, {"area": "/x", "project": ""}) for name, value in values.items()]
        store.write(lambda connection: samples.replace(connection, SITE, "areas", found, now=clock.now))
        return Tables(pages.front()).row("Bytes and files", Area="/x")["Remark"]

    assert remark(used_bytes=94, limit_bytes=100) == ""
    assert remark(used_bytes=100, limit_bytes=100, used_files=1) == "space nearly used up"
    assert remark(used_bytes=101, limit_bytes=100, used_files=95, limit_files=100) == (
        "space over the limit, files nearly used up"
    )


def test_a_job_that_ended_before_it_was_seen_is_not_said_to_have_just_ended(pages: Pages, clock: Clock) -> None:
    clock.now += 60
    page = pages.job(SITE, "79") or ""
    assert "Noticed 1 min ago; last seen 1 min ago." in re.sub(r"<[^>]*>", "", page)
    assert "What it had" in page


def test_the_time_of_a_page_that_stays_is_told_as_itself(pages: Pages) -> None:
    assert "Made at 2026-11-18 11:06:40 UTC; it stays as it is" in re.sub(r"<[^>]*>", "", pages.front(still=True))


def test_each_cell_of_a_card_has_the_name_of_its_column(pages: Pages) -> None:
    page, unnamed = pages.front(), {"Name", "State", "Remark"}
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        _, *columns = re.findall(r'<th scope="col">(.*?)</th>', table)
        for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]:
            cells = re.findall(r'<td(?: data-head="(.*?)")?[ >]', row)
            assert cells == ["" if column in unnamed else column for column in columns]


def test_a_certificate_that_has_ended_is_told_so(store: Store, pages: Pages, clock: Clock) -> None:
    assert "The certificate ends" in pages.front()
    ended = Sample("ssh_certificate_expiry_timestamp_seconds", clock.now - 60)
    store.write(lambda connection: samples.replace(connection, SITE, "certificate", [ended], now=clock.now))
    assert "The certificate ended" in pages.front()
    assert "The certificate ends" not in pages.front()


def test_an_ended_job_still_names_its_folder(store: Store, pages: Pages) -> None:
    going = facts(pages.job(SITE, "77"))
    assert (going["Ended"], going["Folder at the site"]) == ("not yet", "x")
    assert going["Dashboard"] == "127.0.0.1:8100 on this machine"
    assert going["Started"] == "1 min ago (2026-11-18 11:05:10 UTC)"
    assert "Exit code" not in going

    def end(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE jobs SET final = 1, state = 'completed', end_time = 1795000000 WHERE job_id = '77'")
        connection.execute("UPDATE tracked SET done = 1 WHERE root_id = '77'")

    store.write(end)
    ended = facts(pages.job(SITE, "77"))
    assert ended["Folder at the site"] == "x"
    assert ended["Dashboard"] == "127.0.0.1:8100 on this machine, while it ran"
    assert ended["Exit code"] == UNKNOWN


def test_of_a_job_just_accepted_nothing_is_made_up(store: Store, pages: Pages, clock: Clock) -> None:
    def accept(connection: sqlite3.Connection) -> None:
        jobs.track(connection, SITE, "500", now=clock.now)
        jobs.expect(
            connection, SITE, "500", job_name="new", project=None, partition=None, campaign="", new=True, now=clock.now
        )

    store.write(accept)
    told = facts(pages.job(SITE, "500"))
    assert told["Started"] == told["Ended"] == "not yet"
    for name in ("Submitted", "Waited", "User", "Project", "Partition", "Nodes", "GPUs", "Started again"):
        assert told[name] == UNKNOWN, name
    assert told["Ran"] == f"{UNKNOWN} of {UNKNOWN}"


def test_of_a_job_that_is_unknown_nothing_is_made_up_either(store: Store, pages: Pages, clock: Clock) -> None:
    store.write(lambda connection: following.left_queue(connection, SITE, "78", frozenset(), now=clock.now))
    clock.now += 3600
    told = facts(pages.job(SITE, "78"))
    assert (told["Ended"], told["Waited"]) == (UNKNOWN, UNKNOWN), "it may have begun and ended since"
    assert "Expected to start" not in told
    row = Tables(pages.front()).row("Followed jobs that have not ended", Job=f"{SITE}/78")
    assert (row["State"], row["Waited"], row["Has run"]) == ("unknown", UNKNOWN, UNKNOWN)
    assert not row["Why it waits"]


def test_no_secret_stands_there(store: Store, pages: Pages) -> None:
    spec = f'{{"project": "p", "environment": {{"TOKEN": "{SECRET}"}}}}'
    store.write(lambda connection: connection.execute("UPDATE submissions SET spec = ?", (spec,)))
    for page in (pages.front(), pages.job(SITE, "77") or ""):
        assert SECRET not in page
        assert "id_vm" not in page, "nor where the keys are"


def test_it_asks_no_site_and_is_made_beside_the_event_loop(
    store: Store, pages: Pages, config: Config, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = CommandLedger.for_site(store, config.site(SITE), clock=clock)
    made_in: list[threading.Thread] = []
    make = pages.front

    def noting(*, still: bool = False) -> str:
        made_in.append(threading.current_thread())
        return make(still=still)

    def left() -> int:
        with store.snapshot() as connection:
            return ledger.remaining(connection)

    monkeypatch.setattr(pages, "front", noting)
    before = left()
    transport = httpx.ASGITransport(
        make_app(Renderer(store, config, clock=clock), pages, Discovery(store, config), lambda: True)
    )

    async def look() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/")

    answer = asyncio.run(look())
    assert answer.status_code == 200
    assert made_in
    assert threading.main_thread() not in made_in
    assert left() == before
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_it_can_be_read_by_keyboard_and_ear(pages: Pages) -> None:
    page = pages.front()
    assert re.search(r'<a class="skip" href="#main">', page)
    assert re.search(r'<main id="main"', page)
    assert "<header>" in page
    assert "<footer>" in page
    assert '<html lang="en">' in page
    assert page.count("<table>") == page.count("<caption>") == page.count('tabindex="0"'), "each scrolls by keyboard"
    style = pages.style()
    assert "prefers-color-scheme: dark" in style
    assert ":focus-visible" in style
    assert not re.search(r"url\(|@import", style), "nothing from elsewhere"


def test_gpu_use_stands_only_with_jobs_that_have_gpus(store: Store, pages: Pages) -> None:
    def gpu_use() -> str:
        return Tables(pages.front()).row("Followed jobs that ended", Job=f"{SITE}/79")["GPU"]

    assert not gpu_use(), "a job on CPUs has none to be known"
    store.write(lambda connection: connection.execute("UPDATE jobs SET gpus = 8 WHERE job_id = '79'"))
    assert gpu_use() == UNKNOWN
    store.write(lambda connection: connection.execute("UPDATE reports SET gpu_efficiency_ratio = 0.5"))
    assert gpu_use().startswith("50.0 % ")
