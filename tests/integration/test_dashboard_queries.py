"""The shipped rules and what asks dashboards' queries, on a real Prometheus that scrapes a page like the exporter's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.panels import run_panels
from tests.prometheus_server import CLOSED, TOP, prometheus_server, query, render_config, wait_until

# One running job, one that ran out of memory a minute ago, and one site without jobs.
PAGE = """\
rayslurm_job_info{{site="lumi",job_id="1",project="project_1",partition="small",job_name="serve",campaign="",user="me"}} 1
rayslurm_job_info{{site="lumi",job_id="2",project="project_1",partition="small",job_name="tune",campaign="nightly",user="me"}} 1
rayslurm_job_state{{site="lumi",job_id="1",state="running"}} 1
rayslurm_job_state{{site="lumi",job_id="2",state="out_of_memory"}} 1
rayslurm_jobs{{site="lumi",campaign="",state="pending"}} 0
rayslurm_jobs{{site="lumi",campaign="",state="running"}} 1
rayslurm_jobs{{site="lumi",campaign="nightly",state="out_of_memory"}} 1
rayslurm_jobs{{site="mahti",campaign="",state="running"}} 0
rayslurm_job_submit_timestamp_seconds{{site="lumi",job_id="1"}} {before}
rayslurm_job_submit_timestamp_seconds{{site="lumi",job_id="2"}} {before}
rayslurm_job_end_timestamp_seconds{{site="lumi",job_id="2"}} {lately}
rayslurm_job_queue_wait_seconds{{site="lumi",job_id="1"}} 30
rayslurm_job_queue_wait_seconds{{site="lumi",job_id="2"}} 20
rayslurm_job_elapsed_seconds{{site="lumi",job_id="1"}} 3570
rayslurm_job_elapsed_seconds{{site="lumi",job_id="2"}} 600
rayslurm_job_time_limit_seconds{{site="lumi",job_id="1"}} 7200
rayslurm_job_time_limit_seconds{{site="lumi",job_id="2"}} 1800
rayslurm_job_cpu_efficiency_ratio{{site="lumi",job_id="2",source="sacct"}} 0.42
rayslurm_job_memory_efficiency_ratio{{site="lumi",job_id="2",source="sacct"}} 0.99
rayslurm_jobs_finished_total{{site="lumi",project="project_1",partition="small",campaign="nightly",state="out_of_memory"}} 1
rayslurm_probe_success{{site="lumi",probe="jobs"}} 1
rayslurm_probe_success{{site="mahti",probe="jobs"}} 1
rayslurm_probe_last_success_timestamp_seconds{{site="lumi",probe="jobs"}} {lately}
rayslurm_probe_last_success_timestamp_seconds{{site="mahti",probe="jobs"}} {lately}
rayslurm_site_command_budget_limit{{site="lumi"}} 120
rayslurm_site_command_budget_limit{{site="mahti"}} 120
rayslurm_site_command_budget_remaining{{site="lumi"}} 97
rayslurm_site_command_budget_remaining{{site="mahti"}} 114
"""  # noqa: E501 - a page of metrics


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    now = int(time.time())
    page = PAGE.format(before=now - 3600, lately=now - 60).encode()

    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it is called by
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Exporter) as exporter:
        thread = threading.Thread(target=exporter.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            folder = tmp_path_factory.mktemp("prometheus")
            config = render_config(
                folder / "config",
                {
                    "127.0.0.1:9810": f"127.0.0.1:{exporter.server_port}",
                    "127.0.0.1:9093": CLOSED,
                    "scrape_interval: 30s": "scrape_interval: 500ms",
                    "evaluation_interval: 30s": "evaluation_interval: 500ms",
                },
            )
            with prometheus_server(config, folder / "data") as url:
                wait_until(lambda: bool(query(url, "count_over_time(rayslurm_jobs[1m]) >= 3")), "three scrapes")
                yield url
        finally:
            exporter.shutdown()
            thread.join()


def test_the_tables_of_jobs_have_a_row_for_each_job_and_the_site_variable_a_value_for_each_site(
    prometheus: str,
) -> None:
    results = run_panels(json.loads((TOP / "grafana/dashboards/overview.json").read_text()), prometheus)

    series = {(result.panel, result.query): result.series for result in results}
    assert {letter: series["Jobs", letter] for letter in "ABCDEF"} == dict.fromkeys("ABCD", 2) | dict.fromkeys("EF", 1)
    assert series["variable site", ""] == 2
    assert series["annotation Jobs that failed", "annotation"] == 1


def test_where_one_job_is_picked_each_is_tried(prometheus: str) -> None:
    results = run_panels(json.loads((TOP / "grafana/dashboards/job.json").read_text()), prometheus)

    told = {(result.panel, result.query): result for result in results}
    assert told["variable job", ""].series == 2
    # Of job 2 only, the first of the two that are offered being job 1.
    assert told["Used of what it had", "A"].ok
    assert 'job_id="2"' in told["Used of what it had", "A"].expr


def test_what_is_wrong_with_a_panel_is_told(prometheus: str) -> None:
    targets = [
        {"refId": "A", "expr": "rayslurm_jobs{"},
        {"refId": "B", "expr": "rayslurm_nothing"},
        {"refId": "C", "expr": 'rayslurm_jobs{site="$nobody"} or rayslurm_jobs'},
        {"refId": "D", "expr": "rayslurm_probe_success", "legendFormat": "{{site}} {{state}}"},
        {"refId": "E", "expr": "rayslurm_probe_success * NaN", "instant": True},
        {"refId": "F", "expr": "rayslurm_probe_success", "legendFormat": "{{site}}", "instant": True},
    ]

    results = run_panels(
        {"templating": {"list": []}, "panels": [{"title": "row", "panels": [{"title": "x", "targets": targets}]}]},
        prometheus,
    )

    told = {result.query: result for result in results}
    assert "parse error" in (told["A"].error or "")
    assert told["B"].series == 0
    assert told["C"].unresolved == ("$nobody",)
    assert told["D"].missing_labels == ("state",)
    assert told["E"].all_nan
    assert [result.query for result in results if result.ok] == ["F"]


def test_the_failed_job_fires_and_nothing_else_does(prometheus: str) -> None:
    others = 'ALERTS{alertname!="RaySlurmWatchdog"}'
    wait_until(lambda: bool(query(prometheus, others)), "an alert fires")

    [alert] = query(prometheus, others)
    assert (alert["alertname"], alert["job_id"], alert["job_name"]) == ("RaySlurmJobOutOfMemory", "2", "tune")
    assert query(prometheus, 'ALERTS{alertname="RaySlurmWatchdog", alertstate="firing"}')
