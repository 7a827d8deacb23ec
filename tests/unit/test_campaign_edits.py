"""Files of campaigns that change, go away or can't be read any more: no time is lost, none is made up."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from exporter.campaigns.files import GONE_SECONDS
from exporter.config import Config
from exporter.owner.perform import perform
from exporter.store import campaigns, submissions
from exporter.store.db import Store
from tests.unit.conftest import Clock, MakeSite
from tests.unit.test_campaigns import HOUR, SPEC, Bench, accepted, page_of, request

RARELY = SPEC.replace("every: 1h", "every: 100d")


@pytest.fixture
def bench(config: Config, store: Store, clock: Clock, make_site: MakeSite) -> Bench:
    return Bench(config, store, clock, make_site, accepted(*range(77, 99)))


def daily(hour: int, minute: int) -> str:
    return SPEC.replace("{every: 1h}", f"{{cron: '{minute} {hour % 24} * * *'}}")


def test_a_time_that_was_over_when_a_file_named_it_is_not_due(bench: Bench) -> None:
    hour = datetime.fromtimestamp(bench.clock.now, UTC).hour
    bench.write(spec=daily(hour + 5, 0))
    bench.look()
    bench.passes(40 * 60)
    bench.write(spec=daily(hour, 30))  # eleven minutes ago, within the grace
    bench.passes(120)
    assert (bench.runs(), bench.submitted()) == ([], 0)
    assert bench.counted("campaign_missed_runs_total") == 0


def due_while_the_worker_is_busy_and_then_edited(bench: Bench) -> float:
    bench.write()
    bench.look()
    bench.clock.now += HOUR
    bench.write(spec=RARELY)
    return bench.clock.now // HOUR * HOUR


def test_a_time_of_before_an_edit_is_due_though_another_sites_worker_reads_the_edit(bench: Bench) -> None:
    due = due_while_the_worker_is_busy_and_then_edited(bench)
    bench.acting.files.take_in(now=bench.clock.now)
    bench.look()
    assert [(run.due, run.state) for run in bench.runs()] == [(due, "running")]


def test_a_time_of_before_an_edit_is_due_though_a_launch_by_hand_reads_the_edit(bench: Bench) -> None:
    due = due_while_the_worker_is_busy_and_then_edited(bench)
    bench.write(name="other")
    perform(request("run", campaign="other"), bench.context, bench.config)
    bench.look()
    assert [(run.due, run.state) for run in bench.runs()] == [(due, "running")]


@pytest.mark.parametrize("ends", [False, True])
def test_a_time_that_an_edit_names_is_on_time_though_another_sites_worker_reads_the_edit_just_before(
    bench: Bench, ends: bool
) -> None:
    due = bench.clock.now // HOUR * HOUR + 1800
    hour = datetime.fromtimestamp(due, UTC).hour

    def says(hours: str, until: float) -> None:  # before and after the time in question, its next one is the same
        end = f"end: {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M:%S}\n"
        bench.write(end if ends else "", spec=SPEC.replace("{every: 1h}", f"{{cron: '30 {hours} * * *'}}"))

    says(f"{(hour + 5) % 24}", due - 60)
    bench.look()
    bench.clock.now = due - 20
    says(f"{hour},{(hour + 5) % 24}", due + 1)
    bench.acting.files.take_in(now=bench.clock.now)
    shown = re.search(r"^rayslurm_campaign_next_run_timestamp_seconds{.*} (.*)$", page_of(bench), re.MULTILINE)
    assert shown is not None
    assert float(shown[1]) == due
    bench.clock.now = due + 5
    bench.look()
    assert [(run.due, run.state) for run in bench.runs()] == [(due, "running")]


def test_what_an_earlier_version_read_and_this_one_does_not_stops_only_itself_until_it_is_mended(bench: Bench) -> None:
    path = bench.write()
    bench.write(name="other")
    bench.look()
    gone = path.read_text() + "gone_key: 1\n"
    bench.store.write(
        lambda connection: connection.execute("UPDATE campaigns SET text = ? WHERE name = 'nightly'", (gone,))
    )
    path.write_text(gone)
    bench.restart()
    bench.passes(HOUR)
    assert (bench.states("other"), bench.states()) == (["running"], [])
    with bench.store.snapshot() as connection:
        reload = campaigns.reload_of(connection)
    assert reload is not None
    assert not reload.success
    assert "gone_key" in reload.errors[str(path)]
    bench.passes(HOUR)
    bench.write()
    bench.passes(60)
    assert bench.states() == ["missed", "running"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_away_for_a_moment_withdraws_nothing(bench: Bench, what: str) -> None:
    path = bench.write("matrix: {SEED: [1, 2, 3]}\n")
    bench.look()
    bench.passes(HOUR)
    place = path if what == "file" else bench.folder
    away = bench.folder.with_name("away")
    place.rename(away)
    bench.passes(GONE_SECONDS - 30)
    away.rename(place)
    bench.passes(3 * GONE_SECONDS)
    for job_id in ("77", "78", "79"):
        bench.ends(job_id)
        bench.look()
    assert bench.runs()[0].reason == "3 of 3 succeeded"


def found_absent(bench: Bench) -> None:
    with bench.store.snapshot() as connection:
        (token,) = [point.token for point in campaigns.jobs_of(connection, bench.runs()[0])]
    bench.store.write(
        lambda connection: submissions.unsettle(connection, str(token), "absent", "no", now=bench.clock.now)
    )


def preempted(bench: Bench) -> None:
    bench.ends("77", "preempted")


@pytest.mark.parametrize("what", [preempted, found_absent])
def test_what_would_be_launched_again_is_not_once_its_file_was_removed(
    bench: Bench, what: Callable[[Bench], None]
) -> None:
    path = bench.write("retries: {times: 2, back_off: 5m}\n")
    bench.look()
    bench.passes(HOUR)
    path.unlink()
    bench.passes(2 * GONE_SECONDS)
    assert bench.states() == ["running"]
    what(bench)
    bench.passes(60)
    (run,) = bench.runs()
    assert run.state == "cancelled"
    assert (run.reason or "").endswith("; then the campaign's file was removed")
    bench.write(spec=RARELY)
    bench.passes(2 * HOUR)
    assert (bench.states(), bench.submitted()) == (["cancelled"], 1)
    assert bench.counted("campaign_runs_total", outcome="cancelled") == 1


def test_a_launch_whose_process_died_before_it_was_noted_is_followed_though_the_file_was_removed(bench: Bench) -> None:
    path = bench.write()
    bench.look()
    bench.passes(HOUR)
    bench.store.write(lambda connection: connection.execute("UPDATE campaign_jobs SET state = 'waiting', token = NULL"))
    path.unlink()
    bench.acting.files.take_in(now=bench.clock.now)
    bench.clock.now += 2 * GONE_SECONDS
    bench.look()
    assert (bench.states(), bench.submitted()) == (["running"], 1)
    bench.ends("77")
    bench.look()
    assert bench.states() == ["succeeded"]


def test_what_came_back_to_wait_while_the_file_was_away_is_not_launched_when_it_is_put_back(bench: Bench) -> None:
    path = bench.write()
    bench.look()
    bench.passes(HOUR)
    path.unlink()
    bench.passes(2 * GONE_SECONDS)
    # As where the job was preempted while the removal was being noted.
    (point,) = bench.points(bench.runs()[0])
    bench.store.write(lambda connection: campaigns.postpone(connection, point, "", not_before=0, attempt=1))
    bench.write(spec=RARELY)
    bench.passes(HOUR)
    assert (bench.states(), bench.submitted()) == (["cancelled"], 1)


def test_a_folder_that_is_gone_is_told_and_its_campaigns_go_on(bench: Bench) -> None:
    bench.write()
    bench.look()
    bench.folder.rename(bench.folder.with_name("away"))
    bench.passes(HOUR)
    assert bench.states() == ["running"]
    with bench.store.snapshot() as connection:
        reload = campaigns.reload_of(connection)
    assert reload is not None
    assert "its campaigns go on as they were" in reload.errors[str(bench.folder)]


def test_a_run_that_goes_on_at_another_site_is_in_the_way_too(bench: Bench) -> None:
    bench.write()
    bench.look()
    bench.passes(HOUR)
    # As where the file named another site when that run began.
    bench.store.write(lambda connection: connection.execute("UPDATE campaign_runs SET site = 'elsewhere'"))
    bench.passes(HOUR)
    assert (bench.states(), bench.submitted()) == (["running", "missed"], 1)


def test_a_launch_by_hand_does_not_wait_for_what_a_pause_holds_back(bench: Bench) -> None:
    bench.write("concurrency: queue\n")
    bench.look()
    bench.passes(2 * HOUR)
    assert bench.states() == ["running", "waiting"]
    bench.store.write(lambda connection: campaigns.hold(connection, "nightly", held=True, now=bench.clock.now))
    bench.ends("77")
    bench.look()
    outcome = perform(request("run", campaign="nightly"), bench.context, bench.config)
    assert [job["job_id"] for job in outcome["jobs"]] == ["78"]
    assert [(run.state, run.manual) for run in bench.runs()] == [
        ("succeeded", False),
        ("waiting", False),
        ("running", True),
    ]
