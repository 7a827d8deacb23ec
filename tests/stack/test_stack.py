"""The whole stack on practice sites: silent where all is well, heard where not, and every panel with something to show.

A practice site, `rayslurm serve`, Debian's Prometheus and Alertmanager with the shipped configuration, and a webhook.
Only addresses, intervals and what `tests.stack.monitoring` lists differ from what is shipped. `make stack-test` runs
the long form, `make test` a short one with fewer alerts.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exporter.metrics.catalogue import CATALOGUE
from exporter.practice.world import Course
from tests.ceph.rgw import why_not
from tests.panels import run_panels
from tests.prometheus_server import TOP, program, query, wait_until
from tests.stack.busy import await_ends, make_busy, use_up_commands
from tests.stack.evidence import KEEPS, note
from tests.stack.history import write_history
from tests.stack.monitoring import HURRIED, OPTIONS, ROUTED, SCRAPED, Monitoring, watching
from tests.stack.provoked import Provoked, alone, together
from tests.stack.world import World, living_world

DASHBOARDS = sorted((TOP / "grafana" / "dashboards").glob("*.json"))
WATCHDOG = "RaySlurmWatchdog"
STEP = "20s"
"""What bars by ten minutes are by here: the practice sites' hours pass in minutes."""

FIRST_MINUTES_SECONDS = 90 if KEEPS else 6
"""How long the idle installation must be silent: at the pace of its sites an hour and a half, or six minutes."""

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@dataclass(frozen=True)
class Stack:
    """All that runs.

    Attributes:
        world: the installation.
        monitoring: what watches it.
        silence: what fired while it was idle, but for the watchdog.
        jobs: ids of the busy world's jobs by name.
        provoked: alerts that were provoked while it got busy.
    """

    world: World
    monitoring: Monitoring
    silence: list[dict[str, str]]
    jobs: dict[str, str]
    provoked: list[Provoked]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    for name in ("prometheus", "promtool", "prometheus-alertmanager", "ssh-keygen"):
        program(name)
    reason = why_not()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run Ceph, and cannot: {reason}", pytrace=False)
        pytest.skip(f"THE STACK IS NOT TESTED: {reason}")
    folder = tmp_path_factory.mktemp("stack")
    if KEEPS:
        rules = {name: f"{old} became {new}" for name, (_, old, new, _) in HURRIED.items()}
        note("hurried", {**rules, **SCRAPED, **ROUTED, "prometheus": list(OPTIONS)})
    with living_world(folder / "world") as world:
        wait_until(lambda: _all_told(world), "every probe has run and every balance is told", 60)
        address = world.config.listen

        def history(database: Path) -> None:
            assert write_history(world.page(), address, database, folder) >= 6

        with watching(folder / "watch", address, history) as monitoring:
            silence = _listen(monitoring)
            jobs = make_busy(world)
            provoked = together(world, jobs)
            for one in provoked:
                one.begin()
            await_ends(world, jobs)
            yield Stack(world, monitoring, silence, jobs, provoked)


def _all_told(world: World) -> bool:
    page = world.page()
    probes = {f'rayslurm_probe_success{{probe="{probe}",site="{site}"}} 1.0' for site in world.sites
              for probe in ("jobs", "balances", "areas", "certificate", "partitions")}  # fmt: skip
    return all(line in page for line in probes) and page.count("rayslurm_allocation_used{") >= 6


def _listen(monitoring: Monitoring) -> list[dict[str, str]]:
    """Returns what fired in the first minutes or is about to, but for the watchdog, once that was heard."""
    monitoring.inbox.await_one(WATCHDOG, "firing")
    time.sleep(max(0.0, monitoring.began + FIRST_MINUTES_SECONDS - time.time()))
    seconds = int(time.time() - monitoring.began) + 1
    fired = query(
        monitoring.prometheus,
        f'max_over_time(ALERTS{{alertstate="firing",alertname!="{WATCHDOG}"}}[{seconds}s])',
    )
    # What goes on waiting would fire yet: most rules wait for longer than anybody would here.
    waits: list[dict[str, str]] = []

    def none_waits() -> bool:
        waits[:] = query(monitoring.prometheus, f'ALERTS{{alertstate="pending",alertname!="{WATCHDOG}"}}')
        return not waits

    with suppress(TimeoutError):
        wait_until(none_waits, "no alert waits to fire", 20)
    return fired + waits + [told.labels for told in monitoring.inbox.told if told.name != WATCHDOG]


