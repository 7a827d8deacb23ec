"""An hour of `serve` with fifty jobs, on a clock that runs sixty times as fast: what the site's own log counts."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from exporter.store import jobs
from exporter.store.db import Store
from tests.lab.lab import Lab, LoggedCommand
from tests.lab.serving import Rayslurm, configure_sites, own_site

pytestmark = pytest.mark.timeout(300)

SITE = "roihu"
JOBS = 50
HOUR = 60.0
"""The hour of the practice clock, in seconds."""

AT_MOST = {"sacct": 12, "squeue": 30, "csc-projects": 2, "sinfo": 1, "scontrol": 1}


@dataclass(frozen=True)
class Watched:
    """What was followed, what the site logged of it, and what sshd logged meanwhile."""

    ids: list[str]
    log: list[LoggedCommand]
    connections: int
    rayslurm: Rayslurm


@pytest.fixture(scope="module")
def watched(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    rayslurm = configure_sites(lab, tmp_path_factory.mktemp("hour"), {SITE: {}})
    with own_site(lab):
        submit = 'sbatch --parsable -p small --mem=50 -t 5 -o /dev/null --wrap "sleep $((i % 17 + 4))"'
        many = f"for i in $(seq {JOBS}); do {submit}; done"
        ids = lab.sh(many, check=True).stdout.split()
        assert len(ids) == JOBS
        # By the store: `track` would ask the queue for each.
        with Store(rayslurm.state_dir / "rayslurm.sqlite3") as store:
            for job_id in ids:
                store.write(partial(jobs.track, site=SITE, root_id=job_id, now=time.time()))
        logged, connected = len(site_log(lab)), connections(lab)
        with rayslurm.serving():
            started = time.monotonic()
            lab.wait(lambda: billed(rayslurm) == set(ids), 200, "every job's bill on /metrics", every=1)
            lab.wait(lambda: time.monotonic() - started > 2 * HOUR, 2 * HOUR + 10, "two hours to look at", every=1)
            settled = partial(agree, lab, rayslurm, logged)
            lab.wait(settled, 30, "the budget that /metrics shows and the site's log agree")
            yield Watched(ids, site_log(lab)[logged:], connections(lab) - connected, rayslurm)


def site_log(lab: Lab) -> list[LoggedCommand]:
    return [entry for entry in lab.site_log() if entry.address == SITE]


def connections(lab: Lab) -> int:
    return len(re.findall(rf"Connection from \S+ port \d+ on {re.escape(lab.address(SITE))} port 22", lab.sshd_log()))


def billed(rayslurm: Rayslurm) -> set[str]:
    return {dict(labels)["job_id"] for labels in rayslurm.samples().get("rayslurm_job_billing_units", {})}


def agree(lab: Lab, rayslurm: Rayslurm, since: int) -> bool:
    """Tells whether /metrics counts what the site's log does: all commands, and those of the last hour."""
    remaining, now = rayslurm.value("site_command_budget_remaining", site=SITE), time.time()
    log = site_log(lab)[since:]
    recent = sum(entry.time > now - HOUR for entry in log)
    counted: Counter[str] = Counter()
    for labels, value in rayslurm.samples()["rayslurm_remote_commands_total"].items():
        counted[dict(labels)["command"].removesuffix("-helpformat")] += int(value)
    return remaining == 120 - recent and counted == Counter(entry.program for entry in log)


@pytest.mark.parametrize("program", AT_MOST)
def test_no_hour_has_more_than_it_may(watched: Watched, program: str) -> None:
    moments = [entry.time for entry in watched.log if entry.program == program]
    assert moments
    busiest = max(sum(start <= moment < start + HOUR for moment in moments) for start in moments)
    print(f"{program}: {busiest} in the busiest hour, {len(moments)} in all")
    assert busiest <= AT_MOST[program]


def test_the_whole_budget_was_never_exceeded(watched: Watched) -> None:
    moments = [entry.time for entry in watched.log]
    assert max(sum(start <= moment < start + HOUR for moment in moments) for start in moments) <= 100


def test_each_job_was_reported_once(watched: Watched) -> None:
    asked = Counter(entry.arguments[-1] for entry in watched.log if entry.program == "seff")
    assert asked == Counter(watched.ids)


def test_there_was_one_connection(watched: Watched) -> None:
    assert watched.connections == 1
    assert watched.rayslurm.value("ssh_connections_total", site=SITE, outcome="ok") == 1


def test_nothing_else_was_asked(watched: Watched) -> None:
    asked = {"squeue", "sacct", "seff", "csc-projects", "csc-workspaces", "sinfo", "scontrol"}
    assert {entry.program for entry in watched.log} == asked
    assert watched.rayslurm.value("remote_commands_throttled_total", site=SITE) == 0
