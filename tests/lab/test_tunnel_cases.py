"""A real Ray behind real tunnels, and all that can go wrong with them: each is told apart, and soon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


def await_up(lab: Lab, job: Job) -> None:
    lab.wait(lambda: job.state() == "up", 120, "the tunnel is up")


def kill(lab: Lab, node: str, pattern: str) -> None:
    lab.on(node, "pkill", "-KILL", "-f", pattern)


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_every_end_of_a_tunnel_is_told_apart_and_soon(lab: Lab, ray_venv: Path, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path, ray=ray_venv)
    cases = Cases(lab)
    with own_site(lab), rayslurm.serving():
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
