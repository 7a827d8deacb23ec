"""A real Ray behind real tunnels, and all that can go wrong with them: each is told apart, and soon."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporter.tunnels.listeners import listeners
from exporter.tunnels.secrets import secret_path
from tests.lab.lab import Lab
from tests.lab.serving import SITE, Rayslurm, configure, own_site
from tests.lab.tunnel_cases import Cases

SPEC = """\
site: lab
name: {name}
cluster:
  {{nodes: {nodes}, cpus_per_node: 2, memory_per_node: 3000M, object_store_per_node: 200M, time: 20m, partition: small}}
ray: {{metrics_tunnels: false}}
directives: ["--nodelist={on}"]
"""

# Takes a port as soon as it is free, says so, and answers over HTTP.
TAKER = """
import http.server, sys, time
while True:
    try:
        server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)
    except OSError:
        time.sleep(0.01)
    else:
        print("taken", flush=True)
        server.serve_forever()
"""


class Job:
    """A launched job and what is shown of it."""

    def __init__(self, rayslurm: Rayslurm, name: str, *, nodes: int, on: str) -> None:
        self.rayslurm = rayslurm
        spec = rayslurm.folder / f"{name}.yaml"
        spec.write_text(SPEC.format(name=name, nodes=nodes, on=on))
        self.launched: dict[str, Any] = rayslurm.json("launch", str(spec))
        self.labels = {"site": SITE, "job_id": self.launched["job_id"]}

    def state(self) -> str:
        """How its tunnel is shown to be; "absent" where it isn't shown."""
        shown = [
            dict(labels)["state"]
            for labels, value in self.rayslurm.samples().get("rayslurm_tunnel_state", {}).items()
            if value == 1 and self.labels.items() <= dict(labels).items()
        ]
        return shown[0] if len(shown) == 1 else "absent"

    def alive(self) -> str:
        """How many nodes of its Ray are alive."""
        value = self.rayslurm.value("ray_nodes", **self.labels, state="alive")
        return "unknown" if value is None else f"{value:.0f} alive"

    def restarts(self) -> float:
        """How often its dashboard's tunnel was started again, as far as it is shown."""
        return self.rayslurm.value("tunnel_restarts_total", **self.labels, tunnel="dashboard") or 0


def await_up(lab: Lab, job: Job) -> None:
    lab.wait(lambda: job.state() == "up", 120, "the tunnel is up")


