"""The batch script: how it looks, that a shell takes it, and what it does before the supervisor."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jinja2
import pytest

from exporter.probes.runs import read_record
from tests.shellcheck import assert_clean
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
    "token": "k3j2h1g4f5d6",
    "output": "slurm-%j.out",
    "warn_seconds": 120,
    "requeue": False,
    "environment": [],
    "login_profile": "/etc/profile",
    "venv": None,
    "extra_directives": [],
    "python": "python3",
}
CASES: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "environment": {
        **SMALL,
        "environment": [
            "source /appl/profile/zz-csc-env.sh",
            "module load pytorch",
            "module load git",
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
    assert_clean(render(**CASES[name]))


@pytest.mark.parametrize("name", SMALL)
def test_every_value_must_be_given(name: str) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "jobs" / "templates"), undefined=jinja2.StrictUndefined
    )
    given = {key: value for key, value in CASES["environment"].items() if key != name}
    with pytest.raises(jinja2.UndefinedError, match=name):
        environment.get_template("ray-cluster.sbatch.j2").render(given)


def test_directives_come_before_any_command() -> None:
    lines = render(**CASES["gres"]).splitlines()
    assert lines[0] == "#!/bin/bash"
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(directives) < min(commands)


MODULE = """\
module() {
  case $1 in load) ;; *) return 9 ;; esac
  [ "$2" != nowhere ] || { echo "there is no module $2" >&2; return 3; }
  export SITE=$2
}
"""


class Script:
    """A rendered script, and a supervisor that only says that it was reached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "ray_job.py").write_text(
            "import os, sys\nprint('reached', os.environ.get('SITE'), os.getcwd(), os.getpid(), sys.prefix)\n"
        )

    def run(self, *environment: str, **values: Any) -> subprocess.CompletedProcess[str]:
        path = self.folder / "job.sbatch"
        path.write_text(render(environment=environment, run_dir=str(self.folder), **values))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        path_of_its_own = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        clean = {"PATH": path_of_its_own, "HOME": str(self.folder), "SLURM_JOB_ID": "4711"}
        return subprocess.run(
            ["bash", path], capture_output=True, text=True, check=False, timeout=30, cwd="/", env=clean
        )

    def status(self) -> dict[str, Any]:
        """What `rayslurm status` reads when no supervisor came to write it."""
        return dict(json.loads((self.folder / "status.json").read_text()))


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def test_the_supervisor_takes_the_shells_place(script: Script) -> None:
    path = script.folder / "job.sbatch"
    path.write_text(render(run_dir=str(script.folder)))
    with subprocess.Popen(["bash", path], stdout=subprocess.PIPE, text=True, cwd="/") as shell:
        said = shell.communicate()[0]
    assert said.split()[:-1] == ["reached", "None", str(script.folder), str(shell.pid)]
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


def test_the_nodes_own_python_runs_the_supervisor(script: Script) -> None:
    other = script.folder / "bin" / "python3"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho a wrapper around a container\n")
    other.chmod(0o755)
    (script.folder / "json.py").write_text("raise SystemExit('not the standard library')\n")
    (script.folder / "ray_job.py").write_text("import json, shutil\nprint('reached', shutil.which('python3'))\n")
    done = script.run(f"export PATH={other.parent}:$PATH PYTHONPATH={script.folder} PYTHONHOME=/nowhere")
    assert done.stdout == f"reached {other}\n", done.stderr


def test_a_python_that_only_a_module_brings_is_found_all_the_same(script: Script) -> None:
    other = script.folder / "bin" / "python9"
    other.parent.mkdir()
    other.symlink_to(sys.executable)
    assert "reached" in script.run(f"export PATH={other.parent}:$PATH", python="python9").stdout


def test_what_ended_the_job_is_left_where_the_supervisor_would_write_it(script: Script) -> None:
    line = 'echo "a\\b" | grep -q \'no "such" thing\''
    done = script.run(line)
    status = script.status()
    assert read_record(json.dumps(status), job_id="4711", token="k3j2h1g4f5d6") == status, "what `serve` takes for it"
    assert done.returncode == 1
    assert time.time() - 60 < status.pop("time") <= time.time()
    assert status == {
        "job_id": "4711",
        "token": "k3j2h1g4f5d6",
        "phase": "failed",
        "outcome": "unusable",
        "exit_code": 1,
        "reason": f"exit status 1 in: {line}",
    }
    assert not (script.folder / "status.json.part").exists()


# -- modules: a batch script's shell is no login shell


def test_modules_come_from_the_profile_that_the_site_names(script: Script) -> None:
    profile = script.folder / "site.sh"
    profile.write_text(MODULE)
    done = script.run(f"source {profile}", "module load pytorch", login_profile="/nowhere")
    assert "reached pytorch" in done.stdout
    assert done.stderr == ""


def test_modules_come_from_what_login_shells_read_where_nothing_else_brings_them(script: Script) -> None:
    profile = script.folder / "profile"
    profile.write_text(f"{MODULE}PATH=/usr/bin:/bin\n")
    tools = script.folder / "tools"
    tools.mkdir()
    (tools / "mine").write_text("#!/bin/sh\n")
    (tools / "mine").chmod(0o755)
    done = script.run(
        f"export PATH={tools}:$PATH", "module load pytorch", "command -v mine", login_profile=str(profile)
    )
    assert "reached pytorch" in done.stdout, done.stderr
    assert str(tools / "mine") in done.stdout, "a PATH from before stays in front"


def test_no_module_command_at_all_is_told_as_such(script: Script) -> None:
    done = script.run("source /nowhere/profile.sh", "module load pytorch", login_profile="/nowhere")
    assert done.returncode == 64
    assert "going on, from: source /nowhere/profile.sh" in done.stderr
    assert script.status()["reason"] == (
        "exit status 64 in: module: there is none here, nor after /nowhere; source what brings it in environment"
    )
    assert done.stdout == ""


def test_a_module_that_is_not_there_ends_the_job(script: Script) -> None:
    profile = script.folder / "site.sh"
    profile.write_text(MODULE)
    done = script.run(f"source {profile}", "module load nowhere")
    assert done.returncode == 3
    assert "there is no module nowhere" in done.stderr
    assert script.status()["reason"] == "exit status 3 in: module load nowhere"


# -- a venv


def test_a_venv_comes_first(script: Script) -> None:
    venv = script.folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    shows = "import os, sys; print(sys.prefix, os.environ['VIRTUAL_ENV'])"
    (script.folder / "ray_job.py").write_text(f"import subprocess\nsubprocess.run(['python', '-c', {shows!r}])\n")
    done = script.run("export PATH=/usr/bin:/bin PYTHONHOME=/nowhere", venv=str(venv))
    assert done.stdout.split() == [str(venv), str(venv)], done.stderr


def test_a_venv_that_is_not_there_ends_the_job_before_anything_starts(script: Script) -> None:
    done = script.run(venv="/projappl/project_1/venv")
    assert (done.returncode, done.stdout) == (64, "")
    assert script.status()["reason"] == (
        "exit status 64 in: venv /projappl/project_1/venv: there is none; make it with python3 -m venv, or correct "
        "venv in the spec"
    )
