"""Real jobs that end in every way there is: the reason is told in `rayslurm status`, and nothing of them is left.

The jobs run beside each other as far as none disturbs another; each test waits for its own.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.job_ends import SEEN_AS, End, Ends
from tests.lab.job_faults import Neighbour, asking_ray, fill, older_ray, small_disk, taken_ports
from tests.lab.lab import Lab
from tests.lab.serving import SITE, configure, own_site

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

CONTROL = 9999
AT_ONCE = 5
NO_RAY = "/usr/local/bin:/usr/bin:/bin"

WORK = """
import ray
ray.init()
@ray.remote
def double(number): return 2 * number
print(len(ray.nodes()), "node with", sum(ray.get([double.remote(number) for number in range(4)])))
"""
SPILL = f"""
import os, time, ray
ray.init()
print("connected", flush=True)
while not os.path.exists("{SEEN_AS}/full"):
    time.sleep(0.1)
objects = [ray.put(b"x" * 40_000_000) for _ in range(8)]
"""


# --- how they are made to end -----------------------------------------------------------------------------------------


def no_ray(ends: Ends) -> End:
    return ends.await_end(ends.launch("no-ray", "l1", path=NO_RAY))


def no_head(ends: Ends) -> End:
    nobody = {"RAY_REDIS_ADDRESS": "127.0.0.1:1", "RAY_redis_db_connect_retries": "2"}
    return ends.await_end(ends.launch("no-head", "l1", ray={"env": nobody}))


def no_worker(ends: Ends) -> End:
    """Ray is on the disk of the first node only."""
    ends.lab.on("l1", "mkdir", "-p", "/tmp/venv")
    ends.lab.on("l1", "ln", "-sfn", f"{ends.ray}/bin/ray", "/tmp/venv/ray")
    return ends.await_end(ends.launch("no-worker", "l1", "l2", path=f"/tmp/venv:{NO_RAY}"))


def old_worker(ends: Ends) -> End:
    older_ray(ends.home / "old", f"{SEEN_AS}/old", ends.ray, "c2")
    return ends.await_end(ends.launch("old-worker", "c1", "c2", path=f"{SEEN_AS}/old:{ends.ray}/bin:{NO_RAY}"))


def limit(ends: Ends) -> End:
    """One of two nodes is lost, and Slurm warns of the limit."""
    job = ends.launch("limit", "l1", "l2", cluster={"time": "2m"}, warn_before_end="30s")
    ends.reach(job, "ready")
    raylets = [
        str(one["pid"])
        for one in ends.look("l2")["processes"]
        if one["job_id"] == job.job_id and "/raylet " in one["arguments"]
    ]
    ends.lab.on("l2", "kill", "-KILL", *raylets)
    ends.wait(job, lambda: job.status["nodes_lost"], "a lost node in status.json")
    job.facts.update(job.status)
    return ends.await_end(job)


def success(ends: Ends) -> End:
    (ends.home / "work.py").write_text(WORK)
    return ends.await_end(ends.launch("success", "c1", entrypoint=f"python3 {SEEN_AS}/work.py"))


def cancelled(ends: Ends) -> End:
    job = ends.launch("cancelled", "c1")
    ends.reach(job, "ready")
    ends.lab.sh(f"scancel {job.job_id}", check=True)
    return ends.await_end(job)


def failure(ends: Ends) -> End:
    """Others take the ports of the head, of its dashboard and of its tunnel; the entrypoint runs all the same."""
    asking_ray(ends.home / "asking/ray", ends.ray, CONTROL)
    path = f"{SEEN_AS}/asking:{ends.ray}/bin:{NO_RAY}"
    entrypoint = f"until [ -e {SEEN_AS}/seen ]; do sleep 0.2; done; exit 7"
    with taken_ports(ends.lab, "c2", CONTROL):
        job = ends.launch("failure", "c2", path=path, entrypoint=entrypoint)
        with socket.create_server(("127.0.0.1", job.dashboard_port)):
            ends.reach(job, "driver")
            ends.wait(job, lambda: job.status["tunnels"][0]["reason"], "a failed tunnel in status.json")
            job.facts.update(job.status, starts=job.starts())
    up = {"site": SITE, "job_id": job.job_id}
    up |= {"tunnel": "dashboard"}
    ends.wait(job, lambda: ends.rayslurm.value("tunnel_up", **up) == 1, "a tunnel, once the port is free")
    (ends.home / "seen").touch()
    return ends.await_end(job)


def full_disk(ends: Ends) -> End:
    with small_disk(ends.lab, "l2", "/tmp/full", 40):
        fill(ends.lab, "l2", "/tmp/full")
        return ends.await_end(ends.launch("full-disk", "l2", temp_dir="/tmp/full"))


def filling_disk(ends: Ends) -> End:
    (ends.home / "spill.py").write_text(SPILL)
    with small_disk(ends.lab, "l2", "/tmp/filling", 150):
        job = ends.launch("filling-disk", "l2", temp_dir="/tmp/filling", entrypoint=f"python3 {SEEN_AS}/spill.py")
        ends.wait(job, lambda: "connected" in job.output, "Ray in the entrypoint")
        fill(ends.lab, "l2", "/tmp/filling")
        (ends.home / "full").touch()
        return ends.await_end(job)


@dataclass(frozen=True)
class Dead:
    """What became of two jobs on a node without power: it was the worker of one, and the head of the other."""

    worker: End
    head: End


def dead_node(ends: Ends) -> Dead:
    of_worker, of_head = ends.launch("dead-worker", "c2", "c3"), ends.launch("dead-head", "c3")
    ends.reach(of_worker, "ready")
    ends.reach(of_head, "ready")
    ends.lab.kill_node("c3")
    ends.await_gone(of_worker)
    ends.await_gone(of_head)
    ends.lab.start_node("c3")
    return Dead(ends.await_end(of_worker), ends.await_end(of_head))


@dataclass(frozen=True)
class All:
    """All that was made to end, and another Ray that the same user has on the node of two of the jobs."""

    futures: dict[Callable[[Ends], object], Future[object]]
    neighbour: Neighbour

    def __getitem__(self, scenario: Callable[[Ends], object]) -> End:
        end = self.futures[scenario].result()
        assert isinstance(end, End)
        return end


@pytest.fixture(scope="module")
def ended(lab: Lab, ray_venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[All]:
    folder = tmp_path_factory.mktemp("ends")
    rayslurm = configure(lab, folder, ray_command="ray", temp_dir="$SCRATCH", partition="small")
    with own_site(lab), rayslurm.serving(), ThreadPoolExecutor(AT_ONCE) as pool:
        ends = Ends(lab, rayslurm, ray_venv)
        neighbour = Neighbour(lab, "c1", ends.home / "neighbour", f"{SEEN_AS}/neighbour", ray_venv)
        # First those that wait for Slurm most of their time.
        first = (dead_node, limit, failure, no_ray, no_head, full_disk)
        futures: dict[Callable[[Ends], object], Future[object]] = {one: pool.submit(one, ends) for one in first}
        neighbour.await_beat()
        for one in (success, cancelled, old_worker, no_worker, filling_disk):
            futures[one] = pool.submit(one, ends)
        yield All(futures, neighbour)
    assert "Traceback" not in rayslurm.log()


# --- how they ended ---------------------------------------------------------------------------------------------------


def first_line(end: End) -> str:
    """Returns the first line of the reason, which is the one that the table shows."""
    first = end.reason.splitlines()[0]
    assert first[:119] in end.row
    return first


def test_an_environment_without_ray(ended: All) -> None:
    end = ended[no_ray]
    assert end.slurm == ("FAILED", "64:0")
    assert (end.run["outcome"], end.run["exit_code"]) == ("unusable", 64)
    assert first_line(end).startswith("ray could not be run")
    assert end.left == []


def test_a_head_that_does_not_start(ended: All) -> None:
    end = ended[no_head]
    assert end.slurm == ("FAILED", "69:0")
    assert (end.run["outcome"], end.run["exit_code"]) == ("start_failed", 69)
    assert first_line(end).startswith("the head on l1 did not start: ")
    assert "RedisError: Could not establish connection to Redis 127.0.0.1:1" in first_line(end)
    assert end.left == []


def test_a_worker_that_does_not_start(ended: All) -> None:
    end = ended[no_worker]
    assert end.slurm == ("FAILED", "69:0")
    assert (end.run["outcome"], end.run["exit_code"]) == ("start_failed", 69)
    assert first_line(end).startswith("the worker on l2 did not start: ray could not be run")
    assert end.left == []


def test_a_worker_with_another_version_of_ray(ended: All) -> None:
    end = ended[old_worker]
    assert end.slurm == ("FAILED", "69:0")
    told = first_line(end)
    assert told.startswith("the worker on c2 did not start: it has Ray 2.59.0 and Python 3.")
    assert ", the head has Ray 2.60.0 and Python 3." in told
    assert end.left == []


def test_a_worker_that_dies_later(ended: All) -> None:
    end = ended[limit]
    seen = end.job.facts
    assert (seen["phase"], seen["nodes_lost"]) == ("ready", ["l2"]), "the job goes on"
    assert "the cluster goes on without a node: the worker on l2 ended: raylet exit code -9" in end.job.output
    assert end.run["summary"]["nodes_lost"] == ["l2"]


def test_the_limit_nears(ended: All) -> None:
    end = ended[limit]
    assert end.slurm == ("COMPLETED", "0:0")
    assert (end.run["outcome"], end.run["exit_code"]) == ("limit", 0)
    assert first_line(end) == "the time limit is near"
    assert end.left == []


def test_an_entrypoint_that_succeeds(ended: All) -> None:
    end = ended[success]
    assert "1 node with 12" in end.job.output
    assert end.slurm == ("COMPLETED", "0:0")
    assert (end.run["outcome"], end.run["exit_code"]) == ("succeeded", 0)
    assert first_line(end) == "the entrypoint ended with exit status 0"
    assert end.left == []


def test_an_entrypoint_that_fails(ended: All) -> None:
    end = ended[failure]
    assert end.slurm == ("FAILED", "7:0")
    assert (end.run["outcome"], end.run["exit_code"]) == ("failed", 7)
    assert first_line(end) == "the entrypoint ended with exit status 7"
    assert end.left == []


def test_ports_of_the_head_that_others_take(ended: All) -> None:
    head = ended[failure].job.facts["starts"]
    assert [one["attempt"] for one in head] == [1, 2, 3]
    first, second, third = (one["ports"] for one in head)
    assert not any(port % 1000 == 0 for ports in (first, second, third) for port in ports.values()), "taken before"
    assert ended[failure].job.output.count("head c2: a port was taken; trying others") == 2
    # Of the first attempt the head's port was taken after it was chosen, of the second its dashboard's.
    assert first["gcs"] != third["gcs"]
    assert second["dashboard"] != third["dashboard"]


def test_a_port_of_the_tunnel_that_somebody_has(ended: All) -> None:
    seen = ended[failure].job.facts
    assert seen["phase"] == "driver", "the job goes on"
    (tunnel,) = (one for one in seen["tunnels"] if one["name"] == "dashboard")
    assert f"remote port forwarding failed for listen port {ended[failure].job.dashboard_port}" in tunnel["reason"]


def test_a_cancelled_job(ended: All) -> None:
    end = ended[cancelled]
    assert end.slurm[0] == "CANCELLED by 20001"
    assert (end.run["outcome"], end.run["exit_code"]) == ("terminated", 143)
    assert first_line(end).startswith("SIGTERM came")
    assert end.left == []


def test_another_ray_of_the_same_user_lives_on(ended: All) -> None:
    assert ended[success].slurm[0] == "COMPLETED"
    assert ended[cancelled].slurm[0].startswith("CANCELLED")
    assert len(ended.neighbour.await_beat()) == 1, "its worker is still the first one"


def test_a_full_disk(ended: All) -> None:
    end = ended[full_disk]
    assert end.slurm == ("FAILED", "69:0")
    told = first_line(end)
    assert told.startswith("the head on l2 did not start: the temporary folder /tmp/full/rs-")
    assert "its disk is full, 0 of 40 MiB are free" in told
    assert end.left == []


def test_a_disk_that_fills_up(ended: All) -> None:
    end = ended[filling_disk]
    assert end.slurm == ("FAILED", "1:0")
    told = first_line(end)
    assert told.startswith("the entrypoint ended with exit status 1; the disk of /tmp/filling/rs-")
    assert told.endswith("was too full for Ray: 0 of 150 MiB free on l2")
    assert end.left == []


def test_a_node_without_power(ended: All) -> None:
    dead = ended.futures[dead_node].result()
    assert isinstance(dead, Dead)
    for end in (dead.worker, dead.head):
        assert end.slurm[0] == "NODE_FAIL"
        assert "node_fail" in end.row
        assert end.left == []
    assert first_line(dead.worker) == "Slurm ended the job: failure of c3"
    assert dead.worker.run["summary"]["nodes_lost"] == ["c3"]
    assert (dead.head.run["phase"], dead.head.run["reason"]) == ("ready", None), "nobody was left to say why"
    assert "Slurm lost a node of it; its supervisor's last word was of phase ready" in dead.head.row
