"""What Ray runs in, per site: the scripts that come of a spec, and what is refused before anything is sent."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config import Config, load_config
from exporter.errors import ConfigError, RefusedError
from exporter.launch import limits
from exporter.launch.limits import Known
from exporter.launch.render import Launch, render_container, render_plan, render_script, run_folder_files
from exporter.launch.spec import Spec, load_spec
from exporter.sites import profiles
from tests.shellcheck import assert_clean

GOLDEN = Path(__file__).parents[1] / "golden" / "sbatch"
SPECS = sorted(GOLDEN.glob("*.yaml"))
LAUNCH = Launch("k3j2h1g4f5d6", "/scratch/project_2001234/maija/rayslurm/train-k3j2h1g4f5d6", {}, "secret")
OPEN = Known(datetime(2026, 7, 1, tzinfo=UTC).timestamp())


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Every site that there is a file of, as its users have it."""
    path = tmp_path_factory.mktemp("sites") / "rayslurm.yaml"
    ssh = {"user": "maija", "host": "login.example.org"}
    path.write_text(
        yaml.safe_dump({"sites": {name: {"ssh": ssh, "project": "project_2001234"} for name in profiles()}})
    )
    return load_config(path)


def scripts(spec: Spec, sites: Config) -> dict[str, str]:
    """Returns the scripts that come of a spec, by the ending of their golden file."""
    site = sites.site(spec.site)
    found = {".sbatch": render_script(spec, site, LAUNCH)}
    if spec.container is not None:
        found[".container.sh"] = render_container(spec, site, LAUNCH)
    return found


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_golden(path: Path, sites: Config) -> None:
    """`UPDATE_GOLDEN=1` writes the files anew for the diff to be read."""
    spec = load_spec(path)
    limits.check(spec, sites.site(spec.site), OPEN)
    for ending, text in scripts(spec, sites).items():
        golden = path.with_name(path.stem + ending)
        if os.environ.get("UPDATE_GOLDEN"):
            golden.write_text(text)
        assert text == golden.read_text()


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_shellcheck(path: Path, sites: Config) -> None:
    for text in scripts(load_spec(path), sites).values():
        assert_clean(text)


def test_every_site_is_among_them() -> None:
    assert {load_spec(path).site for path in SPECS} == set(profiles())


RUN = LAUNCH.run_dir
INSIDE = f"bash {RUN}/container.sh"
VENV = "/projappl/project_2001234/venvs/train"


@pytest.mark.parametrize(
    ("name", "command", "container", "temp_dir"),
    [
        ("roihu-modules", "ray", None, "$TMPDIR"),
        ("roihu-venv-gpus", f"{VENV}/bin/python -m ray.scripts.scripts", None, "$TMPDIR"),
        ("roihu-container-gpus", f"{INSIDE} ray", INSIDE, "$TMPDIR"),
        (
            "lumi-container-gpus",
            f"{INSIDE} /projappl/project_2001234/maija/venv/bin/python -m ray.scripts.scripts",
            INSIDE,
            "/tmp",
        ),
        ("puhti-wrapper", f"{INSIDE} ray", INSIDE, "/tmp"),
    ],
)
def test_what_the_supervisor_is_told(
    sites: Config, name: str, command: str, container: str | None, temp_dir: str
) -> None:
    spec = load_spec(GOLDEN / f"{name}.yaml")
    files = run_folder_files(spec, sites.site(spec.site), None, LAUNCH)
    plan = json.loads(files["plan.json"].content)
    assert (plan["ray"]["command"], plan["container"], plan["ray"]["temp_dir"]) == (command, container, temp_dir)
    assert ("container.sh" in files) is (container is not None)


def test_the_devices_are_no_business_of_the_shell(sites: Config) -> None:
    """Slurm sets them anew in every task, so the supervisor moves them there."""
    text = "".join(text for path in SPECS for text in scripts(load_spec(path), sites).values())
    assert "VISIBLE_DEVICES" not in text.replace("*_VISIBLE_DEVICES", "")


# -- what is refused, and what is wrong


