"""What the sites' commands print of real jobs: read without a warning, and shown on /metrics as it was printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exporter.client.commands import accounting_command, known_fields
from tests.lab.lab import Lab
from tests.lab.serving import Rayslurm, configure_sites, own_site

pytestmark = pytest.mark.timeout(240)

GPU_JOBS = {
    "roihu": ("-p gpumedium -N2 --gpus-per-node=2 --mem=200", 200 * 4),
    "puhti": ("-p gpu -n1 -c2 --gpus-per-node=a100:3 --mem=1G", 60 * 3 + 2 + 0.1),
    "mahti": ("-p gpumedium -n1 --gpus-per-node=a100:1 --mem=200", 100),
    "lumi": ("-p small-g -n1 -c4 --gpus-per-node=2 --mem=2G", 0.5 * 2),
}
"""A job with GPUs at each site, and what it costs an hour by the site's page."""

FOREIGN = "project_2009999"


@dataclass(frozen=True)
class Printed:
    """GPU jobs that ended, by site, and what followed them."""

    lab: Lab
    ids: dict[str, str]
    rayslurm: Rayslurm
    folder: Path

    def at(self, site: str, command: str) -> str:
        return self.lab.sh(command, f"researcher@{site}", check=True).stdout

    def parse(self, kind: str, text: str) -> list[dict[str, Any]]:
        """Reads a text with the command line; nothing of it may be strange."""
        path = self.folder / "printed.txt"
        path.write_text(text)
        parsed = self.rayslurm.json("parse", kind, str(path), "--timezone", "Europe/Helsinki")
        assert parsed["warnings"] == []
        records: list[dict[str, Any]] = parsed["records"]
        return records


@pytest.fixture(scope="module")
def printed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Printed]:
    folder = tmp_path_factory.mktemp("dialects")
    rayslurm = configure_sites(lab, folder, {**{site: {} for site in GPU_JOBS}, "lumi": {"project": FOREIGN}})
    over = lab.path("LAB_RUN") / "areas/scratch" / lab.fact("PROJECT") / "results.bin"
    # Before it is served: the areas are read at once, and then not for hours.
    over.write_bytes(b"x" * 3_000_000)
    lab.change_projects(lambda known: known[lab.fact("PROJECT")]["areas"].update(scratch=[2 << 20, 100]))
    lab.refresh_balances()
    with own_site(lab), rayslurm.serving():
        ids = {}
        for site, (options, _) in GPU_JOBS.items():
            wrap = "'sleep 20; python3 -c \"sum(range(30_000_000))\"'"
            submit = f"sbatch --parsable -o /dev/null -t 5 {options} --wrap {wrap}"
            ids[site] = lab.sh(submit, f"researcher@{site}", check=True).stdout.strip()
            rayslurm.run("track", f"{site}/{ids[site]}")
        for site, job_id in ids.items():
            lab.wait(
                lambda site=site, job_id=job_id: bill(rayslurm, site, job_id),  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                120,
                f"the bill of {site}",
            )
        lab.refresh_balances()
        yield Printed(lab, ids, rayslurm, folder)
        over.unlink()
        lab.change_projects(lambda known: known[lab.fact("PROJECT")]["areas"].update(scratch=[1 << 40, 1_000_000]))


def bill(rayslurm: Rayslurm, site: str, job_id: str) -> dict[str, float]:
    found = {}
    for labels, value in rayslurm.samples().get("rayslurm_job_billing_units", {}).items():
        named = dict(labels)
        if (named["site"], named["job_id"]) == (site, job_id):
            found[f"{named['kind']} {named['unit']} {named['source']}"] = value
    return found


def hours(printed: Printed, site: str) -> float:
    (row,) = printed.lab.sacct(printed.ids[site], ["elapsedraw", "alloctres"], "-X")
    assert "gres/gpu=" in row["alloctres"], "the lab gave it GPUs"
    return int(row["elapsedraw"]) / 3600


@pytest.mark.parametrize("site", ["roihu", "mahti", "puhti"])
def test_a_gpu_jobs_bill_at_csc(printed: Printed, site: str) -> None:
    text = printed.at(site, f"seff {printed.ids[site]}")
    (total,) = re.findall(r"^Job consumed ([\d.]+) CSC billing units", text, re.MULTILINE)
    assert float(total) == pytest.approx(GPU_JOBS[site][1] * hours(printed, site), abs=0.005001)
    (record,) = printed.parse("seff", text)
    assert record["cluster"] == site
    assert record["billing_units"] == float(total)
    assert sum(record["billing_components"].values()) == pytest.approx(float(total), abs=0.02)
    assert record["billed_project"] == printed.lab.fact("PROJECT")
    assert bill(printed.rayslurm, site, printed.ids[site]) == {"gpu BU seff": float(total)}


