"""Real jobs as each site bills them: estimated while they run, billed as the site prints, added up in the ledger.

With RAYSLURM_MONEY_FULL=1 ten jobs and LUMI's balance as a second opinion, about four minutes; else five jobs.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

import pytest

from exporter.store import differences, ledger
from exporter.store.db import Store
from tests import money
from tests.lab.lab import Lab
from tests.lab.serving import SITE, Rayslurm, Samples, configure_sites, own_site

FULL = os.environ.get("RAYSLURM_MONEY_FULL") == "1"
pytestmark = pytest.mark.timeout(900 if FULL else 300)

INTERVAL_SECONDS = 10.0
"""The longest pause between two looks at the queue, on the lab's clock."""

LATE_SECONDS = 10.0
"""How long a look may take on a loaded machine, the way to the page included."""


@dataclass(frozen=True)
class Asked:
    """A job, and what it costs an hour by the site's page.

    Attributes:
        printed_digits: after the point in what the site prints of it; None where it prints binary fractions in full.
    """

    site: str
    partition: str
    options: str
    per_hour: Decimal
    kind: str
    unit: str
    printed_digits: int | None = 2

    @property
    def name(self) -> str:
        return f"{self.site} {self.partition}"


QUICK = (
    Asked("roihu", "small", "-n1 -c2 --mem=1G", Decimal("1.5"), "cpu", "BU"),
    Asked("mahti", "gpumedium", "-n1 --gpus-per-node=a100:1 --mem=200", Decimal(100), "gpu", "BU"),
    Asked("puhti", "gpu", "-n1 -c2 --gpus-per-node=a100:3 --mem=1G", Decimal("182.1"), "gpu", "BU"),
    Asked("lumi", "small-g", "-n1 -c4 --gpus-per-node=2 --mem=2G", Decimal(1), "gpu", "gpu-hours", None),
    Asked(SITE, "small", "-n1 -c2 --mem=4G", Decimal(3), "billing", "billing-hours", None),
)
MORE = (
    Asked("roihu", "gpumedium", "-N2 --gpus-per-node=2 --mem=200", Decimal(800), "gpu", "BU"),
    Asked("mahti", "medium", "-N1 --mem=1G", Decimal(100), "cpu", "BU"),
    Asked("puhti", "large", "-N2 -c1 --mem=1G", Decimal("2.2"), "cpu", "BU"),
    Asked("lumi", "standard", "-N1 --mem=1G", Decimal(128), "cpu", "core-hours", None),
    Asked("roihu", "medium", "-N1 --mem=1G", Decimal(288), "cpu", "BU"),
)
JOBS = (*QUICK, *MORE) if FULL else QUICK
SITES = sorted({job.site for job in JOBS})


@dataclass
class Seen:
    """What was seen of a job.

    Attributes:
        behind_seconds: by how long a time its estimate was behind what it had cost then, at each look.
        bill: by kind, unit and source.
    """

    job_id: str
    behind_seconds: list[float] = field(default_factory=list)
    bill: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Paid:
    """The jobs that ended, and what LUMI had booked before and after them."""

    lab: Lab
    rayslurm: Rayslurm
    seen: dict[str, Seen]
    before: dict[str, float]
    after: dict[str, float]

    def printed(self, job: Asked) -> float:
        """Returns what the site prints of a job."""
        job_id = self.seen[job.name].job_id
        if job.site == "lumi":
            return self.after[f"{job.kind}_hours"] - self.before[f"{job.kind}_hours"]
        if job.site == SITE:
            (row,) = self.lab.sacct(job_id, ["elapsedraw", "alloctres"], "-X")
            amounts = dict(item.split("=") for item in row["alloctres"].split(","))
            return float(Decimal(amounts["billing"]) * int(row["elapsedraw"]) / 3600)
        text = self.lab.sh(f"seff {job_id}", f"researcher@{job.site}", check=True).stdout
        (units,) = re.findall(r"^Job consumed ([\d.]+) CSC [Bb]illing [Uu]nits", text, re.MULTILINE)
        return float(units)


