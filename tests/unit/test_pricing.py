"""What a spec and what is queued or running costs at its limit: before anything is paid, and each job once."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.billing.price import NoPrice, Price, dearest
from exporter.client.replay import Exchange
from exporter.config import Config, Site, load_config
from exporter.launch.launcher import Launcher
from exporter.launch.pricing import Commitment, committed, price_of_job, price_of_spec
from exporter.launch.spec import Spec
from exporter.probes.jobs import JobsProbe
from exporter.probes.reports import ReportsProbe
from exporter.records import PartitionRecord
from exporter.store import jobs, submissions
from exporter.store.db import Store
from exporter.store.partitions import Listing
from tests.site_texts import BILLED, SEFF
from tests.slurm_texts import HELPFORMAT, finished, sacct, squeue
from tests.unit.conftest import Clock, MakeSite

SITE = "puhti2"
ROIHU_SMALL = "max(0.75 * cores, 0.375 * GiB) + 0.02 * NVMe GiB"
PUHTI: dict[str, Any] = {"profile": "puhti", "closed": False}


def make_site_named(tmp_path: Path, profile: str, **keys: Any) -> Site:
    path = tmp_path / "site.yaml"
    ssh = {"host": "login.example.org", "user": "maija"}
    path.write_text(yaml.safe_dump({"sites": {"s": {"profile": profile, "project": "p", "ssh": ssh, **keys}}}))
    return load_config(path).site("s")


def make_spec(partition: str, directives: tuple[str, ...] = (), **cluster: Any) -> Spec:
    wanted = {"nodes": 1, "cpus_per_node": 4, "memory_per_node": "16G", "time": "1h", "partition": partition}
    return Spec.model_validate({"site": "s", "cluster": wanted | cluster, "directives": directives})


def told(found: Price | NoPrice) -> str:
    if isinstance(found, NoPrice):
        return found.reason
    return f"{round(found.units, 4).normalize():f} {found.kind} {found.unit}"


@pytest.mark.parametrize(
    ("profile", "spec", "expected"),
    [
        ("roihu", make_spec("small", cpus_per_node=10, memory_per_node="40G"), "15 cpu BU"),
        ("roihu", make_spec("medium", nodes=2, time="00:09:39"), "96 cpu BU"),  # Slurm's limits are whole minutes
        ("roihu", make_spec("gpumedium", nodes=2, gpus_per_node=2), "800 gpu BU"),
        ("roihu", make_spec("small", nodes=1, cpus_per_node=40, gres="nvme:100"), "32 cpu BU"),
        ("mahti", make_spec("gpusmall", gres="gpu:a100:1,nvme:50"), "100.5 gpu BU"),
        ("mahti", make_spec("gpusmall", gres="gpu:a100_1g.5gb:1"), "15 gpu BU"),
        ("mahti", make_spec("gpusmall", gpus_per_node=1), "100 gpu BU"),
        ("puhti", make_spec("gpu", nodes=2, gres="gpu:v100:4"), "491.2 gpu BU"),
        ("lumi", make_spec("standard", nodes=2), "256 cpu core-hours"),
        ("lumi", make_spec("small", cpus_per_node=8, memory_per_node="33G"), "17 cpu core-hours"),
        ("lumi", make_spec("small-g", gpus_per_node=1, cpus_per_node=9), "1 gpu gpu-hours"),
        ("lumi", make_spec("standard,small"), "128 cpu core-hours"),
        ("lumi", make_spec("small,small-g"), "it may be paid in cpu core-hours or in gpu gpu-hours"),
        ("mahti", make_spec("interactive"), "no rate is known for partition interactive of mahti"),
        ("slurm", make_spec("any"), "no rate is known for the site slurm"),
        ("roihu", make_spec("small", ("--mem-per-cpu=9G",)), "its directive --mem-per-cpu=9G changes what it gets"),
        (
            "roihu",
            make_spec("small", exclusive=True),
            f"small costs {ROIHU_SMALL} an hour, and how many cores it has isn't known",
        ),
    ],
)  # fmt: skip
def test_a_spec_costs_its_whole_time(tmp_path: Path, profile: str, spec: Spec, expected: str) -> None:
    assert told(price_of_spec(spec, make_site_named(tmp_path, profile))) == expected


def test_a_whole_node_costs_all_that_it_has(tmp_path: Path) -> None:
    listing = Listing({"small": PartitionRecord("small", max_cpus_per_node=256, max_gpus_per_node=0)}, 0.0)
    spec = make_spec("small", nodes=2, exclusive=True)
    assert told(price_of_spec(spec, make_site_named(tmp_path, "lumi"), listing)) == "256 cpu core-hours"
    gpu = Listing({"small-g": PartitionRecord("small-g", max_cpus_per_node=112, max_gpus_per_node=8)}, 0.0)
    alone = make_spec("small-g", gpus_per_node=1, exclusive=True)
    assert told(price_of_spec(alone, make_site_named(tmp_path, "lumi"), gpu)) == "4 gpu gpu-hours"
    known = make_site_named(tmp_path, "puhti", partitions={"small": {"max_cpus_per_node": 40}})
    assert told(price_of_spec(make_spec("small", exclusive=True), known)) == "41.6 cpu BU"


def test_a_price_says_how_it_comes_about(tmp_path: Path) -> None:
    found = price_of_spec(make_spec("gpu", gres="gpu:v100:1"), make_site_named(tmp_path, "puhti"))
    assert isinstance(found, Price)
    assert found.components == (
        ("gpus", Decimal(60)),
        ("cores", Decimal(4)),
        ("memory", Decimal("1.6")),
        ("nvme", Decimal(0)),
    )
    assert found.units_per_hour == found.units == sum(units for _, units in found.components)
    assert (found.rule, found.source) == (
        "60 * GPUs + cores + 0.1 * GiB + 0.006 * NVMe GiB",
        "CSC user guide, billing, 2026-08-21",
    )
    assert found.times(3).units == found.units * 3
    assert isinstance(dearest(()), NoPrice)


def open_now(store: Store, site: Site) -> list[Commitment]:
    with store.snapshot() as connection:
        return committed(connection, {SITE: site})


def follow(store: Store, *job_ids: str) -> None:
    for job_id in job_ids:
        store.write(lambda connection, job_id=job_id: jobs.track(connection, SITE, job_id, now=1.0))  # type: ignore[misc]  # mypy cannot infer a lambda with a default


def test_every_job_is_committed_once_from_its_intention_to_its_bill(
    store: Store, make_site: MakeSite, clock: Clock
) -> None:
    spec = {
        "site": SITE, "project": "project_2001234", "partition": "small",
        "cluster": {"nodes": 2, "cpus_per_node": 2, "memory_per_node": "3000M", "time": "20m"},
    }  # fmt: skip
    store.write(
        lambda connection: submissions.intend(
            connection, token="abcdefghjkmn", site=SITE, campaign="nightly", name="train", spec=spec, run_dir="x",
            tunnels={}, now=1.0,
        )
    )  # fmt: skip
    running = {"JOBID": "77", "STATE": "RUNNING", "TIME": "1:30", "START_TIME": "1794999910", "NODELIST": "r[01-02]"}
    context, _ = make_site(
        [
            Exchange("queue", squeue(running | {"TRES_ALLOC": "cpu=40,mem=6000M,node=2,billing=5"})),
            Exchange("queue", squeue(), repeat=True),
            Exchange("accounting_fields", HELPFORMAT),
            Exchange("accounting", sacct(*finished("77"))),
            Exchange("seff", SEFF.format(job_id="77", state="COMPLETED", used="00:03:21", ratio="50.25") + BILLED),
        ],
        **PUHTI,
    )
    twenty_minutes = 4.5859  # 4 cores and 5.86 GiB

    def one(units: float, job_id: str | None) -> None:
        (found,) = open_now(store, context.site)
        assert isinstance(found.price, Price)
        assert float(found.price.units) == pytest.approx(units / 3, abs=2e-4)
        assert (found.job_id, found.token, found.project, found.campaign) == (
            job_id, "abcdefghjkmn", "project_2001234", "nightly",
        )  # fmt: skip

    one(twenty_minutes, None)
    store.write(lambda connection: submissions.submitted(connection, "abcdefghjkmn", "77", now=2.0))
    one(twenty_minutes, "77")
    JobsProbe().run(context)
    one(twenty_minutes + 36, "77")  # it was given more than it asked for
    JobsProbe().run(context)
    one(twenty_minutes / 12, "77")  # it ended after 100 s, and the site's bill is awaited
    ReportsProbe().run(context)
    assert open_now(store, context.site) == []


def test_jobs_submitted_by_hand_are_committed_by_what_the_queue_tells(store: Store, make_site: MakeSite) -> None:
    follow(store, "78", "79", "80")
    pending = {"TIME_LIMIT": "1:00:00", "TRES_ALLOC": "cpu=4,mem=10G,node=1,billing=5"}
    context, _ = make_site(
        [
            Exchange(
                "queue",
                squeue(
                    {"JOBID": "78", **pending},
                    {"JOBID": "79_[1-3,7%2]", **pending},
                    {"JOBID": "80", **pending, "TIME_LIMIT": "UNLIMITED"},
                ),
            )
        ],
        **PUHTI,
    )
    JobsProbe().run(context)
    found = {one.job_id: told(one.price) for one in open_now(store, context.site)}
    assert found == {"78": "5 cpu BU", "79_[1-3,7%2]": "20 cpu BU", "80": "the queue doesn't tell its time limit"}


def test_without_rates_the_billing_of_slurm_counts(store: Store, make_site: MakeSite) -> None:
    follow(store, "78")
    context, _ = make_site([Exchange("queue", squeue({"JOBID": "78"}))])
    JobsProbe().run(context)
    with store.snapshot() as connection:
        (job,) = jobs.find(connection, "78")
        found = price_of_job(connection, job, context.site)
    assert told(found) == "1.6667 billing billing-hours"


def test_what_was_launched_is_committed_at_the_price_of_its_spec(
    config: Config, store: Store, make_site: MakeSite, clock: Clock, tmp_path: Path
) -> None:
    context, _ = make_site([Exchange("submit", "77\n")], **PUHTI)
    spec = make_spec("small").model_copy(update={"site": SITE})
    Launcher(load_config(tmp_path / "of-this-site.yaml"), store, clock).launch(context.client, spec)
    (found,) = open_now(store, context.site)
    assert found.price == price_of_spec(spec, context.site)
    assert found.job_id == "77"
