"""What follows when a running job is of no use, and only then; with a site that answers from a script."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from exporter.cli.main import app
from exporter.client.replay import Exchange, ReplayTransport
from exporter.config import Config
from exporter.errors import ConfigError, ConnectError
from exporter.launch.launcher import Launcher
from exporter.launch.spec import Spec, load_spec, spec_of_journal
from exporter.owner.canceller import RETRY_SECONDS
from exporter.owner.consequences import LOOK_SECONDS, Consequences
from exporter.probes import ProbeContext
from exporter.store import chains, conditions, consequences, jobs, runs, tunnels
from exporter.store.consequences import Consequence
from exporter.store.db import Store
from exporter.store.runs import Run
from exporter.store.tunnels import Health
from exporter.web.pages import Pages
from tests.unit.conftest import Clock, MakeSite

SITE = "puhti2"
CLUSTER = "site: puhti2\nname: train\ncluster: {cpus_per_node: 4, memory_per_node: 16G, time: 12h}\n"
MINUTE = 60.0

Told = Callable[["Bench"], None]


def spec_of(tmp_path: Path, text: str) -> Spec:
    path = tmp_path / "spec.yaml"
    path.write_text(CLUSTER + text)
    return load_spec(path)


class Bench:
    """A job that runs, and what serve would have written of it from look to look."""

    def __init__(self, store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]) -> None:
        self.store = store
        self.clock = clock
        self.steady = Clock(0.0)
        self.context, self.transport = site
        self.acting = Consequences(self.steady)

    def launch(self, config: Config, spec: Spec) -> None:
        Launcher(config, self.store, self.clock).launch(self.context.client, spec)
        start = int(self.clock.now)
        self.write("UPDATE jobs SET state = 'running', start_time = ?, elapsed_seconds = 0 WHERE job_id = '77'", start)
        self.seen()

    def write(self, statement: str, *values: Any) -> None:
        self.store.write(lambda connection: connection.execute(statement, values))

    def seen(self) -> None:
        self.write("UPDATE jobs SET seen = ? WHERE job_id = '77'", self.clock.now)

    def folder(self, ready: float | None = None, **keys: Any) -> None:
        run = Run(SITE, "77", ready_time=ready, **keys)
        self.store.write(lambda connection: runs.keep(connection, run, now=self.clock.now))

    def tunnel(self, state: str, good_for: float = 50) -> None:
        now = self.clock.now
        health = Health(SITE, "77", tunnels.DASHBOARD, state, now, 0.1, now + good_for)
        self.store.write(lambda connection: tunnels.keep(connection, [health]))

    def ray(self, idle_since: float | None, used: str = '{"cpu": 0.0}') -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO ray_clusters VALUES (?, '77', ?, ?, '{}', '{}', ?, 1, ?)",
                (SITE, self.clock.now, self.clock.now + 50, used, idle_since),
            )

        self.store.write(write)

    def passes(self, seconds: float, told: Told, every: float = LOOK_SECONDS) -> None:
        """So much time passes, with a look at every `every` seconds and what is told before each."""
        for _ in range(round(seconds / every)):
            self.clock.now += every
            self.steady.now += every
            self.seen()
            told(self)
            self.acting.run(self.context)

    @property
    def cancelled(self) -> list[Any]:
        return [what for verb, what in self.transport.asked if verb == "cancel"]

    @property
    def said(self) -> list[Consequence]:
        with self.store.snapshot() as connection:
            return consequences.of_job(connection, SITE, "77")

    def restart(self) -> None:
        self.acting = Consequences(self.steady)


@pytest.fixture
def bench(store: Store, clock: Clock, make_site: MakeSite) -> Bench:
    return Bench(store, clock, make_site([Exchange("submit", "77\n"), Exchange("cancel", repeat=True)]))


def never_ready(bench: Bench) -> None:
    bench.folder(phase="waiting_workers")
    bench.tunnel("refused")


def down(bench: Bench) -> None:
    bench.tunnel("refused")


def fine(bench: Bench) -> None:
    bench.tunnel("up")


def idle_from(moment: float) -> Told:
    def told(bench: Bench) -> None:
        bench.tunnel("up")
        bench.ray(moment)

    return told


def busy(bench: Bench) -> None:
    bench.tunnel("up")
    bench.ray(None, '{"cpu": 1.0}')


def ready(bench: Bench) -> None:
    bench.folder(bench.clock.now)


KEYS = ["on_never_ready", "on_tunnel_loss", "on_idle"]


def trouble(bench: Bench, key: str) -> Told:
    """Returns what is told of a job that is of no use in the way that a key names."""
    if key == "on_never_ready":
        return never_ready
    ready(bench)
    return down if key == "on_tunnel_loss" else idle_from(bench.clock.now)


@pytest.mark.parametrize("key", KEYS)
def test_a_job_of_no_use_is_cancelled_once_when_its_time_is_over(
    bench: Bench, config: Config, tmp_path: Path, key: str
) -> None:
    bench.launch(config, spec_of(tmp_path, f"{key}: {{action: cancel, after: 20m}}\n"))
    told = trouble(bench, key)
    bench.passes(20 * MINUTE, told)
    assert bench.cancelled == [], "the first look was 30 s after its beginning"
    bench.passes(10 * MINUTE, told)
    assert bench.cancelled == ["77"]
    (said,) = bench.said
    assert said.state == "cancelled"
    assert said.reason.endswith(f"; {key}: cancel after 20 min")


@pytest.mark.parametrize("key", KEYS)
def test_without_a_word_it_is_only_reported_and_no_more_when_it_is_over(
    bench: Bench, config: Config, tmp_path: Path, key: str
) -> None:
    bench.launch(config, spec_of(tmp_path, ""))
    told = trouble(bench, key)
    bench.passes(14 * MINUTE, told)
    assert bench.said == []
    bench.passes(20 * MINUTE, told)
    assert [said.state for said in bench.said] == ["reported"]
    assert bench.cancelled == []
    ready(bench)
    bench.passes(LOOK_SECONDS, busy)
    assert bench.said == []


def test_what_is_reported_stands_in_status_and_on_the_page(
    bench: Bench, config: Config, config_path: Path, tmp_path: Path
) -> None:
    bench.launch(config, spec_of(tmp_path, "on_idle: {after: 10m}\n"))
    ready(bench)
    bench.passes(15 * MINUTE, idle_from(1_795_000_000.0))
    words = "its Ray has used no CPU and no GPU since 2026-11-18 11:06:40 UTC"
    assert [said.reason for said in bench.said] == [words]
    shown = CliRunner().invoke(app, ["status", "--config", str(config_path)]).stdout
    assert words in shown
    page = Pages(bench.store, config, clock=bench.clock)
    assert words in page.front()
    assert words[1:] in (page.job(SITE, "77") or "")
    job = status(config_path)
    assert [(one["condition"], one["state"]) for one in job["consequences"]] == [("idle", "reported")]
    assert job["waste"] == [{"reason": "idle", "seconds": pytest.approx(14.5 * MINUTE), "units": None}]


def status(config_path: Path) -> dict[str, Any]:
    answer = json.loads(CliRunner().invoke(app, ["status", "--config", str(config_path), "--json"]).stdout)
    (job,) = answer["jobs"]
    assert isinstance(job, dict)
    return job


def test_it_is_said_who_cancelled_it_and_why(
    bench: Bench, config: Config, config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.launch(config, spec_of(tmp_path, "on_idle: {action: cancel, after: 10m}\n"))
    ready(bench)
    bench.passes(15 * MINUTE, idle_from(bench.clock.now))
    assert "being cancelled by rayslurm: its Ray has used" in CliRunner().invoke(
        app, ["status", "--config", str(config_path)]
    ).stdout.replace("\n", " ")
    ends(bench)
    bench.folder(bench.clock.now, outcome="terminated", reason="SIGTERM came", settled=True)
    monkeypatch.setattr("time.time", bench.clock)
    shown = CliRunner().invoke(app, ["status", "--config", str(config_path)]).stdout
    assert "cancelled by rayslurm: its Ray has used no CPU and no GPU since" in shown
    assert "cancelled by rayslurm: its Ray has used" in (
        Pages(bench.store, config, clock=bench.clock).job(SITE, "77") or ""
    )


def ends(bench: Bench, state: str = "cancelled") -> None:
    now = int(bench.clock.now)
    bench.write("UPDATE jobs SET state = ?, final = 1, end_time = ?, elapsed_seconds = 900", state, now)
    bench.write("UPDATE tracked SET done = 1")


def test_a_job_that_ended_before_the_cancel_came_was_not_cancelled(
    bench: Bench, config: Config, tmp_path: Path
) -> None:
    bench.launch(config, spec_of(tmp_path, "on_idle: {action: cancel, after: 10m}\n"))
    ready(bench)
    bench.passes(15 * MINUTE, idle_from(bench.clock.now))
    ends(bench, "completed")
    with bench.store.snapshot() as connection:
        (job,) = jobs.find(connection, "77")
    assert consequences.in_words(job, bench.said) == ""


def test_the_chain_ends_with_it(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, "on_idle: {action: cancel, after: 10m}\ncontinue_on_timeout: {times: 3}\n"))
    ready(bench)
    bench.passes(15 * MINUTE, idle_from(bench.clock.now))
    with bench.store.snapshot() as connection:
        chain = chains.of_job(connection, SITE, "77")
    assert chain is not None
    assert (chain.end or "").startswith("job 77 was cancelled by rayslurm: its Ray has used no CPU and no GPU since")


def test_a_busy_ray_is_left_alone(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, "on_idle: {action: cancel, after: 10m}\n"))
    ready(bench)
    bench.passes(9 * MINUTE, idle_from(bench.clock.now))
    bench.passes(LOOK_SECONDS, busy)
    bench.passes(9 * MINUTE, idle_from(bench.clock.now))
    assert bench.cancelled == []


def test_by_rays_own_account_it_must_have_been_idle_as_long(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, "on_idle: {action: cancel, after: 10m}\n"))
    ready(bench)

    def now_and_then(bench: Bench) -> None:
        idle_from(bench.clock.now - 5 * MINUTE)(bench)

    bench.passes(60 * MINUTE, now_and_then)
    assert bench.cancelled == []


def nothing(bench: Bench) -> None:
    """The prober found nothing, or doesn't run."""


