"""Who gets into a job's Ray: other users on the head's node, on another node and on the VM try every way there is.

The owner tries the same ways with the token and gets in everywhere, or the others' failure would show nothing.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.lab.intruder import IN
from tests.lab.lab import Lab
from tests.lab.serving import SITE, Rayslurm, configure, own_site
from tests.lab.test_thin_line import of_status

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

INTRUDER = Path(__file__).with_name("intruder.py")
GUARDED = """\
site: lab
name: guarded
cluster: {nodes: 2, cpus_per_node: 1, memory_per_node: 3000M, object_store_per_node: 200M, time: 20m}
"""
OLD = """\
site: lab
name: old
cluster: {{nodes: 1, cpus_per_node: 2, memory_per_node: 2000M, object_store_per_node: 200M, time: 20m{exclusive}}}
ray: {{allow_unauthenticated_ray: {allowed}, dashboard_tunnel: {tunnel}}}
"""


@dataclass
class Tried:
    """What somebody who ran the intruder found: the outcome of each way, and of each file."""

    ways: dict[str, str]
    files: dict[str, str]

    @property
    def got_in(self) -> set[str]:
        return {way for way, outcome in self.ways.items() if outcome == IN}


@dataclass
class Target:
    """A job with a Ray, and how to set the intruder on it."""

    lab: Lab
    launched: dict[str, Any]
    ready: dict[str, Any]
    ray: Path
    tried: dict[str, Tried] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return str(self.ready["head_node"])

    @property
    def run_dir(self) -> Path:
        """The run folder, as this machine has it."""
        return at_site(self.lab, self.launched["run_dir"])

    @property
    def token(self) -> str:
        return (self.run_dir / "ray_auth_token").read_text()

    def plan(self, mark: str, ways: str, **changes: Any) -> str:
        """Returns the intruder's plan; for the dashboard the head's address, if nothing else is said."""
        plan = {
            "mark": mark,
            "ways": ways.split(),
            "token": None,
            "address": self.ready["head_ip"],
            "ports": self.ready["ports"],
            "dashboard": f"{self.ready['head_ip']}:{self.ready['ports']['dashboard']}",
            "attempts": 1,
            "paths": [],
        }
        return json.dumps(plan | changes)

    def submit(self, user: str, node: str, mark: str, ways: str, **changes: Any) -> str:
        """Submits a job of a user that tries on a node; returns its id."""
        lab = self.lab
        home = lab.path(f"HOME_{user.upper()}")
        texts = {"intruder.py": INTRUDER.read_text(), f"{mark}.json": self.plan(mark, ways, **changes)}
        for name, text in texts.items():
            (home / name).touch(0o600)
            os.chown(home / name, home.stat().st_uid, home.stat().st_gid)
            (home / name).write_text(text)
        options = ("-p", "small", "-w", node, "-n1", "--mem=1500", "-t", "5")
        return lab.sbatch(*options, wrap=f"{self.ray}/bin/python intruder.py {mark}.json", user=user)

    def collect(self, job_id: str, user: str) -> Tried:
        """Waits for such a job's end and returns what it found."""
        lab = self.lab
        lab.wait(lambda: lab.state(job_id) not in {"", "PENDING", "RUNNING"}, 200, f"the end of job {job_id}")
        return self._read((lab.path(f"HOME_{user.upper()}") / f"out-{job_id}").read_text())

    def on_the_vm(self, mark: str, ways: str, **changes: Any) -> Tried:
        """Tries as another account of the VM, through the tunnel's end there."""
        home = self.lab.cloud_home.with_name("neighbour")
        (home / "intruder.py").write_text(INTRUDER.read_text())
        where = {"dashboard": f"127.0.0.1:{self.launched['dashboard_port']}"}
        (home / "plan.json").write_text(self.plan(mark, ways, **where, **changes))
        words = ("setpriv", "--reuid=neighbour", "--regid=neighbour", "--clear-groups", "env", "HOME=/home/neighbour")
        program = (f"{self.ray}/bin/python", "/home/neighbour/intruder.py", "/home/neighbour/plan.json")
        return self._read(self.lab.on("cloud", *words, *program, timeout=120).stdout)

    def marks(self, mark: str) -> set[str]:
        """Returns what the programs of an intruder left in the home of the job's owner."""
        return {path.name.removeprefix(f"{mark}-") for path in self.lab.researcher_home.glob(f"{mark}-*")}

    @staticmethod
    def _read(text: str) -> Tried:
        return Tried(**json.loads(text.splitlines()[-1]))


