"""The batch script: how it looks, that a shell takes it, and what it does before the supervisor."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest

from tests.unit.jobs.harness import ROOT

GOLDEN = ROOT / "tests" / "golden" / "sbatch"
SMALL: dict[str, Any] = {
    "job_name": "demo.rsk3j2h1g4f5d6",
    "account": "project_2001234",
    "partition": "medium",
    "nodes": 2,
    "cpus_per_node": 128,
    "gpus_per_node": 0,
    "gres": None,
    "memory_mib_per_node": 240000,
    "exclusive": False,
    "time_limit": "0-02:00:00",
    "run_dir": "/scratch/project_2001234/rayslurm/k3j2h1g4f5d6",
    "output": "slurm-%j.out",
    "warn_seconds": 120,
    "requeue": False,
    "environment": [],
    "extra_directives": [],
    "python": "python3",
}
CASES: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "puhti": {
        **SMALL,
        "environment": [
            "source /appl/profile/zz-csc-env.sh",
            "module load pytorch",
            'export PATH="$HOME/it\'s mine/bin:$PATH"  # as the docs have it',
        ],
    },
    "gpus": {**SMALL, "gpus_per_node": 4, "account": None, "requeue": True, "python": "/appl/python3.11"},
    "gres": {
        **SMALL,
        "gpus_per_node": 4,
        "gres": "gpu:a100:4,nvme:100",
        "exclusive": True,
        "extra_directives": ["--constraint=x86", "--mail-type=END"],
    },
}


def render(**values: Any) -> str:
    """Renders as exporter.launch does."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "jobs" / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("ray-cluster.sbatch.j2").render({**SMALL, **values})


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """`UPDATE_GOLDEN=1` writes the files anew for the diff to be read."""
    path = GOLDEN / f"{name}.sbatch"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(render(**CASES[name]))
    assert render(**CASES[name]) == path.read_text()


@pytest.mark.parametrize("name", CASES)
def test_shellcheck(name: str) -> None:
    program = shutil.which("shellcheck")
    if program is None:
        assert not os.environ.get("CI"), "in CI shellcheck is there"
        pytest.skip("no shellcheck")
    found = subprocess.run(
        [program, "--shell=bash", "-"], input=render(**CASES[name]), capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", SMALL)
def test_every_value_must_be_given(name: str) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "jobs" / "templates"), undefined=jinja2.StrictUndefined
    )
    given = {key: value for key, value in SMALL.items() if key != name}
    with pytest.raises(jinja2.UndefinedError, match=name):
        environment.get_template("ray-cluster.sbatch.j2").render(given)


def test_directives_come_before_any_command() -> None:
    lines = render(**CASES["gres"]).splitlines()
    assert lines[0] == "#!/bin/bash"
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(directives) < min(commands)


class Script:
    """A rendered script, and a supervisor that only says that it was reached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "ray_job.py").write_text(
            "import os\nprint('reached', os.environ.get('SITE'), os.getcwd(), os.getpid())\n"
        )

    def run(self, *environment: str, python: str = "python3") -> subprocess.CompletedProcess[str]:
        path = self.folder / "job.sbatch"
        path.write_text(render(environment=environment, run_dir=str(self.folder), python=python))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return subprocess.run(["bash", path], capture_output=True, text=True, check=False, timeout=30, cwd="/")


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def test_the_supervisor_takes_the_shells_place(script: Script) -> None:
    path = script.folder / "job.sbatch"
    path.write_text(render(run_dir=str(script.folder)))
    with subprocess.Popen(["bash", path], stdout=subprocess.PIPE, text=True, cwd="/") as shell:
        said = shell.communicate()[0]
    assert said.split() == ["reached", "None", str(script.folder), str(shell.pid)]
    assert shell.returncode == 0


def test_the_environment_reaches_the_supervisor(script: Script) -> None:
    profile = script.folder / "profile"
    profile.write_text("declare -x SITE=here\n")
    assert "reached here" in script.run(f"source {profile}").stdout
    assert "reached it's" in script.run('export SITE="it\'s"  # a remark').stdout


def test_a_command_that_fails_ends_the_job_and_is_named(script: Script) -> None:
    done = script.run("export SITE=x", "module() { echo 'no such module' >&2; return 3; }", "module load pytorch")
    assert done.returncode == 3
    assert "rayslurm: the job ends with exit status 3 in: module load pytorch" in done.stderr
    assert done.stdout == ""


def test_a_profile_may_return_what_it_likes(script: Script) -> None:
    profile = script.folder / "profile"
    profile.write_text('export SITE=here\n[ -n "$NOT_SET_ANYWHERE" ] && echo set\nfalse\n')
    for line in (f"source {profile}", f". {profile}"):
        done = script.run(line)
        assert "reached here" in done.stdout
        assert f"exit status 1, going on, from: {line}" in done.stderr


def test_a_profile_may_leave_its_options_on(script: Script) -> None:
    profile = script.folder / "profile"
    profile.write_text("set -eu\nexport SITE=here\n")
    assert "reached here" in script.run(f"source {profile}").stdout


def test_a_profile_that_exits_is_named(script: Script) -> None:
    profile = script.folder / "profile"
    profile.write_text("exit 4\n")
    done = script.run(f"source {profile}")
    assert done.returncode == 4
    assert f"the job ends with exit status 4 in: source {profile}" in done.stderr


def test_a_python_that_is_not_there_is_named(script: Script) -> None:
    done = script.run(python="python9")
    assert done.returncode == 127
    assert "in: exec python9 ray_job.py" in done.stderr