def old(bench: Bench) -> None:
    """The queue hasn't named the job for long."""
    down(bench)
    bench.write("UPDATE jobs SET seen = ?", bench.clock.now - 3600)


def not_read(bench: Bench) -> None:
    bench.tunnel("refused")


def cannot_tell(bench: Bench) -> None:
    bench.tunnel("up")
    bench.ray(None, "{}")


def answers(bench: Bench) -> None:
    """Its folder doesn't say that it is ready, and its dashboard answers."""
    bench.folder(phase="waiting_workers")
    bench.tunnel("up")


@pytest.mark.parametrize(
    ("key", "is_ready", "told"),
    [
        ("on_tunnel_loss", True, nothing),
        ("on_tunnel_loss", True, old),
        ("on_tunnel_loss", True, fine),
        ("on_tunnel_loss", False, down),
        ("on_idle", True, nothing),
        ("on_idle", True, cannot_tell),
        ("on_idle", True, fine),
        ("on_idle", True, busy),
        ("on_never_ready", False, not_read),
        ("on_never_ready", False, answers),
        ("on_never_ready", True, down),
    ],
)
def test_what_is_not_known_or_not_so_has_no_consequence(
    bench: Bench, config: Config, tmp_path: Path, key: str, is_ready: bool, told: Told
) -> None:
    bench.launch(config, spec_of(tmp_path, f"{key}: {{action: cancel, after: 10m}}\n"))
    if is_ready:
        ready(bench)
        bench.tunnel("up")
    bench.passes(60 * MINUTE, told)
    assert bench.cancelled == []