def make_spec(site: str, **keys: Any) -> Spec:
    cluster = {"cpus_per_node": 4, "memory_per_node": "16G", "time": "10m", "partition": "any"}
    return Spec.model_validate({"site": site, "cluster": cluster | keys.pop("cluster", {}), **keys})


@pytest.mark.parametrize("name", ["roihu", "lumi", "mahti", "puhti"])
@pytest.mark.parametrize("venv", ["/users/{user}/venv", "/home/maija/venv"])
def test_a_venv_in_the_home_is_refused_where_the_site_wants_it_elsewhere(sites: Config, name: str, venv: str) -> None:
    with pytest.raises(RefusedError, match=r"wants venvs below /projappl/\{project\} \((CSC user guide|LUMI guides)"):
        limits.check(make_spec(name, venv=venv), sites.site(name), OPEN)


def test_a_venv_elsewhere_or_at_a_site_that_says_nothing_is_none_of_our_business(sites: Config, tmp_path: Path) -> None:
    limits.check(make_spec("roihu", venv="/scratch/{project}/venv"), sites.site("roihu"), OPEN)
    limits.check(make_spec("slurm", venv="/home/maija/venv"), sites.site("slurm"), OPEN)
    path = tmp_path / "rayslurm.yaml"
    path.write_text("sites:\n  roihu:\n    ssh: {user: maija}\n    project: p\n    software_dir: /users/{user}\n")
    limits.check(make_spec("roihu", venv="/users/{user}/venv"), load_config(path).site("roihu"), OPEN)


def test_how_a_container_sees_gpus_must_be_known(sites: Config, tmp_path: Path) -> None:
    slurm = sites.site("slurm")
    container = {"image": "/work/ray.sif"}
    gpus = {"gpus_per_node": 1}
    limits.check(make_spec("slurm", container=container), slurm, OPEN)
    with pytest.raises(ConfigError, match=r"container.options: .* write \[--nv\] for NVIDIA or \[--rocm\] for AMD"):
        limits.check(make_spec("slurm", container=container, cluster=gpus), slurm, OPEN)
    told = make_spec("slurm", container=container | {"options": ["--rocm"]}, cluster=gpus)
    limits.check(told, slurm, OPEN)
    assert options(render_container(told, slurm, LAUNCH)).startswith("--rocm --bind")
    path = tmp_path / "rayslurm.yaml"
    path.write_text(
        "sites:\n  own:\n    ssh: {host: h, user: maija}\n    project: p\n    container_gpu_options: []\n"
        "    container_command: podman-hpc run\n"
    )
    script = render_container(
        make_spec("own", container=container, cluster=gpus), load_config(path).site("own"), LAUNCH
    )
    assert options(script) == f'--bind "{RUN.rpartition("/")[0]}"'
    assert 'exec podman-hpc run "${options[@]}" \'/work/ray.sif\' bash -c "$enter" \'bash\' "$@" <<<' in script


def options(script: str) -> str:
    """Returns what the container's command is given, on one line."""
    return " ".join(script.partition("options=(")[2].partition("\n)")[0].split())


def test_an_option_of_the_site_is_not_given_twice(sites: Config) -> None:
    spec = make_spec(
        "roihu", container={"image": "/a.sif", "options": ["--writable-tmpfs", "--nv"]}, cluster={"gpus_per_node": 1}
    )
    assert options(render_container(spec, sites.site("roihu"), LAUNCH)).startswith("--writable-tmpfs --nv --bind")
    without = make_spec("roihu", container={"image": "/a.sif"})
    assert options(render_container(without, sites.site("roihu"), LAUNCH)).startswith("--bind"), "no GPUs"


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"venv": "venv"}, "venv"),
        ({"venv": "~/venv"}, "venv"),
        ({"venv": "/a b"}, "venv"),
        ({"venv": "/projappl/{account}/venv"}, "venv"),
        ({"venv": "/a'b"}, "venv"),
        ({"container": {}}, "image: is missing; write its path at the site, or as command a wrapper"),
        ({"container": {"image": "docker://rayproject/ray"}}, "container.image"),
        ({"container": {"image": "/a.sif", "command": "x; rm"}}, "container.command"),
        ({"container": {"image": "/a.sif", "bind": ["data"]}}, "container.bind"),
        ({"container": {"image": "/a.sif", "bind": ["/a:/b:rx"]}}, "container.bind"),
        ({"container": {"image": "/a.sif", "options": ["a\nb"]}}, "container.options"),
    ],
)
def test_each_fault_of_a_spec_names_its_key(tmp_path: Path, keys: dict[str, Any], fault: str) -> None:
    path = tmp_path / "spec.yaml"
    cluster = {"cpus_per_node": 4, "memory_per_node": "16G", "time": "10m"}
    path.write_text(yaml.safe_dump({"site": "slurm", "cluster": cluster, **keys}))
    with pytest.raises(ConfigError) as caught:
        load_spec(path)
    assert fault in str(caught.value)