def test_a_gpu_jobs_bill_on_lumi(printed: Printed) -> None:
    found = bill(printed.rayslurm, "lumi", printed.ids["lumi"])
    assert found == {"gpu gpu-hours formula": pytest.approx(GPU_JOBS["lumi"][1] * hours(printed, "lumi"))}
    project = printed.lab.fact("PROJECT")
    path = f"/var/lib/project_info/users/{project}/{project}.json"
    charged = json.loads(printed.at("lumi", f"cat {path}"))["billing"]["gpu_hours"]["used"] - 12
    assert charged >= found["gpu gpu-hours formula"] * (1 - 1e-9), "other tests may have run some there too"


def test_balances_are_read_as_printed(printed: Printed) -> None:
    project = printed.lab.fact("PROJECT")
    records = printed.parse("csc-projects", printed.at("roihu", f"csc-projects -p {project}"))
    kinds = {record["kind"]: record for record in records}
    assert set(kinds) == {"cpu", "gpu", "storage", "cloud"}
    assert kinds["cpu"]["granted"] == 60000
    assert kinds["gpu"]["used"] >= 30
    records = printed.parse("lumi-allocations", printed.at("lumi", f"lumi-allocations -p {project}"))
    assert {record["unit"]: record["granted"] for record in records} == {
        "core-hours": 10000, "gpu-hours": 300, "TB-hours": 10,
    }  # fmt: skip


def test_a_project_that_is_none_of_ours_is_told_so(printed: Printed) -> None:
    lab, rayslurm = printed.lab, printed.rayslurm
    done = lab.sh(f"lumi-allocations -p {FOREIGN}", "researcher@lumi")
    assert (done.returncode, done.stdout) == (0, ""), "LUMI's errors have exit status 0"
    lab.wait(lambda: rayslurm.value("project_accessible", provider="lumi", project=FOREIGN) == 0, 60, "no access")
    assert rayslurm.value("allocation_used", provider="lumi", project=FOREIGN, kind="cpu") is None
    assert rayslurm.value("probe_success", site="lumi", probe="balances") == 1
    ours = {"provider": "lumi", "project": lab.fact("PROJECT")}
    lab.wait(lambda: rayslurm.value("project_accessible", **ours) == 1, 90, "our own project, known by its job")


@pytest.mark.parametrize(
    ("site", "kind", "files"),
    [
        ("roihu", "csc-workspaces", 1),
        ("mahti", "csc-workspaces", 0),  # in thousands, with two decimals
        ("puhti", "csc-workspaces", 1),
        ("lumi", "lumi-workspaces", 1),
    ],
)
def test_disk_areas_are_read_as_printed(printed: Printed, site: str, kind: str, files: int) -> None:
    text = printed.at(site, kind)
    assert re.search(r"[\d.]+M\*/2", text), "over its quota"
    scratch = f"/scratch/{printed.lab.fact('PROJECT')}"
    area = {record["path"]: record for record in printed.parse(kind, text)}[scratch]
    assert area["over_quota"] is True
    assert (area["used_files"], area["limit_bytes"]) == (files, 2 << 20)
    shown = printed.rayslurm.value("storage_used_bytes", site=site, area=scratch)
    assert shown == pytest.approx(3_000_000, rel=0.05)


@pytest.mark.parametrize("site", ["roihu", "lumi"])
def test_the_newer_names_of_fields(printed: Printed, site: str) -> None:
    fields = known_fields(printed.at(site, "sacct --helpformat"))
    assert {"Planned", "PlannedCPURAW"} <= set(fields)
    text = printed.at(site, accounting_command([printed.ids[site]], fields, duplicates=False))
    (record,) = printed.parse("sacct", text)
    assert record["planned_seconds"] is not None
    refused = printed.lab.sh(f"sacct -j {printed.ids[site]} -o jobid,Reserved", f"researcher@{site}")
    assert refused.returncode == 1
    assert "Invalid field" in refused.stderr


def test_the_site_logs_what_it_was_asked(printed: Printed) -> None:
    before = len(printed.lab.site_log())
    printed.at("puhti", "squeue --me -o '%i %j'")
    (entry,) = [line for line in printed.lab.site_log()[before:] if line.address == "puhti" and "-o" in line.arguments]
    assert (entry.user, entry.program, entry.arguments) == ("researcher", "squeue", ("--me", "-o", "%i %j"))
