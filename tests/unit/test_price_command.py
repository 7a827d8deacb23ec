"""`rayslurm price`, and the price that `render` and a dry run show: as the contract has it, and as people read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exporter.sites import profiles
from exporter.sites.rates import rule
from tests.unit.test_cli import run


def priced(*options: str, config: Path | None = None) -> dict[str, Any]:
    done = run("price", *options, "--json", config=config)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert {"units", "kind", "unit", "rule", "source", "components"} <= set(found)
    assert sum(part["units"] for part in found["components"]) == pytest.approx(found["units"], rel=1e-12)
    return found


@pytest.mark.parametrize(
    ("options", "units", "kind", "unit"),
    [
        ("--site roihu --partition medium --nodes 1 --time 00:09:39", 46.32, "cpu", "BU"),
        ("--site mahti --partition medium --nodes 2 --time 00:06:49", 22.72, "cpu", "BU"),
        ("--site puhti --partition gpu --gpus 1 --time 18:07:40", 1087.67, "gpu", "BU"),
        ("--site puhti --partition gpu --gpus 1 --cpus 1 --memory 5000M --time 18:07:40", 1114.65, "gpu", "BU"),
        ("--site lumi --partition standard --nodes 2 --time 1-00:00:00", 6144, "cpu", "core-hours"),
        ("--site lumi --partition small-g --gpus 2 --cpus 9 --memory 65GiB --time 1h", 1, "gpu", "gpu-hours"),
        ("--site mahti -p gpusmall --gpus a100_1g.5gb:2 --nvme 100 -t 60m", 31, "gpu", "BU"),
        ("--site mahti -p gpusmall --gpus a100:1,a100_1g.5gb:1 -t 1-00", 2760, "gpu", "BU"),
        ("--site roihu -p small --cpus 1 --nvme 50G -t 1h", 1.75, "cpu", "BU"),
        ("--site roihu -p medium --nodes 1 --exclusive -t 1h", 288, "cpu", "BU"),
    ],
)
def test_amounts_are_totals_and_what_is_left_out_is_not_counted(
    options: str, units: float, kind: str, unit: str
) -> None:
    found = priced(*options.split())
    assert (round(found["units"], 2), found["kind"], found["unit"]) == (units, kind, unit)


@pytest.mark.parametrize("memory", ["64G", "64GB", "64GiB"])
def test_a_g_of_memory_is_1024_cubed(memory: str) -> None:
    assert priced("--site", "roihu", "-p", "small", "--memory", memory, "-t", "1h")["units"] == 24


def test_every_rate_of_the_sites_stands_as_their_pages_have_it() -> None:
    written = {
        f"{profile.name} {' '.join(rate.partitions)}": f"{rule(rate)} {rate.kind} {rate.unit}"
        for profile in profiles().values()
        for rate in profile.rates
    }
    small = "max(cores, ceil(GiB/2)) cpu core-hours"
    shared = "cores + 0.1 * GiB + 0.006 * NVMe GiB"
    assert written == {
        "roihu test small longrun interactive": "max(0.75 * cores, 0.375 * GiB) + 0.02 * NVMe GiB cpu BU",
        "roihu hugemem hugemem_longrun": "max(12 * cores, 0.25 * GiB) + 0.02 * NVMe GiB cpu BU",
        "roihu medium large": "288 * nodes + 0.02 * NVMe GiB cpu BU",
        "roihu gputest gpumedium gpularge": "200 * GPUs + 0.02 * NVMe GiB gpu BU",
        "mahti medium large": "100 * nodes cpu BU",
        "mahti small": "cores + 0.01 * NVMe GiB cpu BU",
        "mahti gputest gpusmall gpumedium": "100 * GPUs + 15 * a100_1g.5gb + 0.01 * NVMe GiB gpu BU",
        "puhti test interactive small large longrun hugemem": f"{shared} cpu BU",
        "puhti gputest gpu": f"60 * GPUs + {shared} gpu BU",
        "lumi standard": "128 * nodes cpu core-hours",
        "lumi small debug": small,
        "lumi standard-g": "4 * nodes gpu gpu-hours",
        "lumi small-g dev-g": "0.5 * max(ceil(cores/8), ceil(GiB/64), GPUs) gpu gpu-hours",
    }


def test_people_read_what_it_is_made_of() -> None:
    done = run("price", *"--site puhti -p gpu --gpus 1 --cpus 1 --memory 5000M -t 18:07:40".split())
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "1114.65 gpu BU",
        "  gpus: 1087.67",
        "  cores: 18.13",
        "  memory: 8.85",
        "61.49 an hour: 60 * GPUs + cores + 0.1 * GiB + 0.006 * NVMe GiB (CSC user guide, billing, 2026-08-21)",
    ]
    assert "puhti closed on 2026-07-31" in done.stderr, "a closed site answers too"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--site puti -p small", ["no site is named puti", "lumi, mahti, puhti, roihu, slurm"]),
        ("--site roihu -p smal", ["there is no partition smal", "test, small, longrun"]),
        ("--site mahti -p interactive", ["no rate is known for partition interactive", "medium, large, small"]),
        ("--site slurm -p any", ["Slurm's billing TRES", "sites.slurm.rates"]),
        ("--site puhti -p small --exclusive", ["how many CPU cores a node of small has", "--cpus"]),
        ("--site lumi -p small,small-g --cpus 1", ["it may be paid in cpu core-hours or in gpu gpu-hours"]),
        ("--site puhti -p small --memory 5", ["write an amount with its unit"]),
        ("--site puhti -p gpu --gpus v100:", ["write a number such as 4"]),
        ("--site puhti -p gpu -t 60", ["02:00:00"]),
        ("--site puhti -p gpu --cpus -1", ["--cpus"]),
    ],
)
def test_what_cannot_be_told_says_why_and_what_would_do(options: str, words: list[str]) -> None:
    options = options if "-t" in options else f"{options} -t 1h"
    done = run("price", *options.split())
    assert (done.returncode, done.stdout) == (2, "")
    told = " ".join(done.stderr.replace("│", " ").split())
    for word in words:
        assert word in told


def test_what_nobody_named_is_pointed_out() -> None:
    done = run("price", *"--site roihu -p medium --cpus 384 -t 1h".split())
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "0.00 cpu BU")
    assert "nothing was named that medium is paid by: give --nodes" in done.stderr


RATES = """\
    rates:
      mine: {partitions: [small], kind: cpu, unit: core-hours, parts: [{of: cores, times: 2}]}
    partitions: {small: {max_cpus_per_node: 40}}
    ssh:
"""


def test_rates_of_the_configuration_count(config_path: Path) -> None:
    config_path.write_text(config_path.read_text().replace("    ssh:\n", RATES))
    own = ("--site", "puhti2", "-p", "small", "-t", "1h")
    assert priced(*own, "--cpus", "4", config=config_path)["units"] == 8
    assert priced(*own, "--nodes", "2", "--exclusive", config=config_path)["units"] == 160
    assert priced("--site", "roihu", "-p", "medium", "--nodes", "1", "-t", "1h", config=config_path)["units"] == 288
    unknown = run("price", "--site", "x", "-p", "small", "-t", "1h", config=config_path)
    assert "puhti2" in unknown.stderr


def test_a_configuration_that_was_named_must_be_right(config_path: Path) -> None:
    config_path.write_text("sites: 5\n")
    asked = ("--site", "roihu", "-p", "medium", "--nodes", "1", "-t", "1h")
    assert run("price", *asked, config=config_path).returncode == 2
    assert run("price", *asked, "--config", str(config_path.parent / "none.yaml")).returncode == 2


def test_one_that_lies_about_does_not_stand_in_the_way(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".config/rayslurm").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    asked = ("--site", "puhti", "-p", "small", "--cpus", "1", "-t", "1h")
    usual = home / ".config/rayslurm/rayslurm.yaml"
    usual.write_text("sites: 5\n")
    done = run("price", *asked)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "1.00 cpu BU")
    assert f"{usual} can't be used, so the site file's rates count" in done.stderr
    usual.write_text(config_path.read_text().replace("puhti2", "puhti").replace("    ssh:\n", RATES))
    assert priced(*asked)["units"] == 2


SPEC = "site: puhti2\nname: train\ncluster: {nodes: 2, cpus_per_node: 4, memory_per_node: 16G, time: 1h}\n"


def test_render_and_a_dry_run_show_the_price_at_the_limit(config_path: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    for command in (["render"], ["launch", "--dry-run"]):
        unknown = run(*command, str(tmp_path / "spec.yaml"), config=config_path)
        assert unknown.returncode == 0
        assert "what it costs isn't known: no rate is known for the site slurm" in unknown.stderr
    config_path.write_text(
        config_path.read_text().replace("    ssh:\n", "    profile: puhti\n    closed: false\n    ssh:\n")
    )
    for command in (["render"], ["launch", "--dry-run"]):
        done = run(*command, str(tmp_path / "spec.yaml"), config=config_path)
        assert "at its time limit it costs 11.20 cpu BU (cores 8.00, memory 3.20" in done.stderr
        shown = json.loads(run(*command, str(tmp_path / "spec.yaml"), "--json", config=config_path).stdout)
        assert (shown["price"]["units"], shown["price"]["unit"], shown["refused"]) == (11.2, "BU", None)


def test_a_dry_run_shows_all_that_stands_against_it(config_path: Path, tmp_path: Path) -> None:
    config_path.write_text(config_path.read_text().replace("    ssh:\n", "    profile: roihu\n    ssh:\n"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code/id_rsa").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    (tmp_path / "spec.yaml").write_text(f"{SPEC}bring: [code]\n")
    done = run("launch", str(tmp_path / "spec.yaml"), "--dry-run", "--json", config=config_path)
    assert done.returncode == 4
    shown = json.loads(done.stdout)
    assert "#SBATCH --nodes=2" in shown["job.sbatch"]
    assert shown["price"]["units"] == 12
    for told in (shown["refused"], done.stderr):
        assert "partition small takes at most 1 node a job" in told
        assert "looks like a secret" in told
