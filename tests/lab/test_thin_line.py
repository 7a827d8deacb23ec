"""A real Ray cluster on a real Slurm site, from the spec to the panel and to its end in accounting."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from exporter.tunnels.secrets import secret_path
from tests.lab.lab import Lab
from tests.lab.serving import SITE, Rayslurm, configure, own_site
from tests.panels import PanelResult, run_panels
from tests.prometheus_server import CLOSED, prometheus_server, query, render_config

DASHBOARD = Path(__file__).parents[2] / "grafana/dashboards/job.json"
SHOWN_WHILE_IT_RUNS = {
    "State",
    "Name",
    "Waited",
    "Elapsed",
    "To its limit",
    "One life",
    "What tasks and actors hold",
    "CPU of its nodes",
    "Memory of its nodes",
    "Network of its nodes",
    "Nodes of its Ray",
    "Idle for",
    "Tunnels",
    "Ray",
}
SHOWN_WHEN_IT_HAS_ENDED = {"State", "Name", "Elapsed", "One life", "Its times", "Its size"}
"""And more, which the panels of each query tell apart; a lab has no GPUs, no energy and no rates."""

SPEC = """\
site: lab
name: thin-line
cluster:
  nodes: 2
  cpus_per_node: 2
  memory_per_node: 3000M
  object_store_per_node: 200M
  time: "00:20:00"
ray:
  client_tunnel: true