@pytest.mark.parametrize("key", KEYS)
def test_time_in_which_nobody_looked_does_not_count(bench: Bench, config: Config, tmp_path: Path, key: str) -> None:
    bench.launch(config, spec_of(tmp_path, f"{key}: {{action: cancel, after: 20m}}\n"))
    told = trouble(bench, key)
    bench.passes(15 * MINUTE, told)
    bench.restart()
    bench.clock.now += 3600
    bench.passes(15 * MINUTE, told)
    assert bench.cancelled == []
    bench.passes(6 * MINUTE, told)
    assert bench.cancelled == ["77"]


@pytest.mark.parametrize("jump", [-3600.0, -60.0, 60.0, 3600.0])
@pytest.mark.parametrize("key", KEYS)
def test_a_clock_that_jumps_begins_it_anew(bench: Bench, config: Config, tmp_path: Path, key: str, jump: float) -> None:
    bench.launch(config, spec_of(tmp_path, f"{key}: {{action: cancel, after: 20m}}\n"))
    bench.passes(90 * MINUTE, busy if key == "on_idle" else fine)
    told = trouble(bench, key)
    if key == "on_never_ready":
        bench.write("UPDATE jobs SET start_time = ?", int(bench.clock.now))
    bench.passes(19 * MINUTE, told)
    bench.clock.now += jump  # while the steady clock stands
    bench.passes(19 * MINUTE, told)
    assert bench.cancelled == []


