"""Campaigns at work, against a site that answers from a script: what each time and each job of a run comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exporter.campaigns.files import CampaignFiles
from exporter.client.replay import Exchange, ReplayTransport
from exporter.config import Config
from exporter.errors import ConnectError, InputError, RefusedError
from exporter.metrics.render import Renderer
from exporter.owner.campaigns import RETRY_SECONDS, Campaigns
from exporter.owner.perform import perform
from exporter.probes import ProbeContext
from exporter.store import campaigns, counters, submissions
from exporter.store.campaigns import JobPoint, RunRow
from exporter.store.db import Store
from exporter.store.requests import Request
from exporter.web.pages import Pages
from tests.unit.conftest import Clock, MakeSite

SITE = "puhti2"
SPEC = """\
site: puhti2
cluster: {cpus_per_node: 4, memory_per_node: 16G, time: 1h}
entrypoint: python train.py
schedule: {every: 1h}
"""
HOUR = 3600.0


class Bench:
    """A campaign's file, the worker's part that looks after it, and a clock."""

    def __init__(
        self, config: Config, store: Store, clock: Clock, make_site: MakeSite, answers: list[Exchange]
    ) -> None:
        assert config.campaigns_dir is not None
        self.folder = config.campaigns_dir
        self.folder.mkdir()
        self.config, self.store, self.clock = config, store, clock
        clock.now = 1_795_000_000 // HOUR * HOUR + 60
        self.context: ProbeContext
        self.transport: ReplayTransport
        self.context, self.transport = make_site(answers)
        self.restart()

    def restart(self) -> None:
        """As after `kill -9`: all that a process knew is gone."""
        self.acting = Campaigns(self.config, CampaignFiles(self.config, self.store))

    def write(self, more: str = "", name: str = "nightly", spec: str = SPEC) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(spec + more)
        return path

    def look(self) -> float:
        return self.acting.run(self.context)

    def passes(self, seconds: float, step: float = 30) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += step
            self.look()

    def ends(self, job_id: str, state: str = "completed") -> None:
        now = int(self.clock.now)

        def change(connection: Any) -> None:
            connection.execute(
                "UPDATE jobs SET state = ?, final = 1, start_time = ?, end_time = ? WHERE job_id = ?",
                (state, now - 60, now, job_id),
            )
            connection.execute("UPDATE tracked SET done = 1 WHERE root_id = ?", (job_id,))

        self.store.write(change)

    def runs(self, name: str = "nightly") -> list[RunRow]:
        with self.store.snapshot() as connection:
            return campaigns.history(connection, name, most=100)[::-1]

    def states(self, name: str = "nightly") -> list[str]:
        return [run.state for run in self.runs(name)]

    def points(self, run: RunRow) -> list[JobPoint]:
        with self.store.snapshot() as connection:
            return campaigns.jobs_of(connection, run)

    def job_ids(self, run: RunRow) -> list[str | None]:
        with self.store.snapshot() as connection:
            return [
                submissions.get(connection, point.token).job_id
                for point in campaigns.jobs_of(connection, run)
                if point.token
            ]

    def submitted(self) -> int:
        return sum(verb == "submit" for verb, _ in self.transport.asked)

    def counted(self, name: str, **labels: str) -> float:
        wanted = {"site": SITE, "campaign": "nightly", **labels}
        with self.store.snapshot() as connection:
            return sum(
                one.value for one in counters.read(connection) if one.name == name and dict(one.labels) == wanted
            )


def page_of(bench: Bench) -> str:
    return Renderer(bench.store, bench.config, clock=bench.clock).render("text/plain")[0].decode()


def accepted(*numbers: int) -> list[Exchange]:
    return [Exchange("submit", f"{number}\n") for number in numbers]


@pytest.fixture
def bench(config: Config, store: Store, clock: Clock, make_site: MakeSite) -> Bench:
    return Bench(config, store, clock, make_site, accepted(*range(77, 99)))


def test_a_time_that_comes_is_one_job_however_often_rayslurm_dies(bench: Bench) -> None:
    bench.write()
    bench.look()
    assert (bench.runs(), bench.submitted()) == ([], 0)
    bench.passes(HOUR)
    for _ in range(3):
        bench.restart()
        bench.look()
    (run,) = bench.runs()
    assert (run.state, run.due % HOUR, bench.submitted()) == ("running", 0, 1)
    with bench.store.snapshot() as connection:
        (submission,) = submissions.settled(connection)
    assert (submission.name, submission.campaign, submission.job_id) == ("nightly", "nightly", "77")
    bench.ends("77")
    bench.look()
    assert bench.states() == ["succeeded"]
    assert bench.counted("campaign_runs_total", outcome="succeeded") == 1
    assert bench.counted("jobs_submitted_total") == 1


def test_a_launch_whose_process_died_before_it_was_noted_is_not_done_again(bench: Bench) -> None:
    bench.write()
    bench.look()
    bench.passes(HOUR)
    bench.store.write(lambda connection: connection.execute("UPDATE campaign_jobs SET state = 'waiting', token = NULL"))
    bench.restart()
    bench.look()
    assert (bench.submitted(), bench.job_ids(bench.runs()[0])) == (1, ["77"])


def test_a_job_that_is_there_is_followed_though_it_would_be_refused_by_now(bench: Bench) -> None:
    bench.write()
    bench.look()
    bench.passes(HOUR)
    bench.store.write(lambda connection: connection.execute("UPDATE campaign_jobs SET state = 'waiting', token = NULL"))
    site = bench.config.sites[SITE].model_copy(update={"project": "project_2009999"})
    bench.config = bench.config.model_copy(update={"sites": {SITE: site}})
    bench.config.__dict__.pop("resolved_sites", None)
    bench.restart()
    bench.look()
    assert (bench.states(), bench.job_ids(bench.runs()[0]), bench.submitted()) == (["running"], ["77"], 1)


def test_a_run_that_goes_on_past_its_next_time_makes_that_a_miss(bench: Bench) -> None:
    bench.write()
    bench.look()
    bench.passes(2 * HOUR)
    assert bench.states() == ["running", "missed"]
    assert bench.runs()[1].reason == "the run before it still went on (concurrency: forbid)"
    assert bench.counted("campaign_missed_runs_total") == 1
    bench.ends("77")
    bench.passes(HOUR)
    assert bench.states() == ["succeeded", "missed", "running"]


def test_with_queue_it_waits_and_comes_next(bench: Bench) -> None:
    bench.write("concurrency: queue\n")
    bench.look()
    bench.passes(3 * HOUR)
    assert bench.states() == ["running", "waiting", "waiting"]
    assert bench.submitted() == 1
    bench.ends("77")
    bench.look()
    bench.look()
    assert bench.states() == ["succeeded", "running", "waiting"]
    assert bench.counted("campaign_missed_runs_total") == 0


def test_a_sweep_has_a_job_for_each_combination_and_never_more_at_once(bench: Bench) -> None:
    bench.write("matrix: {LR: [0.1, 0.01], SEED: [1, 2, 3], FAST: [true]}\nat_once: 2\n")
    bench.look()
    bench.passes(HOUR)
    (run,) = bench.runs()
    going = ["77", "78"]
    assert bench.job_ids(run) == going
    launched = 2
    while launched < 6:
        bench.ends(going.pop(0))
        bench.look()
        bench.restart()
        bench.look()
        launched += 1
        assert bench.submitted() == launched
        going.append(str(76 + launched))
    for job_id in going:
        bench.ends(job_id)
    bench.look()
    assert bench.states() == ["succeeded"]
    assert bench.runs()[0].reason == "6 of 6 succeeded"
    parameters = [dict(point.parameters) for point in bench.points(run)]
    assert parameters[:2] == [{"LR": "0.1", "SEED": "1", "FAST": "true"}, {"LR": "0.1", "SEED": "2", "FAST": "true"}]
    plans = [json.loads(text) for name, text in bench.transport.files.items() if name.endswith("plan.json")]
    assert [{**plan["ray"]["env"]} for plan in plans] == parameters


@pytest.mark.parametrize("state", ["node_fail", "preempted", "boot_fail"])
def test_what_the_machine_ended_is_launched_again_later_and_later_and_then_no_more(bench: Bench, state: str) -> None:
    bench.write("retries: {times: 2, back_off: 5m}\nconcurrency: queue\n")
    bench.look()
    bench.passes(HOUR)
    for attempt, wait in ((1, 300), (2, 600)):
        bench.ends(str(76 + attempt), state)
        bench.look()
        bench.passes(wait - 30)
        assert bench.submitted() == attempt
        bench.passes(60)
        assert bench.submitted() == attempt + 1
    bench.ends("79", state)
    bench.look()
    (run, *_) = bench.runs()
    assert (run.state, run.reason) == ("failed", f"job 79 ended as {state.upper()}")


@pytest.mark.parametrize(
    ("state", "outcome"), [("failed", "failed"), ("timeout", "failed"), ("cancelled", "cancelled")]
)
def test_what_ended_by_itself_or_by_a_person_is_not_launched_again(bench: Bench, state: str, outcome: str) -> None:
    bench.write("retries: {times: 2}\n")
    bench.look()
    bench.passes(HOUR)
    bench.ends("77", state)
    bench.passes(1800)
    assert (bench.states(), bench.submitted()) == ([outcome], 1)
    assert bench.counted("campaign_runs_total", outcome=outcome) == 1


def test_a_paused_campaign_launches_nothing_and_makes_up_for_nothing(bench: Bench) -> None:
    bench.write()
    bench.look()
    bench.store.write(lambda connection: campaigns.hold(connection, "nightly", held=True, now=bench.clock.now))
    bench.passes(3 * HOUR)
    assert (bench.runs(), bench.submitted()) == ([], 0)
    bench.store.write(lambda connection: campaigns.hold(connection, "nightly", held=False, now=bench.clock.now))
    bench.passes(1800)
    assert bench.runs() == []
    bench.passes(1800)
    assert bench.states() == ["running"]


def test_an_edit_takes_effect_at_the_next_look_and_a_broken_one_leaves_what_was(bench: Bench) -> None:
    bench.write()
    bench.look()
    bench.write(spec=SPEC.replace("every: 1h", "every: 1x"))
    bench.passes(HOUR)
    assert bench.states() == ["running"]
    page = page_of(bench)
    assert "rayslurm_config_reload_success 0.0" in page
    bench.ends("77")
    bench.write(spec=SPEC.replace("every: 1h", "every: 10m"))
    bench.passes(601)
    assert bench.states() == ["succeeded", "running"]
    page = page_of(bench)
    assert "rayslurm_config_reload_success 1.0" in page
    assert 'rayslurm_campaign_info{campaign="nightly",schedule="every 600 s",site="puhti2"} 1.0' in page
    assert 'rayslurm_campaign_active_runs{campaign="nightly",site="puhti2"} 1.0' in page


def test_a_run_keeps_to_what_its_file_said_when_it_began(bench: Bench) -> None:
    bench.write("matrix: {SEED: [1, 2, 3]}\n")
    bench.look()
    bench.passes(HOUR)
    bench.write("matrix: {SEED: [7]}\n")
    for job_id in ("77", "78", "79"):
        bench.ends(job_id)
        bench.look()
    assert [point.parameters["SEED"] for point in bench.points(bench.runs()[0])] == ["1", "2", "3"]
    assert bench.states() == ["succeeded"]


def test_a_file_that_is_removed_withdraws_what_was_not_launched_yet(bench: Bench) -> None:
    path = bench.write("matrix: {SEED: [1, 2, 3]}\n")
    bench.look()
    bench.passes(HOUR)
    path.unlink()
    bench.passes(2 * HOUR)
    assert (bench.states(), bench.submitted()) == (["running"], 1)
    bench.ends("77")
    bench.look()
    assert bench.states() == ["cancelled"]
    bench.write()
    bench.look()
    assert bench.states() == ["cancelled"], "what came while the file was away was not due"


def test_a_site_that_cannot_be_reached_is_tried_again_later(
    config: Config, store: Store, clock: Clock, make_site: MakeSite
) -> None:
    bench = Bench(config, store, clock, make_site, [Exchange("connect", raises="ConnectError"), *accepted(77)])
    bench.write()
    bench.look()
    bench.clock.now += HOUR
    with pytest.raises(ConnectError):
        bench.look()
    (point,) = bench.points(bench.runs()[0])
    assert (point.state, point.tries, bench.submitted()) == ("waiting", 1, 0)
    bench.passes(RETRY_SECONDS[0] + 30)
    assert (bench.states(), bench.job_ids(bench.runs()[0])) == (["running"], ["77"])


def test_what_the_site_refuses_for_good_ends_the_run(
    config: Config, store: Store, clock: Clock, make_site: MakeSite
) -> None:
    refusal = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
    bench = Bench(config, store, clock, make_site, [Exchange("submit", stderr=refusal, exit_status=1)])
    bench.write()
    bench.look()
    bench.passes(HOUR)
    assert bench.states() == ["refused"]
    assert bench.counted("campaign_refusals_total", reason="site") == 1
    assert bench.counted("campaign_runs_total", outcome="refused") == 1


def test_what_is_known_to_be_refused_is_not_sent(bench: Bench) -> None:
    bench.write(spec=SPEC.replace("cpus_per_node: 4", "cpus_per_node: 4, exclusive: false"), name="open")
    bench.write("ray: {allow_unauthenticated_ray: true, dashboard_tunnel: false}\n")
    bench.look()
    bench.passes(HOUR)
    assert bench.states("open") == ["running"]
    assert bench.states() == ["refused"]
    assert "only on nodes that nobody shares" in (bench.runs()[0].reason or "")
    assert bench.counted("campaign_refusals_total", reason="policy") == 1
    assert bench.submitted() == 1


def request(kind: str, **payload: Any) -> Request:
    return Request(1, kind, SITE, payload, "taken", None, 0.0)


def test_a_campaign_can_be_run_now_beside_its_schedule(bench: Bench) -> None:
    bench.write("matrix: {SEED: [1, 2]}\npaused: true\n")
    outcome = perform(request("run", campaign="nightly"), bench.context, bench.config)
    assert [(job["state"], job["job_id"]) for job in outcome["jobs"]] == [("launched", "77"), ("waiting", None)]
    with pytest.raises(RefusedError, match=r"still goes on \(concurrency: forbid\)"):
        perform(request("run", campaign="nightly"), bench.context, bench.config)
    bench.ends("77")
    bench.look()
    bench.ends("78")
    bench.look()
    (run,) = bench.runs()
    assert (run.manual, run.state, bench.submitted()) == (True, "succeeded", 2)
    with pytest.raises(InputError, match="there is no campaign other"):
        perform(request("run", campaign="other"), bench.context, bench.config)


def test_the_page_has_campaigns_and_a_way_there_only_where_there_is_one(bench: Bench) -> None:
    pages = Pages(bench.store, bench.config, clock=bench.clock)
    way = 'href="#campaigns"'
    assert way not in pages.front()

    bench.write()
    bench.passes(HOUR)

    page = pages.front()
    assert way in page
    assert 'id="campaigns"' in page
    assert "nightly" in page