def test_an_idle_installation_is_silent_but_for_the_watchdog(stack: Stack) -> None:
    silent = stack.silence == []
    heard = stack.monitoring.inbox.find(WATCHDOG, "firing")
    if KEEPS and heard is not None:
        note("silence", {"seconds": FIRST_MINUTES_SECONDS, "right": silent, "watchdog_at": heard.at})
    assert heard is not None
    assert heard.receiver == "watchdog"
    assert silent, stack.silence


# --- alerts that are provoked ----------------------------------------------------------------------------------------


def test_what_goes_wrong_is_told_and_its_end_too(stack: Stack) -> None:
    inbox = stack.monitoring.inbox
    try:
        for one in stack.provoked:
            one.await_firing(inbox)
        for one in stack.provoked:
            if KEEPS or not one.lasts:
                one.await_end(inbox)
    finally:
        for one in stack.provoked:
            one.write_down()
    told = {one.alert: one.fired.annotations for one in stack.provoked if one.fired}
    assert [(one.pattern, told.get(one.alert)) for one in stack.provoked if not one.right] == []
    assert "dashboard (refused) metrics-0 (refused) metrics-1 (refused)" in told["RaySlurmTunnelDown"]["description"]
    assert all(one.fired is not None and one.fired.receiver == "warning" for one in stack.provoked)


# --- every panel ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def monitored(stack: Stack) -> Stack:
    """The same, when Prometheus has all that is on the page, Ray's own metrics too."""
    use_up_commands(stack.world, stack.jobs["train"])
    for expr in (
        f'rayslurm_job_state{{job_id="{stack.jobs["score"]}",state="completed"}}',
        "rayslurm:allocation_exhaustion_timestamp_seconds",
        f'ray_node_gpus_utilization{{job_id="{stack.jobs["serve"]}"}}',
    ):
        wait_until(lambda expr=expr: bool(query(stack.monitoring.prometheus, expr)), expr, 60)  # type: ignore[misc]
    return stack


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_and_variable_of_a_dashboard_has_something_to_show(path: Path, monitored: Stack) -> None:
    dashboard = json.loads(path.read_text())
    results: list[Any] = []

    def all_there() -> bool:
        results[:] = run_panels(dashboard, monitored.monitoring.prometheus, interval=STEP)
        return all(result.ok for result in results)

    with suppress(TimeoutError):
        wait_until(all_there, "every query has data", 45)
    for result in results:
        fault = result.error or (
            f"no value for {result.unresolved}" if result.unresolved
            else "no data" if not result.series
            else "only NaN" if result.all_nan
            else f"without labels {result.missing_labels}" if result.missing_labels
            else None
        )  # fmt: skip
        note(
            "panel",
            {
                "dashboard": path.stem, "panel": result.panel, "query": result.query, "expr": result.expr,
                "series": result.series, "right": result.ok, "fault": fault,
            },
        )  # fmt: skip
    assert [f"{result.panel} {result.query}: {result.expr}" for result in results if not result.ok] == []
    assert len(results) > 0


# --- in the long form only --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not KEEPS, reason="the long form is `make stack-test`")
def test_every_metric_of_the_catalogue_is_there(stack: Stack) -> None:
    """Whatever one of them needs to be seen happens in the busy world, so none is left out."""
    pages = [stack.world.page()]
    stack.world.rgw.kill()  # what waits for the archive is only seen while something does
    job_id = stack.world.launch("lumi", "unkept", Course(seconds=2), "small")
    oldest = "rayslurm_archive_oldest_pending_timestamp_seconds "
    wait_until(lambda: oldest in stack.world.page(), f"{job_id} waits for the archive", 120)
    pages.append(stack.world.page())
    stack.world.rgw.start()
    seen = {name for page in pages for name in re.findall(r"^(rayslurm_\w+)[{ ]", page, re.MULTILINE)}
    missing = sorted(set(CATALOGUE) - seen)
    note("metrics", {"catalogue": len(CATALOGUE), "seen": len(seen & set(CATALOGUE)), "missing": missing})
    assert missing == []


@pytest.mark.skipif(not KEEPS, reason="the long form is `make stack-test`")
@pytest.mark.parametrize("number", range(3), ids=["certificate", "site", "exporter"])
def test_what_takes_others_with_it_is_told_and_its_end_too(number: int, stack: Stack) -> None:
    one = alone(stack.world)[number]
    try:
        one.begin()
        one.await_firing(stack.monitoring.inbox)
        one.await_end(stack.monitoring.inbox)
    finally:
        one.write_down()
    assert one.fired is not None
    assert re.fullmatch(one.pattern, one.fired.annotations["summary"])
    critical = one.fired.labels["severity"] == "critical"
    assert one.fired.receiver == ("critical" if critical else "warning")
