"""What Ray runs in, on real Slurm: modules and a venv beside AMD's devices, a container beside NVIDIA's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.lab import Lab
from tests.lab.serving import SITE, configure, own_site

AREAS = "/srv/lab/run/areas"
MODULES = "/home/researcher/modules"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")

# Ray finds AMD's GPUs by asking this module; it says that there are eight.
AMDSMI = """\
class AmdSmiInitFlags:
    INIT_AMD_GPUS = 0

class AmdSmiMemoryType:
    VRAM = 0

class AmdSmiLibraryException(Exception):
    pass

def amdsmi_init(flags):
    pass

def amdsmi_shut_down():
    pass

def amdsmi_get_processor_handles():
    return list(range(8))
"""

# What driver and workers see. It takes the file to write it to, and a word where it shall wait for TERM after that.
PROBE = """\
import json, os, pathlib, signal, sys
import ray

def seen():
    import ray
    found = {name: value for name, value in os.environ.items() if name.endswith("_VISIBLE_DEVICES")}
    found.update(word=os.environ.get("OF_THE_SPEC"), mode=os.environ.get("RAY_AUTH_MODE"))
    found.update(prefix=sys.prefix, ray=ray.__file__, namespace=os.readlink("/proc/self/ns/mnt"))
    found["node"] = os.uname().nodename
    try:
        import only_in_the_venv
        found["venv"] = only_in_the_venv.WORD
    except ImportError:
        found["venv"] = None
    return found

above = pathlib.Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\\0")
told = []
ray.init(log_to_driver=False)
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
count = int(ray.cluster_resources()["GPU"])

@ray.remote(num_gpus=1, num_cpus=0)
class Holder:  # until the end, so that each holds another device
    def seen(self):
        return seen()

holders = [Holder.remote() for _ in range(count)]
workers = ray.get([holder.seen.remote() for holder in holders])
found = {"gpus": count, "driver": seen(), "workers": workers, "above": above}
path = pathlib.Path(sys.argv[1])
path.with_suffix(".part").write_text(json.dumps(found))
path.with_suffix(".part").replace(path)
if len(sys.argv) > 2:
    while not told:
        signal.pause()
    path.with_suffix(".ended").write_text("by TERM")
"""


@dataclass
class Job:
    lab: Lab
    id: str
    run_dir: str

    def read(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.lab.sh(f"cat {self.run_dir}/{name}", check=True).stdout))

    def has(self, name: str) -> bool:
        """Says whether a file is there; a job that has ended without it fails the test with what it printed."""
        if self.lab.sh(f"test -e {self.run_dir}/{name}").returncode == 0:
            return True
        if self.lab.state(self.id).split(" ")[0] in ENDED:
            pytest.fail(self.lab.sh(f"tail -n 50 {self.run_dir}/slurm-*.out {self.run_dir}/logs/*").stdout)
        return False

    def end(self) -> str:
        def state() -> str:
            found = self.lab.state(self.id).split(" ")[0]
            return found if found in ENDED else ""

        return self.lab.wait(state, 60, f"the end of job {self.id}")


@dataclass
class Jobs:
    """Both clusters, at once, since most of their time is Ray's start; and one that comes to nothing."""

    amd: Job
    nvidia: Job
    missing: Job
    site_packages: str


@pytest.fixture(scope="module")
def jobs(lab: Lab, ray_venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    packages = next(ray_venv.resolve().glob("lib/python3*/site-packages"))
    make_software(lab, ray_venv.resolve(), packages)
    folder = tmp_path_factory.mktemp("environment")
    # A site whose batch shell has no `module`, as Debian's; what login shells read brings the real one.
    rayslurm = configure(
        lab,
        folder,
        environment=[f"module use {MODULES}"],
        work_dir=f"{AREAS}/scratch/{{project}}/rayslurm",
        container_gpu_options=["--nv"],
    )

    def launch(name: str, entrypoint: str, cluster: dict[str, Any], **keys: Any) -> Job:
        usual = {"cpus_per_node": 2, "memory_per_node": "1500M", "object_store_per_node": "100M", "time": "10m"}
        spec = {"site": SITE, "name": name, "cluster": usual | cluster, "entrypoint": entrypoint, **keys}
        spec["ray"] = {"dashboard_tunnel": False} | keys.get("ray", {})
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))
        launched = rayslurm.json("launch", str(folder / f"{name}.yaml"))
        return Job(lab, launched["job_id"], launched["run_dir"])

    with own_site(lab):
        # Somebody else has the first device of the node.
        lab.sbatch("-p", "small-g", "-w", "l1", "--gpus-per-node=1", "-t", "5", "--mem=100", wrap="sleep 600")
        venv = f"{AREAS}/projappl/{{project}}/venv"
        amd = launch(
            "amd",
            "python ~/probe.py seen.json",
            {"partition": "small-g", "gpus_per_node": 2},
            environment=["module load ray-of-the-site"],
            venv=venv,
            directives=["--nodelist=l1"],
        )
        nvidia = launch(
            "nvidia",
            "python ~/probe.py seen.json wait",
            {"partition": "gpumedium", "nodes": 2, "gpus_per_node": 2},
            environment=["module load apptainer"],
            container={"image": f"{AREAS}/projappl/{{project}}/ray.sif", "options": ["--cleanenv"]},
            ray={"env": {"OF_THE_SPEC": "a b"}},
            venv=venv,
            directives=["--nodelist=c[1-2]"],
        )
        missing = launch("missing", "true", {"partition": "small"}, environment=["module load no-such-module"])
        yield Jobs(amd, nvidia, missing, str(packages))