def at_site(lab: Lab, run_dir: str) -> Path:
    """Returns where this machine has a folder in the researcher's home."""
    return lab.researcher_home / Path(run_dir).relative_to("/home/researcher")


def launch(rayslurm: Rayslurm, spec: str) -> dict[str, Any]:
    (rayslurm.folder / "spec.yaml").write_text(spec)
    launched: dict[str, Any] = rayslurm.json("launch", str(rayslurm.folder / "spec.yaml"))
    return launched


def await_ready(lab: Lab, launched: Mapping[str, Any]) -> dict[str, Any]:
    run_dir = at_site(lab, launched["run_dir"])
    ready_file, summary = run_dir / "ready.json", run_dir / "summary.json"
    try:
        lab.wait(lambda: ready_file.exists() or summary.exists(), 120, "ready.json")
        if not ready_file.exists():
            raise TimeoutError("it ended before Ray was ready")
    except TimeoutError as error:
        said = "\n".join(path.read_text() for path in run_dir.glob("slurm-*.out"))
        raise AssertionError(f"{error}: job {launched['job_id']} is {lab.state(launched['job_id'])}\n{said}") from None
    ready: dict[str, Any] = json.loads((run_dir / "ready.json").read_text())
    return ready


def launch_old(lab: Lab, rayslurm: Rayslurm) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a job with an old Ray, and what it says of itself.

    Such a Ray gives its dashboard 30 s to start, which a busy machine doesn't always manage: then it is tried again.
    """
    for _ in range(2):
        launched = launch(rayslurm, OLD.format(exclusive=", exclusive: true", allowed="true", tunnel="true"))
        try:
            return launched, await_ready(lab, launched)
        except AssertionError as error:
            if "start_api_server" not in str(error):
                raise
    launched = launch(rayslurm, OLD.format(exclusive=", exclusive: true", allowed="true", tunnel="true"))
    return launched, await_ready(lab, launched)


@pytest.fixture(scope="module")
def guarded(lab: Lab, ray_venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    rayslurm = configure(lab, tmp_path_factory.mktemp("guarded"), ray=ray_venv)
    home = lab.researcher_home
    usual = stat.S_IMODE(home.stat().st_mode)
    with own_site(lab):
        launched = launch(rayslurm, GUARDED)
        target = Target(lab, launched, await_ready(lab, launched), ray_venv)
        # Scratch folders, where runs usually are, are open to a project: the run folder must guard itself.
        home.chmod(0o755)
        (home / "rayslurm").chmod(0o755)
        run_dir, session = launched["run_dir"], f"/tmp/rs-{launched['job_id']}"
        names = ("", "/ray_auth_token", "/plan.json", "/ready.json", "/status.json", "/logs", "/logs/head.log", "/work")
        paths = [*(run_dir + name for name in names), f"{run_dir}/slurm-{launched['job_id']}.out"]
        paths += [session, f"{session}/r", f"{session}/r/session_latest/logs"]
        dashboard = {"dashboard": f"127.0.0.1:{target.ready['ports']['dashboard']}", "paths": paths}
        token = target.token
        everything = "http grpc objects client driver join"
        jobs = {
            "the owner": ("researcher", target.submit(
                "researcher", target.head, "owner", "http grpc client driver", token=token, attempts=4, **dashboard)),
            "on the head's node": ("colleague", target.submit(
                "colleague", target.head, "beside", everything, **dashboard)),
            "there with another token": ("colleague", target.submit(
                "colleague", target.head, "guess", "http grpc objects client", token="0" * len(token), **dashboard)),
            "on another node": ("colleague", target.submit("colleague", "c3", "elsewhere", everything)),
        }  # fmt: skip
        target.tried["on the VM"] = target.on_the_vm("vm", "http grpc")
        target.tried["there with another token too"] = target.on_the_vm("vm", "http", token="0" * len(token))
        for who, (user, job_id) in jobs.items():
            target.tried[who] = target.collect(job_id, user)
        for who, found in target.tried.items():
            print(who, json.dumps(asdict(found), indent=1))
        yield target
        home.chmod(usual)


def test_the_owner_gets_in(guarded: Target) -> None:
    found = guarded.tried["the owner"]
    ways = {way for way in found.ways if way.startswith(("dashboard GET /api", "dashboard GET /nodes", "ray.init"))}
    assert len(ways) >= 6
    assert ways | {"dashboard POST /api/jobs/", "agent POST /api/job_agent/jobs/", "gcs"} <= found.got_in
    told = {outcome for way, outcome in found.ways.items() if "/.." not in way}
    assert not {"401", "403", "UNAUTHENTICATED", "UNAVAILABLE"} & told, "what fails there fails not for want of a token"
    guarded.lab.wait(lambda: guarded.marks("owner") >= {"client", "driver", "job"}, 60, "the owner's programs run")
    empty = {path for path, outcome in found.files.items() if outcome != IN}
    assert empty <= {f"{guarded.launched['run_dir']}/work"}, found.files


@pytest.mark.parametrize(
    ("where", "refusals"),
    [
        ("on the head's node", {"401", "403", "UNAUTHENTICATED"}),
        ("there with another token", {"403", "UNAUTHENTICATED"}),
        ("on another node", {"401", "ConnectionRefusedError", "UNAUTHENTICATED"}),
        ("on the VM", {"401", "403", "UNAVAILABLE", "OSError"}),
        ("there with another token too", {"403"}),
    ],
)
def test_nobody_else_gets_in(guarded: Target, where: str, refusals: set[str]) -> None:
    found = guarded.tried[where]
    assert found.got_in == set()
    programs = {way: told for way, told in found.ways.items() if way.startswith("ray")}
    assert {found.ways[way] for way in found.ways if way not in programs} <= refusals, found.ways
    assert all("Error" in told for told in programs.values()), programs
    # Nor was anything left to run later: the owner's programs have long been through.
    marks = {"on the head's node": "beside", "there with another token": "guess", "on another node": "elsewhere"}
    assert guarded.marks(marks.get(where, "vm")) == set()


def test_ray_has_no_more_nodes_and_jobs_than_the_owners(guarded: Target) -> None:
    headers = {"Authorization": f"Bearer {guarded.token}"}
    url = f"http://127.0.0.1:{guarded.launched['dashboard_port']}"
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=20) as ray:
        nodes = ray.get("/api/v0/nodes").raise_for_status().json()["data"]["result"]["result"]
        jobs = ray.get("/api/jobs/").raise_for_status().json()
    assert {node["node_ip"] for node in nodes} == {node["ip"] for node in guarded.ready["nodes"]}
    submitted = {job["entrypoint"] for job in jobs if job["type"] == "SUBMISSION"}
    assert submitted == {"touch ~/owner-job", "touch ~/owner-agent"}


def test_what_lies_on_the_disks_is_the_owners_alone(guarded: Target) -> None:
    files = guarded.tried["on the head's node"].files
    assert set(files) == set(guarded.tried["the owner"].files)
    assert set(files.values()) == {"PermissionError"}, files


def test_no_process_shows_the_token(guarded: Target) -> None:
    everything = "cat /proc/[0-9]*/{cmdline,environ} 2>/dev/null | tr '\\0' '\\n'"
    for node in ("c1", "c2"):
        shown = guarded.lab.on(node, "bash", "-c", everything).stdout
        assert "ray_auth_token" in shown, "Ray runs there"
        assert guarded.token not in shown


def test_it_tells_itself_that_nothing_of_it_is_open_without_a_token(guarded: Target) -> None:
    def told() -> list[Any] | None:
        found: list[Any] | None = json.loads((guarded.run_dir / "status.json").read_text())["open_listeners"]
        return found

    assert guarded.lab.wait(lambda: [] if (found := told()) is None else [found], 90, "its nodes' looks") == [[]]
    logs = [path.read_text() for path in (guarded.run_dir / "logs").glob("*.log")]
    looks = [line for log in logs for line in log.splitlines() if '"open"' in line]
    assert len(looks) == 2, looks
    assert all(line.endswith('"open": []}') for line in looks), looks


def test_an_old_ray_on_nodes_of_many_is_refused(lab: Lab, old_ray_venv: Path, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path, ray=old_ray_venv)
    with own_site(lab), rayslurm.serving():
        launched = launch(rayslurm, OLD.format(exclusive="", allowed="false", tunnel="true"))
        job = {"site": SITE, "job_id": launched["job_id"]}
        lab.wait(lambda: rayslurm.value("job_state", **job, state="failed") == 1, 90, "its end on /metrics")
        (row,) = lab.sacct(launched["job_id"], ["state", "exitcode"], "-X")
        assert row == {"state": "FAILED", "exitcode": "77:0"}
        lab.wait(lambda: (of_status(rayslurm, launched["job_id"])["run"] or {}).get("reason"), 60, "why")
        shown = of_status(rayslurm, launched["job_id"])["run"]["reason"]
        assert "Ray 2.47 has no token authentication (2.52 is the first)" in shown
        assert "use a newer one, or allow_unauthenticated_ray on exclusive nodes" in shown
    run_dir = at_site(lab, launched["run_dir"])
    assert "starting_head" not in (run_dir / f"slurm-{launched['job_id']}.out").read_text(), "nothing was started"
    assert not (run_dir / "ready.json").exists()


def test_an_old_ray_is_not_launched_where_others_are(lab: Lab, old_ray_venv: Path, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path, ray=old_ray_venv)
    sent = len(lab.site_log())
    refusals = (("", "false", "set cluster.exclusive"), (", exclusive: true", "true", "vm.shared: false"))
    for exclusive, tunnel, told in refusals:
        (tmp_path / "spec.yaml").write_text(OLD.format(exclusive=exclusive, allowed="true", tunnel=tunnel))
        done = rayslurm.run("launch", str(tmp_path / "spec.yaml"), "--force", check=False)
        assert done.returncode == 4, done.stderr
        assert told in done.stderr
    assert not [entry for entry in lab.site_log()[sent:] if entry.program == "sbatch"]


def test_an_old_ray_on_nodes_of_its_own(lab: Lab, old_ray_venv: Path, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path, ray=old_ray_venv)
    config = tmp_path / "rayslurm.yaml"
    config.write_text(config.read_text().replace("vm:\n", "vm:\n  shared: false\n"))
    with own_site(lab):
        launched, ready = launch_old(lab, rayslurm)
        target = Target(lab, launched, ready, old_ray_venv)
        assert target.ready["authentication"] == "none"

        # On its node there is nobody else.
        refused = lab.sh(f"srun --jobid={launched['job_id']} --overlap id", "colleague")
        assert refused.returncode != 0
        assert "Access/permission denied" in refused.stderr
        waiting = lab.sbatch("-p", "small", "-w", target.head, "-n1", "--mem=100", wrap="true", user="colleague")
        state = ("squeue", "-h", "-j", waiting, "-o", "%T %r")
        lab.wait(lambda: lab.on("login", *state).stdout == "PENDING Resources\n", 30, "that others find no room")

        # What docs/security.md says of other nodes and of the VM.
        elsewhere = target.collect(target.submit("colleague", "c3", "open", "grpc client", attempts=4), "colleague")
        assert {"ray.init client", "gcs"} <= elsewhere.got_in
        assert "client" in target.marks("open")
        assert "dashboard POST /api/jobs/" in target.on_the_vm("through", "http").got_in
        lab.wait(lambda: target.marks("through") >= {"job"}, 60, "a neighbour's program on the VM runs at the site")
        assert lab.on("login", *state).stdout == "PENDING Resources\n"
        lab.sh(f"scancel {launched['job_id']}", check=True)
        lab.wait(lambda: lab.state(waiting) == "COMPLETED", 60, "others come when it has ended")
    lab.wait((target.run_dir / "summary.json").exists, 30, "its summary")
    told = json.loads((target.run_dir / "summary.json").read_text())["open_listeners"]
    assert {(row["node"], row["program"]) for row in told} == {(target.head, "Ray")}
    ports = {port for row in told for port in row["ports"]}
    assert {target.ready["ports"]["gcs"], target.ready["ports"]["client"]} <= ports
    assert target.ready["ports"]["metrics"] not in ports