def test_a_quick_restart_goes_on_where_it_was(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, "on_tunnel_loss: {action: cancel, after: 20m}\n"))
    ready(bench)
    bench.passes(15 * MINUTE, down)
    bench.restart()
    bench.passes(6 * MINUTE, down)
    assert bench.cancelled == ["77"]


def dies_before_its_note(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Consequence, "told", die)
        with pytest.raises(KeyboardInterrupt):
            bench.passes(15 * MINUTE, down)


def test_killed_between_the_cancel_and_its_note(
    bench: Bench, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.launch(config, spec_of(tmp_path, "on_tunnel_loss: {action: cancel, after: 10m}\n"))
    ready(bench)

    dies_before_its_note(bench, monkeypatch)
    assert bench.cancelled == ["77"]
    bench.restart()
    bench.passes(5 * MINUTE, down)
    assert bench.cancelled == ["77", "77"], "told once more, which harms nobody, and then never again"


def test_killed_then_and_the_job_ended_meanwhile(
    bench: Bench, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.launch(config, spec_of(tmp_path, "on_tunnel_loss: {action: cancel, after: 10m}\n"))
    ready(bench)

    dies_before_its_note(bench, monkeypatch)
    ends(bench)
    with bench.store.snapshot() as connection:
        (job,) = jobs.find(connection, "77")
    assert consequences.in_words(job, bench.said).startswith(
        "cancelled by rayslurm: its dashboard has not been reached"
    )


def test_a_site_that_cannot_be_told_is_told_later_and_more_rarely(
    store: Store, clock: Clock, make_site: MakeSite, config: Config, tmp_path: Path
) -> None:
    site = make_site([Exchange("submit", "77\n"), Exchange("cancel", raises="ConnectError", repeat=True)])
    bench = Bench(store, clock, site)
    bench.launch(config, spec_of(tmp_path, "on_tunnel_loss: {action: cancel, after: 10m}\n"))
    ready(bench)
    tried: list[float] = []
    for _ in range(120):
        try:
            bench.passes(LOOK_SECONDS, down)
        except ConnectError:
            tried.append(clock.now)
            assert bench.acting.delay_after_failure() == LOOK_SECONDS
    waits = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert waits == [*RETRY_SECONDS, RETRY_SECONDS[-1]]
    assert [said.state for said in bench.said] == ["cancelling"]
    bench.passes(LOOK_SECONDS, busy)
    assert bench.said == [], "it was never cancelled, and is of use again"


def test_a_job_that_rayslurm_did_not_launch_is_never_touched(bench: Bench, store: Store, clock: Clock) -> None:
    store.write(lambda connection: jobs.track(connection, SITE, "77", now=clock.now))
    store.write(
        lambda connection: jobs.expect(
            connection, SITE, "77", job_name="x", project="p", partition="small", campaign="", new=False, now=clock.now
        )
    )
    bench.write("UPDATE jobs SET state = 'running', start_time = ?", int(clock.now))
    bench.passes(60 * MINUTE, never_ready)
    assert bench.cancelled == []
    with store.snapshot() as connection:
        assert conditions.spells(connection, SITE, "77") == []


def test_a_spec_may_say_it_in_a_word(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "on_idle: cancel\non_tunnel_loss: report\nray: {ready_timeout: 20m}\n")
    assert spec.consequence("idle") == ("cancel", 1800)
    assert spec.consequence("tunnel_down") == ("report", 1800)
    assert spec.consequence("never_ready") == ("report", 1800), "ten minutes after ready_timeout"
    kept = spec.model_dump(mode="json") | {"project": "p", "partition": "small"}
    assert spec_of_journal(kept).on_idle == spec.on_idle


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("on_idle: kill\n", r"spec.yaml:4: on_idle.action: Input should be 'report' or 'cancel'"),
        ("on_idle: {action: cancel, after: 30}\n", r"spec.yaml:4: on_idle.after: write a length of time with its unit"),
        ("on_idle: {actoin: cancel}\n", r"on_idle.actoin: is not a key that rayslurm knows; did you mean `action`"),
        ("on_idle: cancel\nray: {dashboard_tunnel: false}\n", "on_idle: is only seen through the dashboard's tunnel"),
    ],
)
def test_faults_in_a_spec(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        spec_of(tmp_path, text)
