"""A real two-node Ray job each as on Roihu, Mahti, Puhti and LUMI: bill and efficiency as the site prints them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.lab import Lab
from tests.lab.serving import Rayslurm, configure_sites, own_site

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

PARTITIONS = {"roihu": "medium", "mahti": "medium", "puhti": "large", "lumi": "standard"}
DRIVER = """\
import time, ray

@ray.remote(scheduling_strategy="SPREAD")
def burn(seconds):
    while time.process_time() < seconds:
        sum(range(20000))

ray.init(address="auto")
ray.get([burn.remote(6) for _ in range(2)])
time.sleep(3)
"""
GIB = 1024**3


@dataclass(frozen=True)
class Played:
    """The jobs by site, and what LUMI had booked before and after."""

    lab: Lab
    rayslurm: Rayslurm
    ids: dict[str, str]
    before: dict[str, Any]
    after: dict[str, Any]

    def at(self, site: str, command: str) -> str:
        return at(self.lab, site, command)

    def value(self, name: str, site: str, /, **labels: str) -> float | None:
        return self.rayslurm.value(name, site=site, job_id=self.ids[site], **labels)


@pytest.fixture(scope="module")
def played(lab: Lab, ray_venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("played")
    (lab.researcher_home / "driver.py").write_text(DRIVER)
    rayslurm = configure_sites(lab, folder, {site: {} for site in PARTITIONS}, ray=ray_venv)
    project = lab.fact("PROJECT")
    with own_site(lab), rayslurm.serving():
        lab.refresh_balances()
        before = lumi_file(lab, project)
        ids = {}
        for site, partition in PARTITIONS.items():
            spec = {
                "site": site,
                "name": f"as-{site}",
                "entrypoint": f"{ray_venv}/bin/python $HOME/driver.py",
                "cluster": {
                    "nodes": 2, "cpus_per_node": 2, "memory_per_node": "3000M", "object_store_per_node": "200M",
                    "time": "10m", "partition": partition,
                },
            }  # fmt: skip
            (folder / f"{site}.yaml").write_text(yaml.safe_dump(spec))
            launched = rayslurm.json("launch", str(folder / f"{site}.yaml"))
            assert launched["state"] == "submitted"
            ids[site] = launched["job_id"]
        for site, job_id in ids.items():
            job = {"site": site, "job_id": job_id}
            lab.wait(partial(billed, rayslurm, **job), 240, f"the bill of {site} on /metrics", every=1)
            assert rayslurm.value("job_state", **job, state="completed") == 1
        lab.refresh_balances()
        yield Played(lab, rayslurm, ids, before, lumi_file(lab, project))


def at(lab: Lab, site: str, command: str) -> str:
    """Runs a command as the researcher at one of the login node's addresses."""
    return lab.sh(command, f"researcher@{site}", check=True).stdout


def lumi_file(lab: Lab, project: str) -> dict[str, Any]:
    text = at(lab, "lumi", f"cat /var/lib/project_info/users/{project}/{project}.json")
    content: dict[str, Any] = json.loads(text)["billing"]
    return content


def billed(rayslurm: Rayslurm, **labels: str) -> dict[str, float]:
    """Returns a job's bill on /metrics by kind, unit and source."""
    found = {}
    for own, value in rayslurm.samples().get("rayslurm_job_billing_units", {}).items():
        named = dict(own)
        if labels.items() <= named.items():
            found[f"{named['kind']} {named['unit']} {named['source']}"] = value
    return found


@pytest.mark.parametrize("site", ["roihu", "mahti", "puhti"])
def test_at_csc_it_is_what_seff_prints(played: Played, site: str) -> None:
    text = played.at(site, f"seff {played.ids[site]}")
    (units,) = re.findall(r"Job consumed ([\d.]+) CSC billing units", text)
    assert float(units) > 0
    job = {"site": site, "job_id": played.ids[site]}
    assert billed(played.rayslurm, **job) == {"cpu BU seff": float(units)}
    (cpu,) = re.findall(r"CPU Efficiency: ([\d.]+)%", text)
    assert played.value("job_cpu_efficiency_ratio", site, source="seff") == pytest.approx(float(cpu) / 100, abs=1e-12)
    (memory,) = re.findall(r"Memory Efficiency: ([\d.]+)%", text)
    assert played.value("job_memory_efficiency_ratio", site, source="seff") == pytest.approx(
        float(memory) / 100, abs=1e-12
    )
    ((hours, minutes, seconds),) = re.findall(r"CPU Utilized: (\d+):(\d+):(\d+)", text)
    used = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    assert used > 5
    assert played.value("job_cpu_used_seconds", site, source="seff") == used
    ((amount, unit),) = re.findall(r"Memory Utilized: ([\d.]+) ([MG]B)", text)
    peak = played.value("job_memory_peak_bytes", site, source="seff")
    assert peak == pytest.approx(float(amount) * {"MB": 1024**2, "GB": GIB}[unit], rel=1e-12)


def test_on_lumi_it_is_what_the_project_was_charged(played: Played) -> None:
    charged = played.after["cpu_hours"]["used"] - played.before["cpu_hours"]["used"]
    ((name, units),) = billed(played.rayslurm, site="lumi", job_id=played.ids["lumi"]).items()
    assert name == "cpu core-hours formula"
    assert units == pytest.approx(charged, rel=1e-9)
    (row,) = played.lab.sacct(played.ids["lumi"], ["elapsedraw", "alloccpus", "cputimeraw"], "-X")
    assert units == pytest.approx(2 * 128 * int(row["elapsedraw"]) / 3600, rel=1e-9)
    assert row["alloccpus"] == "16", "hardware threads, two a core"
    allocated = played.value("job_cpu_allocated_seconds", "lumi", source="sacct")
    assert allocated == float(row["cputimeraw"]) / 2
    used = played.value("job_cpu_used_seconds", "lumi", source="sacct")
    assert used is not None
    assert used > 5
    assert played.value("job_cpu_efficiency_ratio", "lumi", source="sacct") == pytest.approx(used / allocated)


def test_the_counters_have_each_bill_once(played: Played) -> None:
    counted: dict[str, float] = {}
    for labels, value in played.rayslurm.samples()["rayslurm_billing_units_total"].items():
        site = dict(labels)["site"]
        counted[site] = counted.get(site, 0) + value
    for site, job_id in played.ids.items():
        (units,) = billed(played.rayslurm, site=site, job_id=job_id).values()
        assert counted[site] == pytest.approx(units)


def test_the_balances_are_what_the_providers_print(played: Played) -> None:
    lab, project = played.lab, played.lab.fact("PROJECT")

    def shown(provider: str, kind: str) -> float | None:
        return played.rayslurm.value("allocation_used", provider=provider, project=project, kind=kind)

    lab.wait(lambda: shown("lumi", "cpu") == played.after["cpu_hours"]["used"], 90, "LUMI's balance on /metrics")

    def csc() -> float:
        text = played.at("roihu", f"csc-projects -p {project}")
        ((budget, used, remain),) = re.findall(r"CPU BU: +(-?\d+) +(-?\d+) +(-?\d+)", text)
        assert int(budget) - int(used) == int(remain)
        return float(used)

    lab.wait(lambda: shown("csc", "cpu") == csc(), 90, "CSC's balance on /metrics")
    assert played.rayslurm.value("project_accessible", provider="csc", project=project) == 1