@pytest.fixture(scope="module")
def paid(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paid]:
    folder = tmp_path_factory.mktemp("money")
    rayslurm = configure_sites(lab, folder, {site: {} for site in SITES})
    with own_site(lab), rayslurm.serving():
        lab.refresh_balances()
        before = booked(lab)
        if FULL:  # what is reckoned just before a job may have a part of it
            began = time.time()
            lab.wait(lambda: reckoned(rayslurm) >= began - 60, 120, "LUMI's balance before the jobs", every=1)
            lab.wait(lambda: time.time() > began + 15, 60, "that the balance is older than the jobs", every=1)
        seen = {job.name: Seen(submit(lab, rayslurm, job)) for job in JOBS}
        lab.wait(partial(all_billed, rayslurm, seen), 240, "the bill of every job", every=0.5)
        lab.refresh_balances()
        yield Paid(lab, rayslurm, seen, before, booked(lab))


def submit(lab: Lab, rayslurm: Rayslurm, job: Asked) -> str:
    user = "researcher" if job.site == SITE else f"researcher@{job.site}"
    command = f"sbatch --parsable -o /dev/null -t 5 -p {job.partition} {job.options} --wrap 'sleep 30'"
    job_id = lab.sh(command, user, check=True).stdout.strip().split(";")[0]
    rayslurm.run("track", f"{job.site}/{job_id}")
    return job_id


def all_billed(rayslurm: Rayslurm, seen: dict[str, Seen]) -> bool:
    """Looks at the page; tells whether every job's bill is there."""
    samples, now = rayslurm.samples(), time.time()
    for job in JOBS:
        seen[job.name].bill = billed(samples, job, seen[job.name])
        look(samples, now, job, seen[job.name])
    return all(one.bill for one in seen.values())


def look(samples: Samples, now: float, job: Asked, seen: Seen) -> None:
    """Holds a running job's estimate against what it has cost by now."""
    labels = {"site": job.site, "job_id": seen.job_id}
    units = value(samples, "job_billing_units_estimated", **labels)
    rate = value(samples, "job_billing_rate_units_per_hour", **labels)
    started = value(samples, "job_start_timestamp_seconds", **labels)
    if units is None or rate is None or started is None:
        return
    assert rate == pytest.approx(float(job.per_hour), rel=1e-9)
    seen.behind_seconds.append(now - started - units / rate * 3600)


def value(samples: Samples, name: str, **labels: str) -> float | None:
    found = [one for own, one in samples.get(f"rayslurm_{name}", {}).items() if labels.items() <= dict(own).items()]
    assert len(found) <= 1
    return found[0] if found else None


def billed(samples: Samples, job: Asked, seen: Seen) -> dict[str, float]:
    found = {}
    for own, units in samples.get("rayslurm_job_billing_units", {}).items():
        labels = dict(own)
        if (labels["site"], labels["job_id"]) == (job.site, seen.job_id):
            found[f"{labels['kind']} {labels['unit']} {labels['source']}"] = units
    return found


def booked(lab: Lab) -> dict[str, float]:
    project = lab.fact("PROJECT")
    path = f"/var/lib/project_info/users/{project}/{project}.json"
    known = json.loads(lab.sh(f"cat {path}", "researcher@lumi", check=True).stdout)["billing"]
    return {kind: row["used"] for kind, row in known.items()}


