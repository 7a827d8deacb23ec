"""Campaigns whose file names another site, or whose site isn't configured any more: no run of before is in the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from exporter.config import Config
from exporter.owner.owner import Owner
from exporter.store import counters
from exporter.store.db import Store
from tests.unit.conftest import Clock, MakeSite
from tests.unit.test_campaigns import HOUR, SPEC, Bench, accepted

GONE = "its site elsewhere is not in the configuration any more"


@pytest.fixture
def bench(config: Config, store: Store, clock: Clock, make_site: MakeSite) -> Bench:
    return Bench(config, store, clock, make_site, accepted(*range(77, 99)))


def began_elsewhere(bench: Bench) -> None:
    """As where all that was launched so far was so at a site that isn't configured any more."""

    def change(connection: Any) -> None:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        for table in ("campaign_runs", "submissions", "tracked", "jobs"):
            connection.execute(f"UPDATE {table} SET site = 'elsewhere'")

    bench.store.write(change)


def test_a_file_that_names_another_site_withdraws_what_was_not_launched_yet(
    bench: Bench, rewrite: Callable[..., Config]
) -> None:
    other = bench.config.sites["puhti2"].model_dump(mode="json", exclude_unset=True)
    bench.config = rewrite(sites__other=other)
    bench.restart()
    more = "matrix: {SEED: [1, 2]}\nretries: {times: 2, back_off: 5m}\n"
    bench.write(more)
    bench.look()
    bench.passes(HOUR)
    bench.write(more, spec=SPEC.replace("site: puhti2", "site: other"))
    bench.look()
    (run,) = bench.runs()
    moved = "the campaign's file names site other now"
    assert [(point.state, point.reason) for point in bench.points(run)] == [("launched", None), ("cancelled", moved)]
    bench.ends("77", "preempted")
    bench.passes(HOUR / 2)
    assert (bench.states(), bench.submitted()) == (["cancelled"], 1)
    assert bench.points(run)[0].reason == f"job 77 ended as PREEMPTED, so it is launched again; then {moved}"


@pytest.mark.parametrize(
    ("state", "outcome", "reason"),
    [
        (None, "failed", f"{GONE}; job 77 may go on there, and costs what it costs"),
        ("node_fail", "failed", "job 77 ended as NODE_FAIL"),
        ("completed", "succeeded", None),
    ],
)
def test_a_run_at_a_site_that_is_no_longer_configured_is_ended_and_not_in_the_way(
    bench: Bench, caplog: pytest.LogCaptureFixture, state: str | None, outcome: str, reason: str | None
) -> None:
    bench.write()
    bench.look()
    bench.passes(HOUR)
    if state is not None:
        bench.ends("77", state)
    began_elsewhere(bench)
    Owner(bench.config, bench.store)
    (run,) = bench.runs()
    assert run.state == outcome
    assert (run.reason or "").startswith(reason or "")
    assert f"{outcome}: {reason or ''}" in caplog.text
    with bench.store.snapshot() as connection:
        counted = {
            counter.labels["outcome"]: counter.value
            for counter in counters.read(connection)
            if counter.name == "campaign_runs_total" and counter.labels["site"] == "elsewhere"
        }
    assert counted == {outcome: 1}
    bench.passes(HOUR)
    assert (bench.states(), bench.submitted()) == ([outcome, "running"], 2)


def test_what_was_not_launched_at_a_site_that_is_no_longer_configured_is_cancelled(bench: Bench) -> None:
    bench.write("matrix: {SEED: [1, 2, 3]}\n")
    bench.look()
    bench.passes(HOUR)
    # As where rayslurm died before it noted the first launch.
    bench.store.write(lambda connection: connection.execute("UPDATE campaign_jobs SET state = 'waiting', token = NULL"))
    began_elsewhere(bench)
    Owner(bench.config, bench.store)
    (run,) = bench.runs()
    assert [point.state for point in bench.points(run)] == ["failed", "cancelled", "cancelled"]
    assert (run.reason or "").startswith(f"0 of 3 succeeded; {GONE}; job 77 may go on there")
    assert bench.job_ids(run) == ["77"]


def test_a_job_that_would_have_been_continued_there_is_told_with_how_it_ended(bench: Bench) -> None:
    bench.write("continue_on_timeout: {times: 2}\n")
    bench.look()
    bench.passes(HOUR)
    bench.ends("77", "timeout")
    began_elsewhere(bench)
    Owner(bench.config, bench.store)
    (run,) = bench.runs()
    assert (run.state, run.reason) == ("failed", f"job 77 ended as TIMEOUT, and {GONE}")


def test_a_run_at_a_configured_site_goes_on_when_serve_starts(bench: Bench) -> None:
    bench.write("matrix: {SEED: [1, 2]}\n")
    bench.look()
    bench.passes(HOUR)
    Owner(bench.config, bench.store)
    assert [point.state for point in bench.points(bench.runs()[0])] == ["launched", "waiting"]


def test_the_times_of_a_site_that_was_not_configured_are_missed_and_those_after_the_move_run(bench: Bench) -> None:
    bench.write("missed: once\n")
    bench.look()
    old = SPEC.replace("puhti2", "elsewhere") + "missed: once\n"
    bench.store.write(
        lambda connection: connection.execute("UPDATE campaigns SET site = 'elsewhere', text = ?", (old,))
    )
    bench.clock.now += 2 * HOUR
    bench.write("missed: once\n# moved\n")
    bench.look()
    assert bench.states() == ["missed", "missed"]
    assert bench.runs()[-1].reason == "its site elsewhere was not in the configuration"
    bench.passes(HOUR)
    assert bench.states() == ["missed", "missed", "running"]
