"""The command line as a person or a program meets it: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exporter.config import Config, load_config
from exporter.launch.spec import load_spec
from exporter.owner.lock import OwnerLock
from exporter.store import following, jobs, requests, submissions, tunnels
from exporter.store.db import Store
from exporter.store.tunnels import Health
from tests.slurm_texts import finished, sacct, squeue

RAYSLURM = [sys.executable, "-m", "exporter.cli.entry"]
SPEC = (
    "site: puhti2\nname: train\ncluster: {nodes: 2, cpus_per_node: 4, memory_per_node: 16G, time: 1h}\n"
    "entrypoint: python train.py\n"
)


def run(*arguments: str, config: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAYSLURM")}
    if config is not None:
        environment["RAYSLURM_CONFIG"] = str(config)
    return subprocess.run(
        [*RAYSLURM, *arguments], input=stdin, capture_output=True, text=True, env=environment, timeout=60, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_parse_needs_no_configuration_and_prints_json() -> None:
    done = run("parse", "sacct", "--json", stdin=sacct(*finished("77"), *finished("78_3", "TIMEOUT")))
    assert done.returncode == 0, done.stderr
    parsed = json.loads(done.stdout)
    assert set(parsed) == {"records", "warnings"}
    assert [(record["job_id"], record["state"]) for record in parsed["records"]] == [
        ("77", "COMPLETED"), ("78_3", "TIMEOUT"),
    ]  # fmt: skip
    assert parsed["records"][0]["steps"][0]["job_id"] == "77.batch"
    assert parsed["warnings"] == []


def test_a_disk_that_is_full_is_no_fault_of_the_text() -> None:
    with Path("/dev/full").open("w", encoding="ascii") as full:
        done = subprocess.run(
            [*RAYSLURM, "parse", "sacct"], input=sacct(*finished("77")), stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=60, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "rayslurm: [Errno 28] No space left on device\n")


def test_a_state_folder_that_is_none_is_told_by_every_command(config_path: Path, tmp_path: Path) -> None:
    folder = load_config(config_path).state_dir
    assert not folder.exists()
    folder.write_text("a file")
    for command in ("costs", "status", "connect 77", "store check"):
        done = run(*command.split(), config=config_path)
        assert done.returncode == 1, command
        assert str(folder) in done.stderr
        assert "Traceback" not in done.stderr


def test_parse_reads_a_file_too_and_local_times_in_the_zone_named(tmp_path: Path) -> None:
    text = "JobID|State|Submit\n5|RUNNING|2026-07-01T12:00:00\n"
    (tmp_path / "sacct.txt").write_text(text)
    utc = run("parse", "sacct", str(tmp_path / "sacct.txt"), "--json")
    helsinki = run("parse", "sacct", str(tmp_path / "sacct.txt"), "--json", "--timezone", "Europe/Helsinki")
    times = [json.loads(done.stdout)["records"][0]["submit_time"] for done in (utc, helsinki)]
    assert times[0] - times[1] == 3 * 3600


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "said"),
    [
        (("parse", "sacct"), "Job ID: 5\nState: COMPLETED\n", 3, "Job ID: 5"),
        (("parse", "squeue"), "<html>\n", 3, "<html>"),
        (("parse", "nonsense"), "", 2, "is none of: "),
        (("parse", "sacct", "/no/such/file"), "", 3, "/no/such/file: No such file or directory"),
        (("parse", "sacct", "--timezone", "Mars"), squeue(), 2, "is no time zone"),
        (("status", "--config", "/no/such.yaml"), "", 2, "/no/such.yaml: no such file"),
        (("cancel",), "", 2, "Missing argument"),
        (("fly",), "", 2, "No such command"),
    ],
)
def test_what_cannot_be_done_ends_with_one_message_and_its_status(
    arguments: tuple[str, ...], stdin: str, status: int, said: str
) -> None:
    done = run(*arguments, stdin=stdin)
    assert done.returncode == status, done
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_config_check(config_path: Path, config: Config) -> None:
    done = run("config", "check", config=config_path)
    assert (done.returncode, done.stdout) == (0, f"{config_path}: all is well; sites: puhti2\n")
    key = config.site("puhti2").settings.ssh.key
    assert key is not None
    key.chmod(0o644)
    done = run("config", "check", config=config_path)
    assert done.returncode == 2
    assert "chmod 600" in done.stderr
    done = run("config", "check", "--json", config=config_path)
    assert done.returncode == 2
    assert "chmod 600" in json.loads(done.stdout)["faults"][0]


def test_a_dry_run_shows_the_script_and_touches_nothing(config_path: Path, config: Config, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    done = run("launch", str(tmp_path / "spec.yaml"), "--dry-run", config=config_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n")
    assert "#SBATCH --nodes=2" in done.stdout
    assert "dry run: nothing was submitted" in done.stderr
    assert not config.state_dir.exists()
    plan = run("launch", str(tmp_path / "spec.yaml"), "--dry-run", "--json", config=config_path)
    assert json.loads(json.loads(plan.stdout)["plan.json"])["entrypoint"] == "python train.py"


def test_a_launch_that_cannot_reach_the_site_says_why(config_path: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    done = run("launch", str(tmp_path / "spec.yaml"), config=config_path)
    assert done.returncode == 1
    assert "login.example.org" in done.stderr
    assert done.stdout == ""
    shown = json.loads(run("status", "--json", config=config_path).stdout)
    assert [(row["state"], row["error"][:21]) for row in shown.pop("absent")] == [("absent", "nothing was submitted")]
    assert shown == {
        "jobs": [],
        "maintenance": {"puhti2": []},
        "omitted": 0,
        "unsettled": [],
        "troubled": [],
        "balances": [],
    }


def test_status_shows_what_was_last_seen(config_path: Path, store: Store) -> None:
    store.write(lambda connection: jobs.track(connection, "puhti2", "77", now=1.0))
    store.write(lambda connection: following.apply_accounting(connection, "puhti2", "77", [], frozenset(), now=2.0))
    done = run("status", config=config_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split()[:3] == ["JOB", "NAME", "STATE"]
    assert done.stdout.splitlines()[1].split()[:3] == ["puhti2/77", "?", "unknown"]
    assert json.loads(run("status", "--json", config=config_path).stdout)["jobs"][0]["state"] == "unknown"


def test_status_shows_how_the_tunnel_was_found(config_path: Path, store: Store) -> None:
    def launched(connection: sqlite3.Connection) -> None:
        submissions.intend(
            connection, token="abc", site="puhti2", campaign="", name="train", run_dir="x", now=1.0, spec={},
            tunnels={"dashboard": [8100]},
        )  # fmt: skip
        submissions.submitted(connection, "abc", "77", now=2.0)
        connection.execute("UPDATE jobs SET state = 'running'")

    def line() -> str:
        return run("status", config=config_path).stdout.splitlines()[1]

    def found(state: str, ago: float) -> None:
        now = time.time()
        health = Health("puhti2", "77", "dashboard", state, now - ago, 0.1, now + 600)
        store.write(lambda connection: tunnels.keep(connection, [health]))

    store.write(launched)
    found("refused", 0)
    assert "127.0.0.1:8100  refused (never up)  " in line()
    found("up", 60)
    assert "127.0.0.1:8100  up  " in line()
    found("target_down", 0)
    assert "target_down (up 1m ago)" in line()
    told = json.loads(run("status", "--json", config=config_path).stdout)["jobs"][0]["tunnel"]
    assert (told["state"], told["tunnel"]) == ("target_down", "dashboard")
    assert told["at"] - told["last_success"] == pytest.approx(60, abs=10)


@pytest.mark.parametrize(
    ("job", "status", "said"),
    [
        ("puhti2/4711_3", 1, "login.example.org"),
        ("lumi/4711", 2, "site lumi is not in the configuration; it has: puhti2"),
        ("puhti2/abc", 3, "is no job id"),
        ("puhti2/123abc", 3, "is no job id"),
    ],
)
def test_nothing_is_followed_that_the_site_does_not_know(
    config_path: Path, store: Store, job: str, status: int, said: str
) -> None:
    done = run("track", job, config=config_path)
    assert done.returncode == status
    assert said in done.stderr
    with store.snapshot() as connection:
        assert jobs.open_tracked(connection, "puhti2") == []


def test_a_cancel_asks_first(config_path: Path, store: Store) -> None:
    done = run("cancel", "puhti2/77", config=config_path, stdin="n\n")
    assert done.returncode == 1
    assert "Cancel job 77 on puhti2?" in done.stderr
    with store.snapshot() as connection:
        assert requests.waiting(connection) == []


def test_where_serve_runs_it_is_asked_and_answers(config_path: Path, config: Config, store: Store) -> None:
    with OwnerLock(config.state_dir, "serve"):
        asking = subprocess.Popen(
            [*RAYSLURM, "cancel", "puhti2/77", "--yes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "RAYSLURM_CONFIG": str(config_path)}, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        with asking:
            waiting: list[requests.Request] = []
            while not waiting and asking.poll() is None:
                with store.snapshot() as connection:
                    waiting = requests.waiting(connection)
            assert [(request.kind, request.payload) for request in waiting] == [("cancel", {"job_id": "77"})]
            assert store.write(lambda connection: requests.take(connection, waiting[0].id, now=1.0)) is not None
            outcome = {"error": "budget used up", "exit_code": 4}
            store.write(lambda connection: requests.finish(connection, waiting[0].id, "failed", outcome, now=2.0))
            out, err = asking.communicate(timeout=30)
    assert (asking.returncode, out) == (4, "")
    assert "rayslurm: budget used up" in err


def test_a_key_still_names_its_job_when_the_site_has_closed(config_path: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    spec = load_spec(tmp_path / "spec.yaml").model_dump(mode="json")
    resolved = spec | {"project": "project_2001234", "partition": "small"}
    store.write(
        lambda connection: submissions.intend(
            connection, token="abcdefghjkmn", site="puhti2", campaign="", name="train", spec=resolved, run_dir="x",
            tunnels={}, now=1.0, key="night",
        )
    )  # fmt: skip
    store.write(lambda connection: submissions.submitted(connection, "abcdefghjkmn", "4711", now=2.0))
    config_path.write_text(config_path.read_text().replace("    project:", "    closed: 2020-01-01\n    project:"))
    assert run("launch", str(tmp_path / "spec.yaml"), config=config_path).returncode == 4
    done = run("launch", str(tmp_path / "spec.yaml"), "--key", "night", config=config_path)
    assert (done.returncode, done.stdout) == (0, "puhti2/4711\n"), done.stderr
    assert "nothing was submitted: with this key job 4711" in done.stderr
