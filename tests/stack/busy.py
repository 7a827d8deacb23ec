"""What goes on in the busy world: jobs and campaigns that go well and badly, on purpose."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from exporter.practice.world import Course
from exporter.store import requests
from tests.prometheus_server import wait_until
from tests.stack.world import World

LONG = 840
"""Seconds; longer than any test."""

MISSED_SECONDS = 4
COSTLIER = "costlier"
"""A campaign that is over its budget, and has not run yet."""
CAMPAIGNS = 6
REQUESTS = 130
"""A few more than the commands that a site may be sent in an hour."""


def make_busy(world: World) -> dict[str, str]:
    """Launches all, and lets some of it go wrong; returns the ids of jobs by name."""
    _write_campaigns(world)
    steady, idle, ended = Course(seconds=LONG), Course(seconds=LONG, idle=True), Course(seconds=8)
    two = {"nodes": 2}
    launched = {
        name: world.launch(site, name, course, partition, **cluster)
        for site, name, course, partition, cluster in (
            ("lumi", "idler", Course(seconds=10, idle=True), "small", {}),
            ("roihu", "train", steady, "medium", two),
            ("lumi", "serve", steady, "standard-g", {**two, "gpus_per_node": 8, "cpus_per_node": 56}),
            ("roihu", "idle", idle, "small", {}),
            ("roihu", "stay-restless", None, "medium", two),
            ("roihu", "queued", Course(waits=LONG), "small", {}),
            ("lumi", "waiting", Course(waits=LONG), "small", {}),
            ("roihu", "embed", ended, "gpumedium", {"cpus_per_node": 72, "gpus_per_node": 1}),
            ("roihu", "broken", Course(fate="FAILED", seconds=6), "small", {}),
            ("lumi", "hungry", Course(fate="OUT_OF_MEMORY", seconds=6), "small", {}),
            ("roihu", "dead", Course(fate="NODE_FAIL", seconds=6), "medium", two),
            ("lumi", "score", ended, "standard", {**two, "cpus_per_node": 128}),
            ("roihu", "given-up", steady, "small", {}),
        )
    }
    # Long, and hardly used: there before rayslurm was told of it, since no test waits for an hour.
    launched["by-hand"] = world.track("roihu", "by-hand", Course(ago=4000, seconds=3900, idle=True))
    # Its jobs go as chance has it, which a practice site settles by their numbers: every seventh fails, and so on.
    world.run_campaign("sweep")
    world.run_campaign("batch")
    world.run_campaign("costly")
    _miss_a_run(world)
    world.sites["roihu"].world.cancel(int(launched["given-up"]))
    # What the site prints is another text from now on, which isn't understood.
    world.sites["roihu"].break_command("csc-projects", ("Welcome to the new csc-projects.\n", "", 0))
    world.sites["lumi"].ssh.stop()  # rayslurm's login ends, and it logs in again
    world.let_in("lumi")
    return launched


def _write_campaigns(world: World) -> None:
    world.sites["lumi"].world.patience = (1, 3, 4, 8)  # the jobs of the sweep
    world.sites["lumi"].world.courses["batch"] = Course(seconds=5)
    world.sites["roihu"].world.courses["service"] = Course(seconds=LONG)
    world.write_campaign("sweep", matrix={"RATE": [0.1, 0.01, 0.001, 1, 2, 3, 4]}, at_once=7, budget={"run": 100})
    world.write_campaign("batch", budget={"week": 500, "month": 1000})
    world.write_campaign("costly", budget={"run": 0.001})
    world.write_campaign("resting", paused=True)
    world.write_campaign(COSTLIER, budget={"month": 0.001})
    world.write_campaign("service", site="roihu")
    wait_until(lambda: world.page().count("rayslurm_campaign_info{") == CAMPAIGNS, "serve has read the campaigns", 60)


def _miss_a_run(world: World) -> None:
    """Has the time of a campaign come while its run goes on."""
    world.run_campaign("service", "roihu")
    first = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=MISSED_SECONDS)
    world.write_campaign("service", site="roihu", start=first, schedule={"every": "30m"})


def await_ends(world: World, launched: dict[str, str]) -> None:
    """Waits until what is to end has ended, and all of it is on /metrics.

    Raises:
        TimeoutError: something is not; it says what.
    """
    wanted = {
        'rayslurm_campaign_missed_runs_total{campaign="service",site="roihu"} 1.0',
        'rayslurm_campaign_refusals_total{campaign="costly",reason="budget",site="lumi"} 1.0',
        'rayslurm_campaign_runs_total{campaign="batch",outcome="succeeded",site="lumi"} 1.0',
        'rayslurm_campaign_runs_total{campaign="sweep",outcome="failed",site="lumi"} 1.0',
        'rayslurm_probe_failure_reason{probe="balances",reason="',
        f'rayslurm_job_cpu_efficiency_ratio{{job_id="{launched["by-hand"]}",site="roihu"',
        f'rayslurm_job_gpu_efficiency_ratio{{job_id="{launched["embed"]}",site="roihu",source="seff"}}',
    }
    wanted |= {
        f'rayslurm_job_state{{job_id="{launched[name]}",site="{site}",state="{state}"}} 1.0'
        for site, name, state in (
            ("roihu", "broken", "failed"),
            ("lumi", "hungry", "out_of_memory"),
            ("roihu", "dead", "node_fail"),
            ("roihu", "given-up", "cancelled"),
            ("lumi", "score", "completed"),
            ("lumi", "idler", "completed"),
        )
    }
    missing: list[str] = []

    def all_there() -> bool:
        page = world.page()
        missing[:] = sorted(line for line in wanted if line not in page)
        if 'rayslurm_archive_objects_total{outcome="uploaded"} 0.0' in page:
            missing.append("something in the archive")
        return not missing

    try:
        wait_until(all_there, "what is to happen has happened", 180)
    except TimeoutError:
        raise TimeoutError(f"not on /metrics: {missing}") from None


def use_up_commands(world: World, job_id: str) -> None:
    """Has somebody ask for a job's logs again and again, until the site's commands of the hour are used up."""
    payload = {"job_id": job_id}
    for _ in range(REQUESTS):
        world.store.write(lambda connection: requests.add(connection, "logs", "roihu", payload, now=time.time()))
    unasked = 'rayslurm_remote_commands_throttled_total{site="roihu"} 0.0'
    wait_until(lambda: unasked not in world.page(), "a command was held back", 90)