"""


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_the_whole_way(lab: Lab, ray_venv: Path, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path, ray=ray_venv)
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert "all is well" in rayslurm.run("config", "check").stdout
    seen = rayslurm.json("doctor")  # it logs in, as nobody else does yet
    assert [one for one in seen["findings"] if one["level"] == "wrong"] == []
    assert any(one["site"] == SITE and one["level"] == "well" and "sacct" in one["text"] for one in seen["findings"])

    replacements = {
        "127.0.0.1:9810": f"127.0.0.1:{rayslurm.port}",
        "scrape_interval: 30s": "scrape_interval: 1s",
        "refresh_interval: 15s": "refresh_interval: 1s",
        "127.0.0.1:9093": CLOSED,
    }
    prometheus_config = render_config(tmp_path / "prometheus", replacements)
    with own_site(lab), rayslurm.serving(), prometheus_server(prometheus_config, tmp_path / "data") as prometheus:
        launched = rayslurm.json("launch", str(tmp_path / "spec.yaml"))
        assert launched["state"] == "submitted"
        job_id = launched["job_id"]
        job = {"site": SITE, "job_id": job_id}

        lab.wait(lambda: rayslurm.value("job_state", **job, state="running") == 1, 60, "running on /metrics")
        lab.wait(lambda: lab.state(job_id) == "RUNNING", 10, "running in accounting too")
        assert rayslurm.value("job_nodes", **job) == 2

        token = secret_path(rayslurm.state_dir, launched["token"]).read_text()
        ray = httpx.Client(
            base_url=f"http://127.0.0.1:{launched['dashboard_port']}",
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )
        with ray:
            nodes = lab.wait(lambda: two_alive(ray), 60, "two living nodes through the tunnel")
            assert {node["node_ip"] for node in nodes} == {lab.address("c1"), lab.address("c2")}
            version = ray.get("/api/version").raise_for_status().json()
        ready = json.loads(lab.sh(f"cat {launched['run_dir']}/ready.json", check=True).stdout)
        assert version["ray_version"] == ready["ray_version"]
        assert version["session_name"] == ready["session_name"]

        ready_time = lab.wait(lambda: rayslurm.value("job_ray_ready_timestamp_seconds", **job), 30, "when it was ready")
        assert ready_time == pytest.approx(ready["ready_time"], abs=0.001)
        assert rayslurm.value("ray_cluster_info", **job, ray_version=version["ray_version"]) == 1

        watch_the_cluster(lab, rayslurm, launched, prometheus)
        shows(lab, prometheus, SHOWN_WHILE_IT_RUNS)
        watch_the_tunnel(lab, rayslurm, launched)

        assert "cancel" in rayslurm.run("cancel", f"{SITE}/{job_id}", "--yes").stdout
        # Accounting tells of a job's end before that of its steps: what it used is shown when they have ended too.
        finished = {"site": SITE, "state": "cancelled"}
        lab.wait(lambda: rayslurm.value("jobs_finished_total", **finished) == 1, 90, "its end on /metrics")
        assert rayslurm.value("job_state", **job, state="cancelled") == 1
        assert rayslurm.value("tunnel_up", **job, tunnel="dashboard") is None
        assert rayslurm.value("ray_nodes_expected", **job) is None
        assert httpx.get(f"{rayslurm.url}/sd/ray", trust_env=False).json() == []
        # Ray ends its head without the dashboard, which was killed just before the cancel.
        said = lab.wait(lambda: of_status(rayslurm, job_id)["run"]["reason"], 30, "how it ended")
        assert said.startswith(("the head on c1 ended", "SIGTERM came")), said

        # Not with -X: without the steps TotalCPU is 0.
        truth, *_ = lab.sacct(
            job_id, ["state", "start", "end", "elapsedraw", "cputimeraw", "totalcpu", "alloccpus", "exitcode"]
        )
        assert truth["state"].startswith("CANCELLED by")
        assert rayslurm.value("job_start_timestamp_seconds", **job) == float(truth["start"])
        assert rayslurm.value("job_end_timestamp_seconds", **job) == float(truth["end"])
        assert rayslurm.value("job_elapsed_seconds", **job) == float(truth["elapsedraw"])
        assert rayslurm.value("job_cpus", **job) == float(truth["alloccpus"])
        assert rayslurm.value("job_exit_code", **job) == float(truth["exitcode"].split(":")[0])
        used = seconds(truth["totalcpu"])
        assert used > 0
        assert rayslurm.value("job_cpu_used_seconds", **job, source="sacct") == pytest.approx(used, abs=0.001)
        efficiency = rayslurm.value("job_cpu_efficiency_ratio", **job, source="sacct")
        assert efficiency == pytest.approx(used / float(truth["cputimeraw"]), abs=1e-6)
        assert rayslurm.value("jobs_submitted_total", site=SITE) == 1

        shows(lab, prometheus, SHOWN_WHEN_IT_HAS_ENDED)
        (shown,) = [result for result in job_panels(prometheus) if result.panel == "Used of what it had"]
        assert shown.series == 3, "CPU, memory and time, by accounting; no GPU"

        def seen_running() -> Any:
            answer = httpx.get(
                f"{prometheus}/api/v1/query",
                params={"query": f'max_over_time(rayslurm_job_state{{job_id="{job_id}",state="running"}}[5m])'},
                trust_env=False,
            )
            return answer.json()["data"]["result"]

        assert seen_running(), "Prometheus scraped it while it ran"

    log = rayslurm.log()
    assert token not in log
    assert "Traceback" not in log
    left = lab.on("c1", "ps", "-eo", "args").stdout + lab.on("c2", "ps", "-eo", "args").stdout
    assert "ray_job.py" not in left
    assert "raylet" not in left


def job_panels(prometheus: str) -> list[PanelResult]:
    """Asks Prometheus what the dashboard of one job asks."""
    return run_panels(json.loads(DASHBOARD.read_text()), prometheus)


def shows(lab: Lab, prometheus: str, titles: set[str]) -> None:
    """Waits until the named panels of that dashboard show something, and none has a fault."""

    def without() -> list[PanelResult]:
        found = job_panels(prometheus)
        assert titles <= {result.panel for result in found}
        faults = [result for result in found if result.error or result.unresolved or result.missing_labels]
        assert faults == []
        return [result for result in found if result.panel in titles and not result.ok]

    lab.wait(lambda: not without(), 30, f"data on its panels: {without()}")


def watch_the_tunnel(lab: Lab, rayslurm: Rayslurm, launched: dict[str, Any]) -> None:
    """What is shown of the tunnel to a real Ray when its ssh, its Ray or its secret isn't what it should be."""

    own = {("tunnel", "dashboard")}

    def shows(state: str) -> None:
        changed = time.time()

        def shown() -> list[float]:
            page = rayslurm.samples()  # read once, since it goes on changing
            states = [dict(labels)["state"] for labels in page.get("rayslurm_tunnel_state", {}) if own <= labels]
            up = [value for labels, value in page.get("rayslurm_tunnel_up", {}).items() if own <= labels]
            assert up == [one == "up" for one in states]
            successes = page.get("rayslurm_tunnel_last_success_timestamp_seconds", {})
            last = [value for labels, value in successes.items() if own <= labels]
            return last if states == [state] else []

        (last_up,) = lab.wait(shown, 40, f"tunnel {state}", every=0.1)
        assert state == "up" or last_up < changed + 1

    def processes(*command: str) -> list[str]:
        """Returns those of the first node, by their numbers there."""
        return lab.on("c1", "pgrep", "-f", *command).stdout.split()

    shows("up")
    assert "up" in rayslurm.run("status").stdout.split()
    lab.on("c1", "kill", *processes(f"^ssh .*127.0.0.1:{launched['dashboard_port']}:"))
    shows("refused")
    shows("up")

    secret = secret_path(rayslurm.state_dir, launched["token"])
    kept = secret.read_text()
    secret.write_text("0" * len(kept))
    shows("auth")
    secret.write_text(kept)
    shows("up")

    dashboard = processes("ray/dashboard/dashboard.py")
    assert rayslurm.value("ray_nodes", site=SITE, job_id=launched["job_id"], state="alive") == 2
    lab.on("c1", "kill", "-STOP", *dashboard)
    shows("timeout")
    lab.on("c1", "kill", "-CONT", *dashboard)
    shows("up")
    lab.on("c1", "kill", "-KILL", *dashboard)
    shows("target_down")
    assert rayslurm.value("ray_nodes", site=SITE, job_id=launched["job_id"], state="alive") is None


