"""What jobs are shown to cost while they run, and whether that was right: by every rule, attempt after attempt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.billing.reconcile import Estimated, agree, difference
from exporter.client.replay import Exchange
from exporter.config import load_config
from exporter.probes import ProbeContext
from exporter.probes.estimating import after
from exporter.probes.jobs import JobsProbe
from exporter.probes.reports import ReportsProbe
from exporter.records import Bill
from exporter.store import bills, counters, estimates, jobs, ledger
from exporter.store.db import Store
from exporter.store.estimates import Estimate, Mismatch
from exporter.web.pages import Pages
from tests.site_texts import BILLED, SEFF
from tests.slurm_texts import HELPFORMAT, finished, sacct, squeue
from tests.unit.conftest import Clock, MakeSite
from tests.unit.test_cli import run

SITE = "puhti2"
PUHTI: dict[str, Any] = {"profile": "puhti", "closed": False}
LUMI: dict[str, Any] = {"profile": "lumi"}
TRES = "cpu=4,mem=6000M,node=2,billing=5"
HOURLY = 4 + 600 / 1024  # Puhti: a BU a core and a tenth a GiB


def seff(billed: str = BILLED) -> Exchange:
    return Exchange("seff", SEFF.format(job_id="77", state="COMPLETED", used="00:03:21", ratio="50.25") + billed)


def running(seconds: int, **values: str) -> dict[str, str]:
    time = f"{seconds // 60}:{seconds % 60:02}"
    return {"JOBID": "77", "STATE": "RUNNING", "TIME": time, "START_TIME": "1794999910", "NODELIST": "r1", **values}


class Followed:
    """Job 77 as its site tells of it, look by look."""

    def __init__(self, store: Store, make_site: MakeSite, *answers: Exchange, **keys: Any) -> None:
        self.store = store
        store.write(lambda connection: jobs.track(connection, SITE, "77", now=1.0))
        self.context: ProbeContext
        self.context, _ = make_site(answers, **keys)

    def look(self) -> Estimate | None:
        JobsProbe().run(self.context)
        with self.store.snapshot() as connection:
            return estimates.of_job(connection, SITE, "77")

    def mismatch(self) -> Mismatch | None:
        with self.store.snapshot() as connection:
            return estimates.mismatch_of(connection, SITE, "77")

    def counted(self) -> float | None:
        with self.store.snapshot() as connection:
            found = [one for one in counters.read(connection) if one.name == "billing_estimate_mismatches_total"]
        return found[0].value if found else None

    def bill(self) -> Bill | None:
        with self.store.snapshot() as connection:
            return bills.of_job(connection, SITE, "77")


def queue(*rows: dict[str, str]) -> Exchange:
    return Exchange("queue", squeue(*rows))


def told(*rows: dict[str, str]) -> tuple[Exchange, ...]:
    return Exchange("queue", squeue(), repeat=True), Exchange("accounting_fields", HELPFORMAT), Exchange(
        "accounting", sacct(*rows)
    )  # fmt: skip


def test_a_job_costs_more_the_longer_it_runs(
    store: Store, make_site: MakeSite, clock: Clock, config_path: Path
) -> None:
    job = Followed(store, make_site, queue({"JOBID": "77"}), queue(running(60)), queue(running(90)), **PUHTI)
    waiting = job.look()
    assert waiting is not None
    assert waiting.units is None
    assert waiting.units_at_limit == pytest.approx(HOURLY / 3)
    for seconds in (60, 90):
        found = job.look()
        assert found is not None
        assert (found.kind, found.unit, found.source) == ("cpu", "BU", "formula")
        assert found.units == pytest.approx(HOURLY * seconds / 3600)
        assert found.units_at_limit == pytest.approx(HOURLY / 3)
    shown = run("status", config=config_path).stdout
    assert "~0.11 of at most 1.53 cpu BU" in shown
    (row,) = json.loads(run("status", "--json", config=config_path).stdout)["jobs"]
    assert row["estimate"]["units"] == pytest.approx(HOURLY * 90 / 3600)
    pages = Pages(store, load_config(config_path), clock=clock)
    assert "0.11 of at most 1.53 cpu BU" in pages.front()
    assert (pages.job("puhti2", "77") or "").count("So far about 0.11 cpu BU") == 1


def test_without_rates_slurms_own_weights_count_to_the_end(store: Store, make_site: MakeSite) -> None:
    job = Followed(store, make_site, queue(running(60, TRES_ALLOC=TRES)), *told(*finished("77")))
    found = job.look()
    assert found is not None
    assert (found.kind, found.unit, found.source) == ("billing", "billing-hours", "squeue")
    assert found.units == pytest.approx(5 / 60)
    assert job.look() is None
    assert job.bill() == Bill("sacct", "billing", "billing-hours", 500 / 3600, "project_2001234")
    assert (job.mismatch(), job.counted()) == (None, 0)


def test_an_estimate_that_comes_true_is_counted_as_none(store: Store, make_site: MakeSite) -> None:
    job = Followed(store, make_site, queue(running(60)), *told(*finished("77")), seff(), **PUHTI)
    job.look()
    assert job.look() is not None, "the bill is awaited, and until then it is what is known"
    ReportsProbe().run(job.context)
    assert (job.mismatch(), job.counted()) == (None, 0)
    assert job.bill() == Bill("seff", "cpu", "BU", 0.13, "project_2001234")


def test_a_bill_that_the_rate_does_not_give_is_counted_and_explained(store: Store, make_site: MakeSite) -> None:
    other = BILLED.replace("0.13", "0.24").replace("0.11", "0.22")
    job = Followed(store, make_site, queue(running(60)), *told(*finished("77")), seff(other), **PUHTI)
    job.look()
    job.look()
    ReportsProbe().run(job.context)
    found = job.mismatch()
    assert found is not None
    assert (round(found.estimated, 4), found.billed, job.counted()) == (0.1274, 0.24, 1)
    assert found.reason.startswith("estimated 0.1274 and billed 0.2400 cpu BU (seff); the rate (cores + 0.1 * GiB")
    assert "on what accounting tells gives 0.1274: it may have changed" in found.reason
    ReportsProbe().run(job.context)
    assert job.counted() == 1, "once"


def test_a_job_that_was_given_something_else_than_the_queue_said(store: Store, make_site: MakeSite) -> None:
    rows = finished("77", AllocTRES="billing=5,cpu=32,mem=6000M,node=1")
    job = Followed(store, make_site, queue(running(60, TRES_ALLOC="cpu=16,mem=6000M,node=1")), *told(*rows), **LUMI)
    found = job.look()
    assert found is not None
    assert found.units == pytest.approx(8 / 60), "hardware threads, two a core"
    job.look()
    mismatch = job.mismatch()
    assert mismatch is not None
    assert job.counted() == 1
    assert mismatch.reason == (
        "estimated 0.2222 and billed 0.4444 cpu core-hours (formula); by accounting it had cpu=32 instead of cpu=16"
    )


def test_where_nobody_knew_a_rate_no_estimate_was_wrong(store: Store, make_site: MakeSite) -> None:
    job = Followed(store, make_site, queue(running(60)), *told(*finished("77")), seff(), seff="csc")
    job.look()
    job.look()
    ReportsProbe().run(job.context)
    assert job.bill() == Bill("seff", "cpu", "BU", 0.13, "project_2001234")
    assert (job.mismatch(), job.counted()) == (None, 0)


def test_a_job_that_is_gone_without_a_bill_leaves_no_estimate(store: Store, make_site: MakeSite) -> None:
    rows = finished("77", AllocTRES="")
    job = Followed(store, make_site, queue(running(60)), *told(*rows), **LUMI)
    job.look()
    assert job.look() is None
    assert (job.bill(), job.mismatch(), job.counted()) == (None, None, 0)


def test_every_attempt_counts_and_one_that_was_not_seen_makes_it_unknown(store: Store, make_site: MakeSite) -> None:
    again = {"RESTART_COUNT": "1", "START_TIME": "1795000500"}
    job = Followed(
        store, make_site, queue(running(60)), queue({"JOBID": "77", "RESTART_COUNT": "1"}),
        queue(running(30, **again)), queue(running(10, RESTART_COUNT="3", START_TIME="1795002000")), **PUHTI,
    )  # fmt: skip
    job.look()
    waits = job.look()
    assert waits is not None
    assert waits.units == pytest.approx(HOURLY / 60)
    second = job.look()
    assert second is not None
    assert second.units == pytest.approx(HOURLY * 90 / 3600)
    assert second.units_at_limit == pytest.approx(HOURLY / 60 + HOURLY / 3)
    fourth = job.look()
    assert fourth is not None
    assert (fourth.units, fourth.units_at_limit) == (None, None), "of the third attempt nothing is known"


def test_a_job_first_seen_in_its_second_attempt_is_not_estimated(store: Store, make_site: MakeSite) -> None:
    job = Followed(store, make_site, queue(running(60, RESTART_COUNT="1")), **PUHTI)
    found = job.look()
    assert found is not None
    assert (found.units, found.units_at_limit) == (None, None)


def test_final_bills_stand_in_the_ledger_with_the_text_that_they_are_from(store: Store, make_site: MakeSite) -> None:
    job = Followed(store, make_site, *told(*finished("77")), seff(), **PUHTI)
    job.look()
    ReportsProbe().run(job.context)
    with store.snapshot() as connection:
        (entry,) = ledger.entries(connection)
        (text,) = connection.execute(
            "SELECT text FROM raw_outputs WHERE sha256 = ? AND source = ?", (entry.raw_sha256, entry.source)
        ).fetchone()
    assert (entry.job_id, entry.units, entry.end_time, entry.partition) == ("77", 0.13, 1795000010, "small")
    assert "Job consumed 0.13" in text


_SIZES = st.floats(0, 1e6, allow_nan=False)


@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(1, 4)), _SIZES, st.integers(0, 4)), min_size=1, max_size=8))
def test_what_was_paid_is_never_forgotten(looks: list[tuple[int | None, float, int]]) -> None:
    before: Estimate | None = None
    for start, units, restarts in looks:
        spent = 0.0 if start is None else units
        found = Estimate(SITE, "77", "cpu", "BU", "formula", "", 1.0, 10.0, start, spent, 0, 0.0, restarts, 1.0)
        now = after(found, before)
        if before is not None:
            began = before.start_time is not None
            over = began and (start is None or (start != before.start_time and restarts > before.restarts))
            assert now.attempts == before.attempts + over
            assert now.earlier_units == before.earlier_units + (before.attempt_units if over else 0.0)
        assert now.units is None or now.units >= now.earlier_units >= 0
        before = now


@pytest.mark.parametrize(
    ("garbled", "minutes"),
    [
        ({"STATE": "?"}, 5),
        ({"STATE": "RUNN?NG"}, 5),
        ({"START_TIME": "179499#910"}, 5),
        ({"TIME": "6:x0"}, 5),
        ({"START_TIME": "1794999919"}, 6),
    ],
)
def test_a_look_that_is_garbled_is_no_attempt(
    store: Store, make_site: MakeSite, garbled: dict[str, str], minutes: int
) -> None:
    """It would count what has been paid twice, and a job could be cancelled for it."""
    looks = [running(300), running(360, **garbled), running(420)]
    job = Followed(store, make_site, *(queue(look) for look in looks), **PUHTI)
    seen = [found for found in (job.look() for _ in looks) if found is not None]
    assert [found.units for found in seen] == pytest.approx([HOURLY * each / 60 for each in (5, minutes, 7)])
    assert [found.units_at_limit for found in seen] == pytest.approx([HOURLY / 3] * 3)


@given(_SIZES, st.sampled_from(["seff", "formula", "sacct"]))
def test_a_figure_agrees_with_itself_as_it_is_printed(units: float, source: str) -> None:
    assert agree(units, units, source)
    assert agree(units, round(units, 2), "seff")
    assert not agree(units, units + 0.03, source)


def test_another_kind_of_units_is_no_rounding() -> None:
    estimated = Estimated(1.0, "cpu", "BU", "a rate", None)
    assert difference(estimated, Bill("seff", "gpu", "BU", 1.0), None, None) == (
        "it was billed in gpu BU, and the estimate was in cpu BU (a rate)"
    )
