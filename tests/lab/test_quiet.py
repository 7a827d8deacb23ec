"""Nobody's scrape reaches the site, and a site that stops answering costs /metrics nothing."""

from __future__ import annotations

import gzip
import signal
import statistics
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.lab.lab import Lab
from tests.lab.serving import SITE, Rayslurm, configure
from tests.prometheus_server import program

PROBE = {"site": SITE, "probe": "jobs"}


def wait_for_success(lab: Lab, rayslurm: Rayslurm) -> None:
    def answered() -> bool:
        probes = (PROBE["probe"], "partitions")
        return all(rayslurm.value("probe_success", site=SITE, probe=probe) == 1 for probe in probes)

    lab.wait(answered, 30, "the first answers of the site")


def scrape_times(rayslurm: Rayslurm, count: int) -> list[float]:
    times = []
    with httpx.Client(trust_env=False) as client:
        for _ in range(count):
            started = time.perf_counter()
            client.get(f"{rayslurm.url}/metrics").raise_for_status()
            times.append(time.perf_counter() - started)
    return times


def test_a_thousand_scrapes_leave_no_trace_at_the_site(lab: Lab, tmp_path: Path) -> None:
    # On the site's own clock the next probe is two minutes away: that is the pause.
    rayslurm = configure(lab, tmp_path, practice_clock_factor=1)
    with rayslurm.serving():
        wait_for_success(lab, rayslurm)
        before = (lab.sshd_log(), rayslurm.value("probe_last_success_timestamp_seconds", **PROBE))
        assert len(scrape_times(rayslurm, 1000)) == 1000
        after = (lab.sshd_log(), rayslurm.value("probe_last_success_timestamp_seconds", **PROBE))
    assert after[0] == before[0], "a scrape reached the site"
    assert after[1] == before[1], "the probe was not paused, so the test shows nothing"
    assert lab.wait(lambda: lab.sshd_log() != before[0], 10, "the log shows that the session ended")


@pytest.mark.timeout(180)
def test_a_site_that_stops_answering_changes_no_scrape_and_comes_back_by_itself(lab: Lab, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path, ssh={"command_deadline": "3s", "connect_deadline": "3s"})
    with rayslurm.serving():
        wait_for_success(lab, rayslurm)
        usual = statistics.median(scrape_times(rayslurm, 200))
        assert len(lab.sshd_pids()) >= 2, "a listener and a session"
        with lab.silent_sshd():
            lab.wait(lambda: rayslurm.value("probe_success", **PROBE) == 0, 60, "the probe says that it failed")
            stood = rayslurm.value("probe_last_success_timestamp_seconds", **PROBE)
            during = statistics.median(scrape_times(rayslurm, 200))
            lab.wait(
                lambda: (rayslurm.value("ssh_connections_total", site=SITE, outcome="refused") or 0) >= 1,
                60,
                "a new session was tried and not had",
            )
            assert rayslurm.value("probe_last_success_timestamp_seconds", **PROBE) == stood
            status = rayslurm.run("status")
            assert status.returncode == 0
        lab.wait(lambda: rayslurm.value("probe_success", **PROBE) == 1, 90, "it came back by itself")
        usual = max(usual, statistics.median(scrape_times(rayslurm, 200)))  # the machine may be busier by now
        assert during < usual * 2 + 0.005, f"a scrape took {usual * 1000:.1f} ms, and {during * 1000:.1f} ms meanwhile"
        assert (rayslurm.value("probe_last_success_timestamp_seconds", **PROBE) or 0) > (stood or 0)
    assert "Traceback" not in rayslurm.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(lab: Lab, tmp_path: Path, number: signal.Signals) -> None:
    rayslurm = configure(lab, tmp_path)
    with rayslurm.serving() as process:
        wait_for_success(lab, rayslurm)
        before = lab.sshd_log()
        process.send_signal(number)
        assert process.wait(20) == 0
        lab.wait(
            lambda: "Close session" in lab.sshd_log()[len(before) :] or lab.sshd_log() != before, 10, "its session ends"
        )
        assert (rayslurm.state_dir / "owner.lock").read_text() == "", "the lock was given back"
    assert "Traceback" not in rayslurm.log()


def test_the_page_is_clean_in_the_eyes_of_promtool(lab: Lab, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path)
    with rayslurm.serving():
        wait_for_success(lab, rayslurm)
        page = rayslurm.page()
        checked = subprocess.run(
            [program("promtool"), "check", "metrics"], input=page, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
        with httpx.Client(trust_env=False) as client:
            raw = client.build_request("GET", f"{rayslurm.url}/metrics", headers={"accept-encoding": "gzip"})
            answer = client.send(raw, stream=True)
            packed = b"".join(answer.iter_raw())
            answer.close()
            assert answer.headers["content-encoding"] == "gzip"
            assert gzip.decompress(packed).startswith(b"# HELP rayslurm_")
            accept = {"accept": "application/openmetrics-text;version=1.0.0"}
            openmetrics = client.get(f"{rayslurm.url}/metrics", headers=accept)
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert openmetrics.text.endswith("# EOF\n")


def test_a_second_serve_is_told_who_owns_the_sites(lab: Lab, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path)
    with rayslurm.serving() as first:
        config = (tmp_path / "rayslurm.yaml").read_text()
        (tmp_path / "second.yaml").write_text(config.replace(f":{rayslurm.port}", ":0"))
        second = rayslurm.run("serve", "--config", str(tmp_path / "second.yaml"), check=False)
        assert second.returncode == 1
        assert f"held by `rayslurm serve` (process {first.pid} on " in second.stderr
        assert "held by `rayslurm serve`" in rayslurm.run("serve", check=False).stderr
        (tmp_path / "third.yaml").write_text(config.replace("/state", "/other"))
        third = rayslurm.run("serve", "--config", str(tmp_path / "third.yaml"), check=False)
        assert third.returncode == 1
        assert "something else listens there" in third.stderr
