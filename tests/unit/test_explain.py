"""`rayslurm explain`: what it has of a job, who says it, and where they disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exporter.client.replay import Exchange
from exporter.config import Config, load_config
from exporter.explain.gather import Explanation, gather
from exporter.probes.jobs import JobsProbe
from exporter.probes.reports import ReportsProbe
from exporter.records import Bill
from exporter.store import bills, consequences, runs, submissions, tunnel_failures
from exporter.store.consequences import Consequence
from exporter.store.db import Store
from exporter.store.runs import Run
from exporter.store.tunnel_failures import Failed
from exporter.web.pages import Pages
from tests.site_texts import SEFF
from tests.slurm_texts import HELPFORMAT, finished, sacct, squeue
from tests.unit.conftest import Clock, MakeSite
from tests.unit.filled import SITE, as_puhti, fill, follow
from tests.unit.test_cli import run as rayslurm

TOKEN = "abcdefghjkmn"
ENV_SECRET = "hunter2-very-secret"


@pytest.fixture
def puhti(config_path: Path) -> Config:
    return load_config(as_puhti(config_path))


def explained(store: Store, config: Config, job_id: str, now: float) -> Explanation:
    with store.snapshot() as connection:
        return gather(connection, config, SITE, job_id, now=now)


def text_of(config_path: Path, *arguments: str) -> str:
    done = rayslurm("explain", *arguments, config=config_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_finished_job_tells_who_says_what_and_how_its_bill_came_about(
    puhti: Config, config_path: Path, store: Store, make_site: MakeSite, clock: Clock
) -> None:
    fill(store, make_site, clock)
    told = explained(store, puhti, "79", clock.now + 60)
    assert {text.raw.source for text in told.texts} == {"sacct", "seff"}
    assert told.record is not None
    assert told.record.alloc_cpus == 4
    assert told.working is not None
    (attempt,) = told.working.attempts
    # cores + 0.1 * GiB, for 100 s: (4 + 0.1 * 5.859) * 100 / 3600
    assert attempt.charge is not None
    assert round(float(attempt.charge.units), 2) == 0.13
    text = text_of(config_path, "79")
    for line in (
        "puhti2/79: demo",
        "it was submitted by hand and is followed from here",
        "failed",
        "exit code         7  [sacct]",
        "50.2%, 00:03:21 of 00:06:40 core time  [seff,",
        "0.13 cpu BU, paid by project_2001234  [seff,",
        "0.13 cpu BU, paid by project_2001234 (not the published one)  [formula,",
        "of which cpu 0.11, mem 0.02  [seff]",
        "cores + 0.1 * GiB + 0.006 * NVMe GiB cpu BU an hour  [CSC user guide, billing, 2026-08-21]",
        "4 cores, 5.85938 GiB of memory for 00:01:40: 0.13 cpu BU  [sacct, rate]",
        "none: it ran less than 10 minutes, too short to tell what it needs",
    ):
        assert line in text, line
    assert "Job ID: 79" not in text
    assert "Job ID: 79" in text_of(config_path, "puhti2/79", "--raw")


def test_a_running_job_tells_its_journal_its_tunnels_and_what_follows(
    puhti: Config, config_path: Path, store: Store, make_site: MakeSite, clock: Clock
) -> None:
    fill(store, make_site, clock)
    failed = Failed(SITE, "77", "dashboard", "auth", clock.now, "HTTP/1.1 403\nwrong token", False)
    store.write(lambda connection: tunnel_failures.keep(connection, [failed]))
    idle = Consequence(SITE, "77", "idle", "reported", "its Ray has used no CPU and no GPU", clock.now)
    store.write(lambda connection: consequences.note(connection, idle))
    text = text_of(config_path, "77")
    for line in (
        f"token             {TOKEN}; at the site it is called train.rs{TOKEN}",
        "sbatch answered with its number",
        "ports here        dashboard 8100",
        "campaign          nightly",
        "dashboard         auth once, last",
        "| HTTP/1.1 403",
        "| wrong token",
        "idle: reported",
        "known when the job has ended",
    ):
        assert line in text, line
    assert "[squeue, " in text


def test_the_values_of_ray_env_never_stand_in_it(config: Config, config_path: Path, store: Store, clock: Clock) -> None:
    spec = {"project": "p", "partition": "small", "cluster": {"nodes": 1}, "ray": {"env": {"KEY": ENV_SECRET}}}
    store.write(
        lambda connection: submissions.intend(
            connection, token=TOKEN, site=SITE, campaign="", name="t", spec=spec, run_dir="x", tunnels={}, now=1.0
        )
    )
    store.write(lambda connection: submissions.submitted(connection, TOKEN, "5", now=2.0))
    for arguments in (("5",), ("5", "--json"), ("5", "--raw")):
        assert ENV_SECRET not in text_of(config_path, *arguments)
    shown = json.loads(text_of(config_path, "5", "--json"))
    assert shown["journal"]["spec"]["ray"]["env"]["KEY"].startswith("sha256:")


def test_json_has_sources_ages_texts_and_warnings(
    puhti: Config, config_path: Path, store: Store, make_site: MakeSite, clock: Clock
) -> None:
    fill(store, make_site, clock)
    shown = json.loads(text_of(config_path, "79", "--json"))
    assert (shown["state"]["state"], shown["state"]["source"], shown["state"]["at"]) == ("failed", "sacct", clock.now)
    assert [(one["source"], one["final"], one["units"]) for one in shown["bills"]] == [
        ("seff", True, 0.13), ("formula", False, pytest.approx(0.1274, abs=1e-4)),
    ]  # fmt: skip
    assert {(one["source"], one["at"]) for one in shown["reports"]} == {("seff", clock.now), ("sacct", clock.now)}
    assert shown["rate"]["attempts"][0]["components"][0] == ["cores", pytest.approx(4 * 100 / 3600)]
    by_source = {text["source"]: text for text in shown["texts"]}
    assert by_source["seff"]["text"].startswith("Job ID: 79\n")
    assert by_source["seff"]["warnings"] == []
    assert shown["advice"]["silent"].startswith("it ran less than 10 minutes")


def test_a_row_that_was_not_understood_is_shown_with_the_job(
    puhti: Config, store: Store, make_site: MakeSite, clock: Clock, config_path: Path
) -> None:
    follow(store, "79")
    garbled = sacct(*finished("79")).replace("5,cpu=4", "5,cpu=four")
    context, _ = make_site(
        [
            Exchange("queue", squeue()),
            Exchange("accounting_fields", HELPFORMAT),
            Exchange("accounting", garbled),
            Exchange(
                "seff", SEFF.format(job_id="79", state="COMPLETED", used="00:03:21", ratio="50.25") + "Odd: 5%%\n"
            ),
        ]
    )
    for probe in (JobsProbe(), ReportsProbe()):
        probe.run(context)
    told = explained(store, puhti, "79", clock.now)
    assert any(text.warnings for text in told.texts)
    text = text_of(config_path, "79", "--raw")
    assert "| line " in text
    assert all(sign.isprintable() or sign in "\n\t" for sign in text), "nothing that a terminal would obey"


def test_where_sources_disagree_it_says_what_each_says(
    puhti: Config, store: Store, make_site: MakeSite, clock: Clock, config_path: Path
) -> None:
    fill(store, make_site, clock)

    def change(connection: Any) -> None:
        bills.keep(connection, SITE, "79", Bill("formula", "cpu", "BU", 0.2, "project_2001234"), final=False, now=1.0)
        summary = {"nodes": [{"name": "r01", "peak_memory_bytes": 9 * 2**30, "peak_cpus": 2.0}]}
        run = Run(SITE, "79", exit_code=3, summary=summary, settled=True)
        runs.keep(connection, run, now=clock.now)

    store.write(change)
    found = {one.about: one for one in explained(store, puhti, "79", clock.now).disagreements}
    assert found["bill"].said == {"seff": "0.13 cpu BU", "formula": "0.20 cpu BU"}
    assert found["exit code"].said == {"slurm": "7", "supervisor": "3"}
    assert found["peak memory"].said["supervisor"] == "9.00 GiB"
    assert "project" not in found
    assert "seff: 0.13 cpu BU; formula: 0.20 cpu BU" in text_of(config_path, "79")


def test_what_rounding_explains_is_no_disagreement(
    puhti: Config, store: Store, make_site: MakeSite, clock: Clock
) -> None:
    fill(store, make_site, clock)
    about = {one.about for one in explained(store, puhti, "79", clock.now).disagreements}
    assert about == set()


def test_an_id_that_was_given_again_is_another_job_whose_texts_are_not_mixed_up(
    puhti: Config, store: Store, make_site: MakeSite, clock: Clock
) -> None:
    follow(store, "79")
    old = sacct(*finished("79", Submit="1700000000"))
    fresh = sacct(*finished("79", AllocTRES="billing=5,cpu=2,mem=6000M,node=2"))
    for text in (old, fresh):
        context, _ = make_site(
            [Exchange("queue", squeue()), Exchange("accounting_fields", HELPFORMAT), Exchange("accounting", text)]
        )
        clock.now += 5000
        store.write(lambda connection: connection.execute("UPDATE tracked SET done = 0, sacct_after = 0"))
        store.write(lambda connection: connection.execute("UPDATE jobs SET final = 0"))
        JobsProbe().run(context)
    told = explained(store, puhti, "79", clock.now)
    assert told.record is not None
    assert told.record.submit_time == told.job.submit_time


def test_advice_comes_with_the_price_of_the_cheaper_request(
    puhti: Config, store: Store, make_site: MakeSite, clock: Clock, config_path: Path
) -> None:
    follow(store, "79")
    hour = {
        "Start": "1794996400",
        "End": "1795000000",
        "ElapsedRaw": "3600",
        "CPUTimeRAW": "14400",
        "TotalCPU": "03:20:00",
    }
    rows = finished("79", AllocTRES="billing=5,cpu=4,mem=100G,node=2", **hour)
    context, _ = make_site(
        [
            Exchange("queue", squeue()),
            Exchange("accounting_fields", HELPFORMAT),
            Exchange("accounting", sacct(*rows)),
        ]
    )
    JobsProbe().run(context)
    told = explained(store, puhti, "79", clock.now)
    (memory,) = told.advised.advice
    assert memory.key == "cluster.memory_per_node: 4G"
    assert (told.advised.units, memory.units_then) == (14, 4.8)  # 4 + 0.1 * 100, and 4 + 0.1 * 8
    assert "it would have cost 4.80 cpu BU" in text_of(config_path, "79")
    page = Pages(store, puhti, clock=clock).job(told.job.site, "79")
    assert page is not None
    assert "<code>cluster.memory_per_node: 4G</code>; it would have cost 4.80 cpu BU." in page
    assert "It would have cost 4.80 instead of 14 cpu BU" in page


def test_a_job_that_is_not_followed_is_refused_with_the_cure(config: Config, config_path: Path, store: Store) -> None:
    done = rayslurm("explain", "12345", config=config_path)
    assert done.returncode == 3
    assert "puhti2/12345 is no followed job; to follow it: rayslurm track puhti2/12345" in done.stderr


def test_an_array_is_explained_by_its_tasks(
    puhti: Config, config_path: Path, store: Store, make_site: MakeSite, clock: Clock
) -> None:
    fill(store, make_site, clock)
    done = rayslurm("explain", "80", config=config_path)
    assert done.returncode == 3
    assert "its tasks are: 80_1, 80_2" in done.stderr
    assert "part of           80" in text_of(config_path, "80_1")