def watch_the_cluster(lab: Lab, rayslurm: Rayslurm, launched: dict[str, Any], prometheus: str) -> None:
    """What is shown of the Ray itself, and that Prometheus finds the metrics of its nodes."""
    job = {"site": SITE, "job_id": launched["job_id"]}

    tunnels = {"dashboard", "client", "metrics-0", "metrics-1"}

    def states() -> set[tuple[str, str]]:
        pairs = [dict(labels) for labels in rayslurm.samples().get("rayslurm_tunnel_state", {})]
        return {(pair["tunnel"], pair["state"]) for pair in pairs}

    lab.wait(lambda: states() == {(tunnel, "up") for tunnel in tunnels}, 40, "all tunnels up")
    lab.wait(lambda: rayslurm.value("ray_nodes", **job, state="alive") == 2, 20, "two nodes alive on /metrics")
    assert rayslurm.value("ray_nodes_expected", **job) == 2
    assert rayslurm.value("ray_gcs_up", **job) == 1
    lab.wait(lambda: rayslurm.value("ray_resource_capacity", **job, resource="cpu") == 4, 20, "what it has")
    assert rayslurm.value("ray_resource_used", **job, resource="cpu") == 0
    lab.wait(lambda: (rayslurm.value("ray_idle_seconds", **job) or 0) > 1, 20, "that nobody uses it")
    assert of_status(rayslurm, launched["job_id"])["ray"]["nodes"] == {"alive": 2}
    exposed = rayslurm.samples()["rayslurm_tunnel_bind_exposed"]
    assert {dict(labels)["tunnel"] for labels in exposed} == tunnels
    assert set(exposed.values()) == {0.0}

    def scraped() -> list[dict[str, str]]:
        found = query(prometheus, f'ray_node_cpu_count{{site="{SITE}",job_id="{launched["job_id"]}",campaign=""}}')
        return found if {one["node"] for one in found} == {"c1", "c2"} else []

    found = lab.wait(scraped, 30, "Ray's own metrics of both nodes in Prometheus")
    assert {one["node"]: one["ip"] for one in found} == {"c1": lab.address("c1"), "c2": lab.address("c2")}


def of_status(rayslurm: Rayslurm, job_id: str) -> dict[str, Any]:
    """What `rayslurm status` says of a job."""
    return next(job for job in rayslurm.json("status")["jobs"] if job["job_id"] == job_id)


def two_alive(ray: httpx.Client) -> list[dict[str, Any]]:
    """Returns Ray's nodes when two are alive, else nothing."""
    try:
        answer = ray.get("/api/v0/nodes")
    except httpx.TransportError:
        return []
    if answer.status_code != 200:
        return []
    nodes: list[dict[str, Any]] = answer.json()["data"]["result"]["result"]
    return nodes if [node["state"] for node in nodes] == ["ALIVE", "ALIVE"] else []


def seconds(duration: str) -> float:
    """Reads sacct's TotalCPU, independently of the parser under test."""
    days, _, clock = duration.rpartition("-")
    total = 0.0
    for part in clock.split(":"):
        total = total * 60 + float(part)
    return total + 86400 * int(days or 0)