def make_software(lab: Lab, ray_venv: Path, packages: Path) -> None:
    """Makes modules, an image, and a venv that sees Ray below it, as one made with --system-site-packages does."""
    home = lab.researcher_home
    for folder in ("modules", "amd"):
        (home / folder).mkdir(exist_ok=True)
    (home / "modules/ray-of-the-site").write_text(
        f"#%Module\nprepend-path PATH {ray_venv}/bin\nprepend-path PYTHONPATH /home/researcher/amd\n"
    )
    (home / "amd/amdsmi.py").write_text(AMDSMI)
    (home / "modules/apptainer").write_text("#%Module\nprepend-path PATH /srv/lab/run/inside/runtime\n")
    (home / "probe.py").write_text(PROBE)
    project = lab.path("LAB_RUN") / "areas/projappl" / lab.fact("PROJECT")
    inside = f"/opt/ray/{packages.relative_to(ray_venv)}"
    shows = {"/usr": "/usr", "/etc": "/etc", "/opt/ray": str(ray_venv)}
    (project / "ray.sif").write_text(json.dumps({"shows": shows, "env": {"PATH": "/usr/bin:/bin"}}))
    place = f"{AREAS}/projappl/{lab.fact('PROJECT')}/venv"
    lab.sh(f"python3 -m venv --without-pip {place}", check=True)
    ours = next(project.glob("venv/lib/python3*/site-packages"))
    (ours / "below.pth").write_text(f"{packages}\n{inside}\n")  # what isn't there is left out
    (ours / "only_in_the_venv.py").write_text("WORD = 'seen'\n")


@pytest.mark.ray
def test_a_venv_over_modules_with_amds_devices(lab: Lab, jobs: Jobs) -> None:
    job = jobs.amd
    lab.wait(lambda: job.has("work/seen.json"), 90, "what the driver saw")
    assert job.end() == "COMPLETED"
    seen = job.read("work/seen.json")
    assert seen["above"][:3] == ["/usr/bin/python3", "-I", "ray_job.py"], "the node's own Python"
    assert seen["gpus"] == 2
    assert seen["driver"]["HIP_VISIBLE_DEVICES"] == "1,2", "as Slurm says, not counted from 0"
    assert sorted(worker["HIP_VISIBLE_DEVICES"] for worker in seen["workers"]) == ["1", "2"]
    for one in (seen["driver"], *seen["workers"]):
        assert not {"ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"} & set(one)
        assert one["prefix"] == f"{AREAS}/projappl/{lab.fact('PROJECT')}/venv"
        assert one["venv"] == "seen"
        assert one["ray"].startswith(jobs.site_packages)


@pytest.mark.ray
def test_a_container_with_nvidias_devices(lab: Lab, jobs: Jobs) -> None:
    job, nodes = jobs.nvidia, ("c1", "c2")
    lab.wait(lambda: job.has("work/seen.json"), 90, "what the driver saw")
    seen = job.read("work/seen.json")
    assert seen["gpus"] == 4
    devices = sorted((worker["node"], worker["CUDA_VISIBLE_DEVICES"]) for worker in seen["workers"])
    assert devices == [("c1", "0"), ("c1", "1"), ("c2", "0"), ("c2", "1")]
    for one in (seen["driver"], *seen["workers"]):
        assert one["ray"].startswith("/opt/ray/"), "a path that is inside only"
        assert (one["mode"], one["word"]) == ("token", "a b"), "into a clean environment"
        assert one["venv"] == "seen"
    for node in nodes:
        outside = lab.on(node, "readlink", "/proc/1/ns/mnt").stdout.strip()
        assert namespaces(lab, node, "ray_job.py --node") == {outside}
        assert outside not in namespaces(lab, node, "raylet/raylet")
        assert lab.on(node, "test", "-e", "/opt/ray", check=False).returncode != 0
        assert "apptainer exec --nv --cleanenv " in lab.on(node, "ps", "-u", "researcher", "-o", "args").stdout

    lab.sh(f"scancel {job.id}", check=True)
    assert job.end() == "CANCELLED"
    assert lab.sh(f"cat {job.run_dir}/work/seen.ended", check=True).stdout == "by TERM"
    lab.wait(lambda: not any(processes(lab, node) for node in nodes), 10, "no process of the job on its nodes")
    for node in nodes:
        assert lab.on(node, "find", "/tmp", "-user", "researcher", "-name", "rs-*").stdout == ""


def test_a_module_that_is_not_there_ends_the_job_with_its_name(jobs: Jobs) -> None:
    assert jobs.missing.end() == "FAILED"
    status = jobs.missing.read("status.json")
    assert (status["exit_code"], status["outcome"], status["job_id"]) == (1, "unusable", jobs.missing.id)
    assert status["reason"] == "exit status 1 in: module load no-such-module"


def processes(lab: Lab, node: str) -> str:
    return lab.on(node, "ps", "-u", "researcher", "-o", "pid=,args=", check=False).stdout


def namespaces(lab: Lab, node: str, pattern: str) -> set[str]:
    """Returns the mount namespaces of the processes of a name."""
    script = f'for pid in $(pgrep -u researcher -f "{pattern}"); do readlink /proc/$pid/ns/mnt; done'
    return set(lab.on(node, "bash", "-c", script).stdout.split())
