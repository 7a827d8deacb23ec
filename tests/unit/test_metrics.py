"""/metrics: what stands there, how it is bounded, and what a broken part costs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.client.replay import Exchange
from exporter.config import Config
from exporter.metrics.catalogue import CATALOGUE, Families
from exporter.metrics.collectors import Collector, Scrape, collectors
from exporter.metrics.render import Renderer
from exporter.probes.jobs import JobsProbe
from exporter.records import FINAL_STATES
from exporter.states import METRIC_STATES, base_state
from exporter.store.db import Store
from tests.prometheus_server import program
from tests.slurm_texts import HELPFORMAT, finished, sacct, squeue
from tests.unit.conftest import Clock, MakeSite
from tests.unit.filled import as_puhti, fill, follow

GOLDEN = Path(__file__).parents[1] / "golden/metrics.txt"
_OF_A_JOB = {"site", "job_id", "state", "reason", "source", "kind", "unit", "tunnel", "resource"}


def page(store: Store, config: Config, clock: Clock, parts: Mapping[str, Collector] | None = None) -> str:
    return Renderer(store, config, clock=clock, parts=parts).render("")[0].decode()


@pytest.fixture
def config_path(config_path: Path) -> Path:
    return as_puhti(config_path)


@pytest.fixture
def busy_store(store: Store, make_site: MakeSite, clock: Clock) -> Store:
    fill(store, make_site, clock)
    return store


def test_the_page_is_as_it_was(busy_store: Store, config: Config, clock: Clock) -> None:
    """Compares the whole page; after a change that is meant, remove the golden file and run the test twice."""
    text = page(busy_store, config, clock)
    text = re.sub(r"(build_info\{).*(\} 1\.0)", r"\1...\2", text)
    text = re.sub(r"(store_size_bytes) .*", r"\1 ...", text)
    if not GOLDEN.exists():
        GOLDEN.write_text(text)
        pytest.fail(f"{GOLDEN} was missing and is written now; look at it and commit it")
    assert text == GOLDEN.read_text()


def test_promtool_finds_nothing_to_mend(busy_store: Store, config: Config, clock: Clock) -> None:
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=page(busy_store, config, clock),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_each_family_says_what_the_catalogue_says(busy_store: Store, config: Config, clock: Clock) -> None:
    for family in text_string_to_metric_families(page(busy_store, config, clock)):
        metric = CATALOGUE[family.name + ("_total" if family.type == "counter" else "")]
        assert family.type == metric.kind
        assert family.documentation == metric.help
        for sample in family.samples:
            assert set(sample.labels) == set(metric.labels)


def test_the_catalogue_keeps_the_rules() -> None:
    for name, metric in CATALOGUE.items():
        assert name == metric.name
        assert re.fullmatch(r"rayslurm_[a-z][a-z_]*[a-z]", name)
        assert name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")
        if metric.kind == "counter":
            bounded = name == "rayslurm_tunnel_restarts_total"  # the job's own count, of the jobs that are shown
            assert bounded or "job_id" not in metric.labels, f"{name} would grow without bound"
        if "job_id" in metric.labels and not name.endswith("_info"):
            assert set(metric.labels) <= _OF_A_JOB, "names stand in _info only"


def test_a_collector_that_raises_costs_its_own_metrics_only(busy_store: Store, config: Config, clock: Clock) -> None:
    def broken(scrape: Scrape, families: Families) -> None:
        families.add("jobs_omitted", 5)
        raise ZeroDivisionError

    text = page(busy_store, config, clock, parts={**collectors(), "broken": broken})
    assert 'rayslurm_collector_success{collector="broken"} 0.0' in text
    assert 'rayslurm_collector_success{collector="jobs"} 1.0' in text
    assert "rayslurm_jobs_omitted 0.0" in text
    assert text.count("rayslurm_jobs_omitted ") == 3, "HELP, TYPE and one sample: the broken part adds nothing"


def test_a_store_that_cannot_be_read_still_gives_a_page(store: Store, config: Config, clock: Clock) -> None:
    store.write(lambda connection: connection.execute("DROP TABLE counters"))
    text = page(store, config, clock)
    assert 'rayslurm_collector_success{collector="jobs"} 0.0' in text
    assert "rayslurm_job_state" not in text


def test_finished_jobs_are_bounded_and_the_rest_is_counted(
    config: Config, store: Store, make_site: MakeSite, clock: Clock
) -> None:
    ids = [str(number) for number in range(100, 130)]
    for job_id in ids:
        follow(store, job_id)
    rows = [row for number, job_id in enumerate(ids) for row in finished(job_id, End=str(1794990000 + number * 600))]
    for row in rows:
        if row["JobID"].endswith(".batch"):
            row["End"] = "1794990000"
    context, _ = make_site(
        [Exchange("queue", squeue()), Exchange("accounting_fields", HELPFORMAT), Exchange("accounting", sacct(*rows))]
    )
    JobsProbe().run(context)
    follow(store, "99")
    few = config.model_copy(update={"metrics": config.metrics.model_copy(update={"max_jobs": 10})})
    text = page(store, few, clock)
    shown = set(re.findall(r'rayslurm_job_state\{job_id="(\d+)"', text))
    assert shown == set(ids[-10:]), "the newest"
    assert "rayslurm_jobs_omitted 20.0" in text
    assert "rayslurm_jobs_tracked 10.0" in text
    clock.now = 1794990000 + 29 * 600 + 86400 + 1
    assert "rayslurm_job_state{" not in page(store, few, clock), "a day later none is shown"
    assert 'state="completed"} 30.0' in page(store, few, clock), "the counters stay"


def test_what_is_not_known_is_absent(store: Store, config: Config, make_site: MakeSite, clock: Clock) -> None:
    follow(store, "77")
    unknown = {"TIME_LIMIT": "UNLIMITED", "SUBMIT_TIME": "N/A", "CPUS": "garbage", "ACCOUNT": ""}
    context, _ = make_site([Exchange("queue", squeue({"JOBID": "77", **unknown}))])
    JobsProbe().run(context)
    text = page(store, config, clock)
    assert 'rayslurm_job_state{job_id="77",site="puhti2",state="pending"} 1.0' in text
    for name in ("time_limit_seconds", "submit_timestamp_seconds", "cpus", "elapsed_seconds", "exit_code", "gpus"):
        assert f"rayslurm_job_{name}{{" not in text


def test_labels_from_a_site_cannot_break_the_page(
    store: Store, config: Config, make_site: MakeSite, clock: Clock
) -> None:
    follow(store, "77")
    context, _ = make_site([Exchange("queue", squeue({"JOBID": "77", "NAME": 'a"} 1\\n{#', "REASON": "Prio\\rity"}))])
    JobsProbe().run(context)
    (family,) = (
        family
        for family in text_string_to_metric_families(page(store, config, clock))
        if family.name == "rayslurm_job_info"
    )
    assert [sample.labels["job_name"] for sample in family.samples] == ['a"} 1\\n{#']


def test_a_fresh_start_shows_every_state_as_none(store: Store, config: Config, clock: Clock) -> None:
    text = page(store, config, clock)
    for state in METRIC_STATES:
        assert f'rayslurm_jobs{{campaign="",site="puhti2",state="{state}"}} 0.0' in text


def test_base_states_are_slurms_and_flags_stand_for_one() -> None:
    assert {base_state(word) for word in FINAL_STATES} | {"pending", "running", "suspended", "unknown"} == set(
        METRIC_STATES
    )
    assert base_state("COMPLETING") == "running"
    assert base_state("REQUEUE_HOLD") == "pending"
    assert base_state("SOMETHING_NEW") == base_state(None) == "unknown"
