"""Campaigns' files: what is wrong is said with file, line, key and cure; and the command line around them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exporter.campaigns.model import Campaign, read_campaign, schema
from exporter.cli.main import app
from exporter.config import Config
from exporter.data import data_path
from exporter.errors import ConfigError
from exporter.store import campaigns
from exporter.store.db import Store

SPEC = """\
site: puhti2
cluster:
  cpus_per_node: 4
  memory_per_node: 16G
  time: 1h
entrypoint: python train.py
"""
GOOD = SPEC + "schedule: {cron: '30 3 * * *', timezone: Europe/Helsinki}\n"

TENTHS = list(range(10))
BROKEN = {
    "two-ways": (
        "schedule: {cron: '0 3 * * *', every: 6h}",
        ':7: schedule: write either cron, such as "30 3 * * *", or every, such as 6h',
    ),
    "four-fields": (
        "schedule: {cron: '30 3 * *'}",
        ":7: schedule: cron: has five fields: minute, hour, day of the month, month, day of the week",
    ),
    "no-such-minute": ("schedule: {cron: '61 3 * * *'}", ":7: schedule: cron: bad minute; see crontab(5)"),
    "too-often": ("schedule: {cron: '* * * * *'}", ":7: schedule: cron: comes more often than every 5 minutes"),
    "no-unit": ("schedule: {every: 60}", ":7: schedule.every: write a length of time with its unit, such as 90s"),
    "no-such-zone": (
        "schedule:\n  every: 6h\n  timezone: Europe/Helsinky",
        ":9: schedule.timezone: is no time zone that this machine knows; write one such as Europe/Helsinki",
    ),
    "ends-before": (
        "schedule: {every: 6h}\nstart: 2026-12-02\nend: 2026-12-01",
        ":1: (top level): end: is not after start; a day named as end is the first without a run",
    ),
    "misspelt": (
        "schedule: {every: 6h}\nconcurency: queue",
        ":8: concurency: is not a key that rayslurm knows; did you mean `concurrency`?",
    ),
    "word": (
        "schedule: {every: 6h}\nmissed: never",
        ":8: missed: Input should be 'skip' or 'once' (got 'never')",
    ),
    "parameter": (
        "schedule: {every: 6h}\nmatrix: {LEARNING RATE: [0.1]}",
        ":8: matrix.LEARNING RATE",
    ),
    "too-many": (
        f"schedule: {{every: 6h}}\nmatrix: {{A: {TENTHS}, B: {TENTHS}, C: {[*TENTHS, 11]}}}",
        ":1: (top level): matrix: makes 1100 jobs a run; 1000 is the most",
    ),
    "no-schedule": ("paused: true", ":1: schedule: is missing; add it"),
}  # fmt: skip


@pytest.fixture
def folder(config: Config) -> Path:
    assert config.campaigns_dir is not None
    config.campaigns_dir.mkdir()
    return config.campaigns_dir


@pytest.fixture
def rayslurm(config_path: Path) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, [*words, "--config", str(config_path)])
        said = done.stderr + (f"{type(done.exception).__name__}: {done.exception}" if done.exception else "")
        return getattr(done.exception, "exit_code", done.exit_code), done.stdout, said

    return run


Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_said_so_that_it_can_be_mended(name: str, folder: Path, rayslurm: Command) -> None:
    more, expected = BROKEN[name]
    path = folder / f"{name}.yaml"
    path.write_text(SPEC + more + "\n")
    (folder / "good.yaml").write_text(GOOD)
    status, out, said = rayslurm("campaigns", "check")
    assert status == 2
    assert f"{path}{expected}" in said
    assert out.startswith("good: good; 30 3 * * * Europe/Helsinki on puhti2, one job a run\n")


def test_a_site_that_is_not_configured_is_named(folder: Path, rayslurm: Command) -> None:
    (folder / "a.yaml").write_text(GOOD.replace("puhti2", "lumi"))
    status, _, said = rayslurm("campaigns", "check")
    assert (status, f"{folder}/a.yaml: site lumi is not in the configuration; it has: puhti2" in said) == (2, True)


def test_a_good_one_shows_its_next_ten_times_in_its_zone(folder: Path, rayslurm: Command) -> None:
    (folder / "nightly.yaml").write_text(GOOD + "matrix: {SEED: [1, 2, 3]}\nat_once: 2\n")
    status, out, _ = rayslurm("campaigns", "check")
    first, price, *rest = out.splitlines()
    assert status == 0
    assert first == "nightly: good; 30 3 * * * Europe/Helsinki on puhti2, 3 jobs a run, at most 2 at once"
    assert price == "  what a run costs isn't known: no rate is known for the site slurm"
    assert len(rest) == 10
    assert all(" 03:30 EE" in line for line in rest)
    told = json.loads(rayslurm("campaigns", "check", "--json")[1])["campaigns"][0]
    assert (told["jobs_per_run"], len(told["next_runs"])) == (3, 10)


def test_it_says_what_a_run_costs_at_most(config_path: Path, folder: Path, rayslurm: Command) -> None:
    config_path.write_text(
        config_path.read_text().replace("partition: small", "partition: standard\n    profile: lumi")
    )
    (folder / "nightly.yaml").write_text(GOOD + "matrix: {SEED: [1, 2, 3]}\n")
    status, out, _ = rayslurm("campaigns", "check")
    assert (status, out.splitlines()[1]) == (
        0,
        "  a run costs at most 384.00 cpu core-hours, all its jobs at their time limits",
    )
    told = json.loads(rayslurm("campaigns", "check", "--json")[1])["campaigns"][0]["price_per_run"]
    assert (told["units"], told["kind"], told["unit"]) == (384.0, "cpu", "core-hours")


def test_what_is_read_is_listed_paused_and_resumed(folder: Path, store: Store, rayslurm: Command) -> None:
    path = folder / "nightly.yaml"
    path.write_text(GOOD)
    assert "not read yet by `rayslurm serve`: nightly.yaml" in rayslurm("campaigns", "list")[2]
    status, _, said = rayslurm("campaigns", "pause", "nightly")
    assert (status, "has read no campaign nightly; it knows none yet" in said) == (3, True)
    store.write(
        lambda connection: campaigns.keep(
            connection, name="nightly", site="puhti2", file=str(path), text=GOOD,
            schedule="30 3 * * * Europe/Helsinki", paused=False, next_due=None, now=1.0,
        )
    )  # fmt: skip
    assert rayslurm("campaigns", "pause", "nightly")[0] == 0
    assert [one["state"] for one in json.loads(rayslurm("campaigns", "list", "--json")[1])["campaigns"]] == ["paused"]
    assert rayslurm("campaigns", "resume", "nightly")[0] == 0
    (listed,) = json.loads(rayslurm("campaigns", "list", "--json")[1])["campaigns"]
    assert (listed["state"], listed["schedule"]) == ("idle", "30 3 * * * Europe/Helsinki")
    assert "nightly" in rayslurm("campaigns", "list")[1]
    assert json.loads(rayslurm("campaigns", "history", "nightly", "--json")[1]) == []


def test_parameters_reach_a_job_as_its_environment(tmp_path: Path) -> None:
    campaign = read_campaign(GOOD + "matrix: {LR: [0.1, 1], FAST: [true]}\nray: {env: {X: y}}\n", tmp_path / "a.yaml")
    envs = [campaign.spec(point).ray.env for point in campaign.points()]
    assert envs == [{"X": "y", "LR": "0.1", "FAST": "true"}, {"X": "y", "LR": "1", "FAST": "true"}]
    assert campaign.name == "a"
    with pytest.raises(ConfigError, match=r"matrix\.X: stands in ray\.env too"):
        read_campaign(GOOD + "matrix: {X: [1]}\nray: {env: {X: y}}\n", tmp_path / "a.yaml")


@pytest.mark.parametrize("path", sorted(data_path("jobs", "campaigns").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_good_and_launch_nothing_by_themselves(path: Path) -> None:
    campaign = read_campaign(path.read_text(), path)
    assert campaign.paused
    assert path.read_text().startswith("# yaml-language-server: $schema=campaign.schema.json\n")


def test_the_schema_for_editors_is_the_models() -> None:
    path = data_path("jobs", "campaigns", "campaign.schema.json")
    assert json.loads(path.read_text()) == schema(), "make render writes it anew"
    assert "schedule" in schema()["required"]
    assert set(Campaign.model_fields) == set(schema()["properties"])