# -- the script that runs a command inside


class Inside:
    """The container's script with a runtime that says what it was told, and runs what stands after the image."""

    def __init__(self, folder: Path, site: Any) -> None:
        self.folder, self.site = folder, site
        self.run_dir = folder / "runs" / "train"
        self.run_dir.mkdir(parents=True)
        self.image = folder / "ray.sif"
        self.image.touch()
        self.runtime('while [ "$1" != "$IMAGE" ]; do printf "%s|" "$1"; shift; done\nshift\necho\nexec "$@"\n')

    def runtime(self, body: str) -> None:
        path = self.folder / "bin" / "apptainer"
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/bash\n" + body)
        path.chmod(0o755)

    def run(
        self,
        *command: str,
        cwd: Path | None = None,
        path: str = "",
        variables: dict[str, str] | None = None,
        **keys: Any,
    ) -> subprocess.CompletedProcess[str]:
        spec = make_spec("roihu", container={"image": str(self.image)}, **keys)
        launch = Launch("k3j2h1g4f5d6", str(self.run_dir), {}, "secret")
        script = self.run_dir / "container.sh"
        script.write_text(render_container(spec, self.site, launch))
        environment = {
            "PATH": path or f"{self.folder / 'bin'}:/usr/bin:/bin",
            "TMPDIR": "/local/job-1",
            "IMAGE": str(self.image),
            **(variables or {}),
        }
        return subprocess.run(
            ["bash", script, *command], cwd=cwd or self.run_dir, env=environment, capture_output=True, text=True,
            check=False, timeout=30,
        )  # fmt: skip


@pytest.fixture
def inside(tmp_path: Path, sites: Config) -> Inside:
    return Inside(tmp_path, sites.site("roihu"))


def test_arguments_and_exit_status_pass_through(inside: Inside) -> None:
    done = inside.run("bash", "-c", 'echo "<$1>"; exit 7', "x", 'a "b"  $c')
    assert done.stdout.splitlines()[1:] == ['<a "b"  $c>']
    assert done.returncode == 7


def test_what_the_job_writes_is_seen_inside(inside: Inside, tmp_path: Path) -> None:
    shown = inside.run("true").stdout.splitlines()[0]
    assert shown == f"exec|--bind|{tmp_path}/runs|--bind|/local/job-1|"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shown = inside.run("true", cwd=elsewhere).stdout.splitlines()[0]
    assert shown.endswith(f"|--bind|{elsewhere}|")