class Vm:
    """The cloud VM as one that loses its power and boots again: sshd, serve and all that listened are gone."""

    def __init__(self, lab: Lab, rayslurm: Rayslurm, jobs: list[Job]) -> None:
        self.lab, self.rayslurm, self.jobs = lab, rayslurm, jobs
        self.kept = self.held()
        self.restarts: list[float] = []

    def held(self) -> tuple[str, set[tuple[int, str]]]:
        """The keys that its sshd takes, and the ports that jobs have."""
        leases = self.rayslurm.json("tunnels", "list")
        keys = (self.lab.cloud_home / ".ssh/authorized_keys").read_text()
        return keys, {(lease["port"], lease["job_id"]) for lease in leases}

    def lose_power(self, serve: subprocess.Popen[bytes]) -> None:
        """Ends all of it at once, and waits until nobody listens any more."""
        self.kept = self.held()
        self.restarts = [job.restarts() for job in self.jobs]
        serve.kill()
        serve.wait()
        self.lab.on("cloud", "sh", "-c", "pkill -KILL -x sshd; while pgrep -x sshd; do sleep 0.1; done")
        ports = {port for port, _ in self.kept[1]}
        self.lab.wait(lambda: ports.isdisjoint(listeners()), 20, "nobody listens")

    @contextmanager
    def boot(self, clock: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Starts sshd and serve meanwhile; where a file of libfaketime's says how late its clock is, with that."""
        self.lab.on("cloud", "/usr/sbin/sshd", "-f", "/run/sshd_config", "-E", "/var/log/sshd_cloud.log")
        extra: dict[str, str] = {}
        if clock is not None:
            (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
            extra = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
            extra["FAKETIME_DONT_FAKE_MONOTONIC"] = "1"
        with replace(self.rayslurm, extra=extra).serving() as serve:
            yield serve

    def state(self) -> str:
        """Whether all tunnels are found again: up, known to have been started anew, and with their ports and keys."""
        states = {job.state() for job in self.jobs}
        told = [job.restarts() > before for job, before in zip(self.jobs, self.restarts, strict=True)]
        if states != {"up"} or not all(told):
            return f"{' '.join(sorted(states))}, {told.count(False)} of unknown restarts"
        return "up" if self.held() == self.kept else "up, with other ports or keys"


def clock_of(rayslurm: Rayslurm) -> float:
    """When a tunnel was last up, by the clock of serve; 0 where that is past its time."""
    return max(rayslurm.samples().get("rayslurm_tunnel_last_success_timestamp_seconds", {}).values(), default=0)


def kill(lab: Lab, node: str, pattern: str) -> None:
    lab.on(node, "pkill", "-KILL", "-f", pattern)


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_every_end_of_a_tunnel_is_told_apart_and_soon(lab: Lab, ray_venv: Path, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path, ray=ray_venv)
    cases = Cases(lab)
    with own_site(lab), ExitStack() as running:
        serve = running.enter_context(rayslurm.serving())
        pair = Job(rayslurm, "pair", nodes=2, on="c1,c2")
        single = Job(rayslurm, "single", nodes=1, on="c3")
        for job in (pair, single):
            await_up(lab, job)
        ssh = f"^ssh .*127.0.0.1:{pair.launched['dashboard_port']}:"

        kill(lab, "c1", ssh)
        cases.expect("ssh killed", "refused", pair.state)
        cases.expect("ssh started again by the job", "up", pair.state)

        taker = subprocess.Popen(
            [sys.executable, "-c", TAKER, str(pair.launched["dashboard_port"])],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=tmp_path,
        )
        try:
            kill(lab, "c1", ssh)
            assert taker.stdout is not None
            assert taker.stdout.readline() == b"taken\n"
            cases.expect("port taken by another program", "foreign", pair.state)
        finally:
            taker.kill()
            taker.communicate()
        cases.expect("the other program ended", "up", pair.state, within=75)

        secret = secret_path(rayslurm.state_dir, pair.launched["token"])
        kept = secret.read_text()
        secret.write_text("0" * len(kept))
        cases.expect("another token", "auth", pair.state)
        secret.write_text(kept)
        cases.expect("the right token again", "up", pair.state)

        lab.cut()
        cases.expect("link to the VM cut", "timeout", pair.state)
        lab.mend()
        cases.expect("link healed", "up", pair.state)

        lab.on("cloud", "sh", "-c", "pkill -KILL -x sshd; while pgrep -x sshd; do sleep 0.1; done")
        cases.expect("the VM's sshd ended", "refused", pair.state)
        lab.on("cloud", "/usr/sbin/sshd", "-f", "/run/sshd_config", "-E", "/var/log/sshd_cloud.log")
        cases.expect("the VM's sshd started again", "up", pair.state, within=75)
        await_up(lab, single)

        vm = Vm(lab, rayslurm, [pair, single])
        vm.lose_power(serve)
        serve = running.enter_context(vm.boot())
        cases.expect("the VM booted again", "up", vm.state, within=75)

        clock = tmp_path / "clock"
        clock.write_text("-1d\n")
        vm.lose_power(serve)
        serve = running.enter_context(vm.boot(clock))
        cases.expect("the VM booted again a day behind", "up", vm.state, within=75)
        lab.wait(lambda: clock_of(rayslurm) < time.time() - 80000, 20, "what is shown is of the day before")
        clock.write_text("+0\n")
        lab.wait(lambda: clock_of(rayslurm) > time.time() - 60, 40, "what is shown is of now")
        cases.expect("the VM's clock set right", "up", vm.state)
        serve.kill()  # under libfaketime its time.sleep() fails, and so it would not end by itself
        serve.wait()
        running.enter_context(rayslurm.serving())

        lab.wait(lambda: pair.alive() == "2 alive", 40, "two nodes alive")
        kill(lab, "c2", "^[^ ]*/raylet/raylet ")
        cases.expect("worker killed", "1 alive", pair.alive, within=60)

        kill(lab, "c1", "^[^ ]*/(gcs/gcs_server|raylet/raylet) ")
        lab.wait(lambda: pair.state() != "up", 60, "the head's end is seen")
        cases.expect("head killed", "absent", pair.state, within=60)

        # Without power nobody says goodbye; here the kernel would, for the processes of a node that it ends.
        lab.cut()
        lab.kill_node("c3")
        lab.mend()
        try:
            # In which way the connection ends is the network's affair.
            cases.expect("the job's node dead", "not up", lambda: "up" if single.state() == "up" else "not up")
        finally:
            lab.start_node("c3")

        third = Job(rayslurm, "third", nodes=1, on="c1")
        await_up(lab, third)
        rayslurm.run("cancel", f"{SITE}/{third.launched['job_id']}", "--yes")
        cases.expect("job cancelled", "absent", third.state, within=60)
    assert [case for case in cases.seen if not case.right] == []
    assert "Traceback" not in rayslurm.log()
