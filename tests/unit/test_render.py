"""What a launch would send, shown; and how it differs from what was last sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.client.commands import submit_command
from exporter.client.replay import Exchange
from exporter.config import Config, load_config
from exporter.launch.launcher import Launcher
from exporter.launch.sent import alike, difference, kept, package
from exporter.launch.spec import load_spec
from exporter.store import submissions
from exporter.store.db import Store
from tests.unit.conftest import Clock, MakeSite

SPEC = (
    "site: puhti2\nname: train\ncluster: {nodes: 2, cpus_per_node: 4, memory_per_node: 16G, time: 1h}\n"
    "entrypoint: python train.py\n"
)


@pytest.fixture
def spec_path(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def render(spec: Path, *arguments: str, config: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAYSLURM")}
    return subprocess.run(
        [sys.executable, "-m", "exporter.cli.entry", "render", str(spec), *arguments],
        env=environment | {"RAYSLURM_CONFIG": str(config)}, capture_output=True, text=True, timeout=60, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_it_shows_exactly_what_a_launch_sends(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec_path: Path, config_path: Path
) -> None:
    shown = json.loads(render(spec_path, "--json", config=config_path).stdout)
    context, transport = make_site([Exchange("submit", "4711\n")])
    submission = Launcher(config, store, clock).launch(context.client, load_spec(spec_path))

    def as_rendered(content: bytes) -> str:
        text = content.decode().replace(submission.run_dir, "rayslurm/train-TOKEN")
        return text.replace(submission.token, "TOKEN")

    files = {file["name"]: file for file in shown["files"]}
    sent = {path.rpartition("/")[2]: content for path, content in transport.files.items()}
    assert set(files) == set(sent) - {"manifest.json"}, "which says when it was"
    for name in ("job.sbatch", "plan.json", "known_hosts"):
        assert files[name]["text"] == as_rendered(sent[name])
    assert files["ray_job.py"]["text"].startswith("sha256:")
    assert files["ray_auth_token"] == {"name": "ray_auth_token", "mode": "0600", "text": None}
    assert files["plan.json"]["mode"] == "0600"
    assert shown["folder"] == "rayslurm/train-TOKEN"
    assert shown["command"] in submit_command("x", "job.sbatch", 9).replace('"$1"', "job.sbatch")
    assert (shown["warnings"], shown["refused"]) == ([], None)


def test_what_would_be_brought_along_is_listed(config_path: Path, spec_path: Path) -> None:
    (spec_path.parent / "code").mkdir()
    (spec_path.parent / "code/train.py").write_text("print(1)\n")
    spec_path.write_text(f"{SPEC}bring: [code]\n")
    assert json.loads(render(spec_path, "--json", config=config_path).stdout)["bring"] == {
        "bytes": 9, "files": [{"path": "code/train.py", "size": 9, "mode": "0644"}],
    }  # fmt: skip
    shown = render(spec_path, config=config_path).stdout
    assert shown.endswith("\n\n==> work/ brought along: 1 file, 9 bytes <==\n0644            9 code/train.py\n")
    (spec_path.parent / "code/.env").write_text("TOKEN=1")
    done = render(spec_path, config=config_path)
    assert done.returncode == 0
    assert "`rayslurm launch` would refuse this: bring: " in done.stderr
    assert "code/.env: looks like a secret" in done.stderr


def test_people_see_every_file_and_nothing_is_touched(config: Config, config_path: Path, spec_path: Path) -> None:
    done = render(spec_path, config=config_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# on puhti2, in rayslurm/train-TOKEN: sbatch --parsable job.sbatch\n")
    for name in (
        "job.sbatch (mode 0644)",
        "plan.json (mode 0600)",
        "ray_job.py (mode 0644)",
        "known_hosts (mode 0644)",
    ):
        assert f"\n==> {name} <==\n" in done.stdout
    assert "#SBATCH --nodes=2" in done.stdout
    assert '"entrypoint": "python train.py"' in done.stdout
    assert "ray_auth_token (mode 0600) <==\n(a secret, made when it is launched)" in done.stdout
    assert "the first free one of those ports here: dashboard 8100-8150, metrics 8201-8300" in done.stdout
    assert not config.state_dir.exists()


def test_what_a_launch_would_refuse_is_shown_and_said(config_path: Path, spec_path: Path) -> None:
    config_path.write_text(config_path.read_text().replace("    project:", "    closed: 2020-01-01\n    project:"))
    done = render(spec_path, config=config_path)
    assert done.returncode == 0
    assert "#SBATCH --nodes=2" in done.stdout
    assert "`rayslurm launch` would refuse this: puhti2: its compute nodes closed on 2020-01-01" in done.stderr
    assert "closed on 2020-01-01" in json.loads(render(spec_path, "--json", config=config_path).stdout)["refused"]


def test_a_diff_shows_real_changes_alone(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec_path: Path, config_path: Path
) -> None:
    never = render(spec_path, "--diff", config=config_path)
    assert (never.returncode, never.stdout) == (0, "nothing was sent before for train on puhti2\n")
    context, _ = make_site([Exchange("submit", f"{number}\n") for number in (4710, 4711)])
    launcher = Launcher(config, store, clock)
    launcher.launch(context.client, load_spec(spec_path))
    clock.now += 1
    second = launcher.launch(context.client, load_spec(spec_path))
    assert second.dashboard_port == 8101, "another than would be told now"
    same = render(spec_path, "--diff", config=config_path)
    assert same.returncode == 0
    assert same.stdout.startswith("no difference to what was last sent for train on puhti2, ")
    assert "(job 4711)" in same.stdout

    spec_path.write_text(SPEC.replace("cpus_per_node: 4", "cpus_per_node: 8"))
    other = render(spec_path, "--diff", config=config_path)
    assert other.returncode == 0
    changed = [line for line in other.stdout.splitlines() if line.startswith(("+", "-"))]
    assert changed == [
        "--- sent/job.sbatch", "+++ now/job.sbatch", "-#SBATCH --cpus-per-task=4", "+#SBATCH --cpus-per-task=8",
        "--- sent/plan.json", "+++ now/plan.json", '- "cpus_per_node": 4,', '+ "cpus_per_node": 8,',
    ]  # fmt: skip
    told = json.loads(render(spec_path, "--diff", "--json", config=config_path).stdout)
    assert (told["different"], told["last"]["job_id"]) == (True, "4711")
    assert "+#SBATCH --cpus-per-task=8\n" in told["diff"]
    spec_path.write_text(SPEC.replace("train\n", "other\n"))
    assert render(spec_path, "--diff", config=config_path).stdout == "nothing was sent before for other on puhti2\n"


def test_a_diff_tells_a_new_supervisor_and_files_that_come_or_go(config_path: Path, spec_path: Path) -> None:
    now = kept(package(load_spec(spec_path), load_config(config_path)).files)
    before = {name: text for name, text in now.items() if name != "known_hosts"} | {"ray_job.py": "sha256:0\n"}
    lines = difference(before, now)
    assert lines[:2] == ["--- /dev/null", "+++ now/known_hosts"]
    assert "--- sent/ray_job.py" in lines
    assert "-sha256:0" in lines
    assert difference(now, now) == []


def test_values_of_variables_are_shown_and_kept_by_their_digests(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec_path: Path, config_path: Path
) -> None:
    """They may be keys. What is sent has them, and a diff tells that one has changed."""
    spec_path.write_text(SPEC + "ray: {env: {WANDB_API_KEY: s3cr3t-one, MODE: fast}}\n")
    context, transport = make_site([Exchange("submit", "4711\n"), Exchange("submit", "4712\n")])
    launcher = Launcher(config, store, clock)
    launcher.launch(context.client, load_spec(spec_path))
    sent = next(content for path, content in transport.files.items() if path.endswith("/plan.json"))
    assert json.loads(sent)["ray"]["env"] == {"WANDB_API_KEY": "s3cr3t-one", "MODE": "fast"}
    with store.snapshot() as connection:
        (kept_then,) = connection.execute("SELECT sent FROM submissions").fetchone()
    assert "s3cr3t" not in kept_then
    shown = render(spec_path, config=config_path)
    assert '"WANDB_API_KEY": "sha256:' in shown.stdout
    assert "s3cr3t" not in shown.stdout + render(spec_path, "--json", config=config_path).stdout
    assert "no difference" in render(spec_path, "--diff", config=config_path).stdout
    spec_path.write_text(spec_path.read_text().replace("s3cr3t-one", "s3cr3t-two"))
    shown = render(spec_path, "--diff", config=config_path)
    changed = [line for line in shown.stdout.splitlines() if line.startswith(("-  ", "+  "))]
    assert ["WANDB_API_KEY" in line for line in changed] == [True, True]
    assert "s3cr3t" not in shown.stdout


def test_what_differs_from_launch_to_launch_is_made_alike() -> None:
    files = {"a": '/scratch/x/train-abc/out abc "vm_port": 8101, "port": 8101 "vm_port": 8201'}
    found = alike(files, token="abc", run_dir="/scratch/x/train-abc")
    assert found == {"a": 'RUN/out TOKEN "vm_port": PORT, "port": 8101 "vm_port": PORT'}


def test_a_job_that_goes_on_is_not_what_was_last_sent(store: Store) -> None:
    def write(token: str, link: int, now: float) -> None:
        store.write(
            lambda connection: submissions.intend(
                connection, token=token, site="s", campaign="", name="n", spec={}, run_dir="x", tunnels={},
                now=now,
            )
        )  # fmt: skip
        store.write(lambda connection: submissions.submitting(connection, token, "/x", sent={"a": token}, now=now))
        store.write(
            lambda connection: connection.execute("UPDATE submissions SET link = ? WHERE token = ?", (link, token))
        )

    write("first", 0, 1)
    write("second", 1, 2)
    with store.snapshot() as connection:
        last = submissions.last_sent(connection, "s", "n")
    assert last is not None
    assert last.files == {"a": "first"}