def test_a_venv_is_entered_inside(inside: Inside, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run(["python3", "-m", "venv", "--without-pip", venv], check=True)
    done = inside.run("python", "-c", "import os, sys; print(sys.prefix, os.environ['VIRTUAL_ENV'])", venv=str(venv))
    assert done.stdout.splitlines()[1:] == [f"{venv} {venv}"], done.stderr
    assert f"--bind|{venv}|" in done.stdout


def test_a_venv_of_the_image_is_not_looked_for_outside(inside: Inside, tmp_path: Path) -> None:
    """A runtime refuses to show what isn't there."""
    venv = tmp_path / "venv"
    inside.runtime(
        f'case "$*" in *"--bind {venv} "*) exit 255;; esac\n'
        'while [ "$1" != "$IMAGE" ]; do shift; done\nshift\n'
        f'python3 -m venv --without-pip {venv}\nexec "$@"\n'
    )
    done = inside.run("python", "-c", "import sys; print(sys.prefix)", venv=str(venv))
    assert (done.returncode, done.stdout.strip()) == (0, str(venv)), done.stderr


CLEAN = (
    'while [ "$1" != "$IMAGE" ]; do shift; done\nshift\nexec env -i PATH=/usr/bin:/bin RAY_AUTH_MODE=disabled "$@"\n'
)
"""A runtime that lets no variable pass, with an image that has one of its own."""


def test_what_ray_hangs_on_gets_into_a_clean_environment(inside: Inside) -> None:
    inside.runtime(CLEAN)
    job = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": "/run/ray_auth_token",
        "RAY_ADDRESS": "10.0.0.1:10000",
        "HIP_VISIBLE_DEVICES": "1,2",
        "SLURM_JOB_ID": "7",
        "RAYSLURM_RUN_DIR": "/run",
        "AUTOSCALER_METRIC_PORT": "1",
        "DASHBOARD_METRIC_PORT": "2",
        "WANDB_API_KEY": "a \"b\" $c `d` \\ 'e'",
        "options": "of the user's own",
    }
    others = {"RAY_AUTH_TOKEN": "secret", "SLURM_JWT": "secret", "LD_PRELOAD": "", "EDITOR": "vi"}
    tell = "import json, os; print(json.dumps(dict(os.environ)))"
    ray = {"env": {"WANDB_API_KEY": job["WANDB_API_KEY"], "options": job["options"]}}
    done = inside.run("python3", "-c", tell, variables=job | others, ray=ray)
    found = json.loads(done.stdout)
    assert job.items() <= found.items()
    assert found["TMPDIR"] == "/local/job-1"
    assert not others.keys() & found.keys()
    assert not {name for name in found if name.startswith("rayslurm")}


def test_what_gets_inside_stands_on_no_command_line(inside: Inside) -> None:
    inside.runtime('tr "\\0" " " </proc/$$/cmdline\n')
    done = inside.run("true", variables={"KEY": "s3cret", "RAY_ADDRESS": "10.0.0.1:1"}, ray={"env": {"KEY": "s3cret"}})
    assert "exec --bind" in done.stdout
    assert not {word for word in ("s3cret", "10.0.0.1") if word in done.stdout}


def test_the_command_inside_reads_nothing(inside: Inside) -> None:
    assert inside.run("cat").stdout.splitlines()[1:] == []


def test_a_runtime_that_lets_no_variables_in_is_told(inside: Inside) -> None:
    """Without them Ray would start without authentication."""
    inside.runtime(CLEAN.removesuffix("\n") + " </dev/null\n")
    done = inside.run("true")
    assert done.returncode == 64
    assert "rayslurm: apptainer does not pass standard input, where the variables of the job come from" in done.stderr


@pytest.mark.parametrize("missing", ["image", "command", "venv"])
def test_what_is_missing_is_named(inside: Inside, missing: str) -> None:
    if missing == "image":
        inside.image.unlink()
        done = inside.run("true")
        told = f"there is no {inside.image} on {os.uname().nodename}: correct container.image in the spec"
    elif missing == "command":
        done = inside.run("true", path="/usr/bin:/bin")
        told = f"there is no apptainer on {os.uname().nodename}: load what brings it in environment, or write"
    else:
        done = inside.run("true", venv="/projappl/p/venv")
        told = "there is no venv /projappl/p/venv inside the container: make it there, or correct venv in the spec"
    assert done.returncode == 64
    assert f"rayslurm: {told}" in done.stderr


def test_the_plan_names_no_container_where_there_is_none(sites: Config) -> None:
    plan = render_plan(make_spec("slurm"), sites.site("slurm"), None, LAUNCH)
    assert (plan["container"], plan["ray"]["command"]) == (None, "ray")