def reckoned(rayslurm: Rayslurm) -> float:
    return rayslurm.value("allocation_updated_timestamp_seconds", provider="lumi") or 0.0


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_bill_print_and_ledger_are_the_same_to_the_last_digit(paid: Paid, job: Asked) -> None:
    seen = paid.seen[job.name]
    ((name, units),) = seen.bill.items()
    kind, unit, source = name.split(" ")
    printed = paid.printed(job)
    (row,) = [
        one for one in paid.rayslurm.json("costs")["rows"] if (one["site"], one["job_id"]) == (job.site, seen.job_id)
    ]
    behind = max(seen.behind_seconds, default=float("inf"))
    at_most = INTERVAL_SECONDS + LATE_SECONDS
    in_time = bool(seen.behind_seconds) and min(seen.behind_seconds) >= -1.5 and behind <= at_most
    # LUMI's file tells the sum of all jobs: the last digit of that is what can be told of one.
    digit = math.ulp(paid.after[f"{job.kind}_hours"]) if job.site == "lumi" else 0.0
    same = abs(units - printed) <= digit and row["units"] == units
    money.note(
        "job",
        {
            "site": job.site, "job_id": seen.job_id, "partition": job.partition, "kind": kind, "unit": unit,
            "source": source, "bill": units, "printed": printed, "ledger": row["units"], "right": same and in_time,
            "behind_seconds": behind, "interval_seconds": INTERVAL_SECONDS, "looks": len(seen.behind_seconds),
        },
    )  # fmt: skip
    assert (kind, unit, row["kind"], row["unit"], row["source"]) == (job.kind, job.unit, job.kind, job.unit, source)
    assert same, f"{units}, {printed} printed, {row['units']} in the ledger"
    (elapsed,) = paid.lab.sacct(seen.job_id, ["elapsedraw"], "-X")
    by_page = job.per_hour * int(elapsed["elapsedraw"]) / 3600
    rounded = 0.5 * 10**-job.printed_digits + 1e-6 if job.printed_digits else 1e-9
    assert units == pytest.approx(float(by_page), abs=rounded, rel=0)
    assert in_time, f"behind by {seen.behind_seconds}"


def test_the_ledger_is_the_sum_of_the_bills(paid: Paid) -> None:
    for by in ("site", "project", "month"):
        rows = paid.rayslurm.json("costs", "--by", by)["rows"]
        for kind, unit in {(job.kind, job.unit) for job in JOBS}:
            bills = [paid.seen[job.name].bill for job in JOBS if (job.kind, job.unit) == (kind, unit)]
            expected = sum((Decimal(str(units)) for bill in bills for units in bill.values()), Decimal(0))
            found = [row for row in rows if (row["kind"], row["unit"]) == (kind, unit)]
            assert sum(Decimal(str(row["units"])) for row in found) == expected
            assert sum(row["jobs"] for row in found) == len(bills)


def test_every_bill_leads_to_the_text_that_it_is_from(paid: Paid) -> None:
    with Store(paid.rayslurm.state_dir / "rayslurm.sqlite3") as store, store.snapshot() as connection:
        for entry in ledger.entries(connection):
            (text,) = connection.execute(
                "SELECT text FROM raw_outputs WHERE site = ? AND sha256 = ?", (entry.site, entry.raw_sha256)
            ).fetchone()
            assert entry.job_id in text


def test_no_estimate_was_wrong(paid: Paid) -> None:
    counted = paid.rayslurm.samples()["rayslurm_billing_estimate_mismatches_total"]
    assert {dict(labels)["site"]: value for labels, value in counted.items()} == dict.fromkeys(SITES, 0.0)


@pytest.mark.skipif(
    not FULL, reason="waits a minute for LUMI's balance: RAYSLURM_MONEY_FULL=1, as make money-test does"
)
def test_lumis_balance_gives_a_second_opinion(paid: Paid) -> None:
    lab, rayslurm = paid.lab, paid.rayslurm
    ended = time.time()
    lab.wait(lambda: time.time() > ended + 80, 120, "that all of the jobs is booked", every=1)
    lab.refresh_balances()
    for job in JOBS:
        if job.site != "lumi":
            continue
        job_id = paid.seen[job.name].job_id

        def said(job_id: str = job_id) -> differences.Opinion | None:
            with Store(rayslurm.state_dir / "rayslurm.sqlite3") as store, store.snapshot() as connection:
                return differences.opinion_of(connection, "lumi", job_id)

        opinion = lab.wait(said, 120, f"what LUMI's balance says of {job.name}", every=2)
        (units,) = paid.seen[job.name].bill.values()
        assert opinion is not None
        assert opinion.words.endswith("which is its bill"), opinion
        assert opinion.units == pytest.approx(units, abs=1e-6)
        share = rayslurm.value("allocation_delta_attributed_ratio", provider="lumi", kind=job.kind)
        assert share == pytest.approx(1, abs=1e-6)
        rose = rayslurm.value("allocation_delta_units", provider="lumi", kind=job.kind)
        assert rose == pytest.approx(units, abs=1e-6)
