"""What the supervisor takes as a plan, and what it says about any other."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.unit.jobs.harness import DASHBOARD, VM, plan


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plan.json"


def read(ray_job: ModuleType, path: Path, content: Any) -> SimpleNamespace:
    path.write_text(json.dumps(content))
    found = ray_job.read_plan(str(path))
    assert isinstance(found, SimpleNamespace)
    return found


def test_a_whole_plan(ray_job: ModuleType, path: Path) -> None:
    found = read(ray_job, path, plan(2, vm=VM, tunnels=[DASHBOARD], entrypoint="python train.py --x 1"))
    assert (found.nodes, found.cpus_per_node, found.gpus_per_node) == (2, 2, 0)
    assert found.entrypoint == "python train.py --x 1"
    assert found.ray.command == ["ray"]
    assert found.ray.ready_timeout_seconds == 20
    assert (found.vm.user, found.vm.port) == ("tunnel", 22)
    assert [tunnel.vm_port for tunnel in found.tunnels] == [8100]


def test_files_are_relative_to_the_plan(ray_job: ModuleType, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/maija")
    found = read(ray_job, path, plan(vm=VM))
    assert found.ray.auth_token_file == str(path.parent / "ray_auth_token")
    assert found.vm.known_hosts == str(path.parent / "known_hosts")
    assert found.vm.identity_file == "/keys/id_vm"
    assert read(ray_job, path, plan(vm={**VM, "identity_file": "id"})).vm.identity_file == str(path.parent / "id")
    assert read(ray_job, path, plan(vm={**VM, "identity_file": "~/id"})).vm.identity_file == "/home/maija/id"


def test_what_may_be_left_out(ray_job: ModuleType, path: Path) -> None:
    short = {
        key: value
        for key, value in plan().items()
        if key in {"version", "token", "job_name", "nodes", "cpus_per_node", "memory_bytes_per_node"}
    }
    found = read(ray_job, path, {**short, "ray": {}, "vm": {k: v for k, v in VM.items() if k != "port"}})
    assert found.ray.command == ["ray"]
    assert found.ray.temp_dir == "/tmp"
    assert found.ray.allow_unauthenticated is False
    assert found.vm.port == 22
    assert (found.tunnels, found.entrypoint, found.object_store_bytes_per_node) == ([], None, None)
    tunnel = {"name": "d", "vm_port": 8100, "target": "dashboard"}
    assert read(ray_job, path, plan(vm=VM, tunnels=[tunnel])).tunnels[0].bind == "127.0.0.1"


def test_the_command_may_have_arguments(ray_job: ModuleType, path: Path) -> None:
    found = read(ray_job, path, plan(ray={"command": "singularity exec '/my images/ray.sif' ray"}))
    assert found.ray.command == ["singularity", "exec", "/my images/ray.sif", "ray"]


def test_the_temporary_folder_may_name_a_variable(
    ray_job: ModuleType, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_SCRATCH", "/run/nvme")
    assert read(ray_job, path, plan(ray={"temp_dir": "$LOCAL_SCRATCH/t"})).ray.temp_dir == "/run/nvme/t"


@pytest.mark.parametrize("target", ["dashboard", "client", "metrics", "metrics:1", "127.0.0.1:8000", "c1:8000"])
def test_targets(ray_job: ModuleType, path: Path, target: str) -> None:
    tunnel = {**DASHBOARD, "target": target}
    assert read(ray_job, path, plan(2, vm=VM, tunnels=[tunnel])).tunnels[0].target == target


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "version is 2, this supervisor reads 1"),
        ({"version": "1"}, "version must be int, not '1'"),
        ({"token": ""}, "token is not usable: ''"),
        ({"token": "a b"}, "token is not usable"),
        ({"token": None}, "token is missing"),
        ({"nodes": 0}, "nodes cannot be 0"),
        ({"nodes": True}, "nodes must be int, not True"),
        ({"nodes": 2.0}, "nodes must be int, not 2.0"),
        ({"cpus_per_node": -1}, "cpus_per_node cannot be -1"),
        ({"gpus_per_node": -1}, "gpus_per_node cannot be -1"),
        ({"memory_bytes_per_node": 3000}, "memory_bytes_per_node cannot be 3000"),
        ({"object_store_bytes_per_node": 1}, "object_store_bytes_per_node cannot be 1"),
        ({"entrypoint": ["python"]}, "entrypoint must be str"),
        ({"entrypoint": "a\0b"}, "entrypoint is not usable"),
        ({"grace_seconds": -1}, "grace_seconds cannot be -1"),
        ({"tunnels": {}}, "tunnels must be list"),
        ({"tunnels": [7]}, "tunnels[0]. must be an object"),
        ({"tunnels": [DASHBOARD], "vm": None}, "vm is missing, and there are tunnels"),
        ({"tunnels": [DASHBOARD, DASHBOARD]}, "two have one name"),
        ({"tunnels": [{**DASHBOARD, "name": "../up"}]}, "tunnels[0].name is not usable"),
        ({"tunnels": [{**DASHBOARD, "vm_port": 65536}]}, "tunnels[0].vm_port cannot be 65536"),
        ({"tunnels": [{**DASHBOARD, "vm_port": 0}]}, "tunnels[0].vm_port cannot be 0"),
        ({"tunnels": [{**DASHBOARD, "bind": "-oProxyCommand=x"}]}, "tunnels[0].bind is not usable"),
        ({"tunnels": [{**DASHBOARD, "target": "dashboards"}]}, "tunnels[0].target is not usable"),
        ({"tunnels": [{**DASHBOARD, "target": "metrics:1"}]}, "leads to a node that the job does not have"),
        ({"vm": {**VM, "host": "-oProxyCommand=x"}}, "vm.host is not usable"),
        ({"vm": {**VM, "user": "-x"}}, "vm.user is not usable"),
        ({"vm": {**VM, "port": 70000}}, "vm.port cannot be 70000"),
        ({"vm": {**VM, "known_hosts": "known hosts"}}, "vm.known_hosts is not usable"),
        ({"vm": "192.0.2.10"}, "vm must be dict"),
        ({"ray": {"command": " "}}, "ray.command is not usable"),
        ({"ray": {"temp_dir": "tmp"}}, "ray.temp_dir is not usable"),
        ({"ray": {"allow_unauthenticated": "no"}}, "ray.allow_unauthenticated must be bool, not 'no'"),
        ({"ray": {"ready_timeout_seconds": 0}}, "ray.ready_timeout_seconds cannot be 0"),
        ({"ray": {"env": {"A": 1}}}, "ray.env.A must be a text"),
        ({"ray": {"env": {"RAY_AUTH_MODE": "disabled"}}}, "none of Ray's own RAY_AUTH_*"),
    ],
)
def test_what_is_wrong_is_said(ray_job: ModuleType, path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read(ray_job, path, plan(**{"vm": VM, **changes}))
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '"plan"'])
def test_what_is_no_plan_at_all(ray_job: ModuleType, path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ValueError, match=r"."):
        ray_job.read_plan(str(path))


def test_no_file(ray_job: ModuleType, path: Path) -> None:
    with pytest.raises(ValueError, match=r"plan\.json"):
        ray_job.read_plan(str(path))
