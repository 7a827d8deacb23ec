"""Jobs that end in every way, made for real: what `parse sacct` and /metrics say of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import pytest

from exporter.client.commands import accounting_command, known_fields
from exporter.parsers.sacct import parse as parse_sacct
from exporter.store.db import Store
from tests.lab.lab import Lab
from tests.lab.serving import SITE, Rayslurm, configure, own_site
from tests.lab.test_thin_line import seconds

pytestmark = pytest.mark.timeout(300)

EXPECTED = {
    "completed": "completed",
    "failed": "failed",
    "timeout": "timeout",
    "cancelled_running": "cancelled",
    "cancelled_pending": "cancelled",
    "out_of_memory": "out_of_memory",
    "node_fail": "node_fail",
    "requeued": "completed",
}
ARRAY = {"1": "completed", "2": "completed", "3": "failed"}


@dataclass
class Ended:
    """The jobs by what became of them, the array's id, and what followed them."""

    ids: dict[str, str]
    array: str
    rayslurm: Rayslurm
    parsed: dict[str, dict[str, Any]]
    truth: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def ended(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    with own_site(lab):
        yield from make_jobs(lab, tmp_path_factory)


def make_jobs(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    small = ("--mem=100",)
    test = ("-p", "test", *small, "-t", "5")
    ids = {
        "node_fail": lab.sbatch("-w", "c3", "--no-requeue", *small, "-t", "5", wrap="sleep 600"),
        "timeout": lab.sbatch("-p", "test", *small, "-t", "1", wrap="sleep 600"),
        "completed": lab.sbatch(*test, "-J", "'a|b c'", wrap="python3 -c 'sum(range(30_000_000))'"),
        "failed": lab.sbatch(*test, wrap="exit 7"),
        "cancelled_running": lab.sbatch(*test, wrap="sleep 600"),
        "cancelled_pending": lab.sbatch(*test, "--begin=now+1hour", wrap="sleep 600"),
        "out_of_memory": lab.sbatch(*test, wrap="python3 -c 'b=bytearray(400<<20)'"),
        "requeued": lab.sbatch(*test, "--requeue", wrap='[ "$SLURM_RESTART_COUNT" = 1 ] || sleep 600'),
    }
    array = lab.sbatch(*test, "-a", "1-3", wrap="[ $SLURM_ARRAY_TASK_ID != 3 ]")
    rayslurm = configure(lab, tmp_path_factory.mktemp("states"))
    with rayslurm.serving():
        for job_id in (*ids.values(), array):
            rayslurm.run("track", f"{SITE}/{job_id}")
        for name in ("node_fail", "cancelled_running", "requeued"):
            lab.wait(lambda name=name: lab.state(ids[name]) == "RUNNING", 30, f"{name} runs")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        lab.kill_node("c3")
        lab.sh(f"scancel {ids['cancelled_running']} {ids['cancelled_pending']}", check=True)
        lab.sh(f"scontrol requeue {ids['requeued']}", check=True)
        # Slurm holds a requeued job back for a while; its owner may let it begin at once.
        lab.wait(lambda: lab.state(ids["requeued"]) == "PENDING", 30, "the requeued job waits again")
        lab.sh(f"scontrol update jobid={ids['requeued']} starttime=now")

        expected = {ids[name]: state for name, state in EXPECTED.items()}
        expected |= {f"{array}_{task}": state for task, state in ARRAY.items()}
        lab.wait(lambda: rayslurm.states() == expected or None, 200, "every job's true end on /metrics", every=0.5)
        fields = known_fields(lab.sh("sacct --helpformat", check=True).stdout)
        raw = lab.sh(accounting_command([*ids.values(), array], fields, duplicates=True), check=True).stdout
        (rayslurm.folder / "sacct.txt").write_text(raw)
        parsed = rayslurm.json("parse", "sacct", str(rayslurm.folder / "sacct.txt"), "--timezone", "UTC")
        assert parsed["warnings"] == []
        rows = lab.sacct(
            [*ids.values(), array],
            ["jobid", "state", "exitcode", "start", "end", "elapsedraw", "cputimeraw", "totalcpu", "alloccpus"],
        )  # not with -X: without the steps TotalCPU is 0
        yield Ended(
            ids,
            array,
            rayslurm,
            {record["job_id"]: record for record in parsed["records"]},
            {row["jobid"]: row for row in rows if "." not in row["jobid"]},
        )


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_job_ends_on_metrics_as_in_accounting(ended: Ended, name: str) -> None:
    job_id = ended.ids[name]
    truth, rayslurm = ended.truth[job_id], ended.rayslurm
    assert truth["state"].split()[0].lower() == EXPECTED[name], "the lab made what it should"
    job = {"site": SITE, "job_id": job_id}
    assert rayslurm.value("job_state", **job, state=EXPECTED[name]) == 1
    assert rayslurm.value("job_end_timestamp_seconds", **job) == float(truth["end"])
    assert rayslurm.value("job_elapsed_seconds", **job) == float(truth["elapsedraw"])
    assert rayslurm.value("job_exit_code", **job) == float(truth["exitcode"].split(":")[0])
    if name == "node_fail":
        assert rayslurm.value("job_cpu_efficiency_ratio", **job, source="sacct") is None, "a dead node reports nothing"
    elif float(truth["cputimeraw"]):
        used = seconds(truth["totalcpu"])
        ratio = rayslurm.value("job_cpu_efficiency_ratio", **job, source="sacct")
        assert ratio == pytest.approx(used / float(truth["cputimeraw"]), abs=1e-6)
    else:
        assert rayslurm.value("job_cpu_efficiency_ratio", **job, source="sacct") is None, "nothing was allocated"
    if truth["start"] in {"None", "Unknown"}:
        assert rayslurm.value("job_start_timestamp_seconds", **job) is None


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_job_ends_in_what_parse_reads_as_in_accounting(ended: Ended, name: str) -> None:
    record, truth = ended.parsed[ended.ids[name]], ended.truth[ended.ids[name]]
    assert record["state"] == EXPECTED[name].upper()
    assert record["elapsed_seconds"] == float(truth["elapsedraw"])
    assert record["end_time"] == int(truth["end"])
    assert record["exit_code"] == int(truth["exitcode"].split(":")[0])
    assert record["cpu_time_seconds"] == float(truth["cputimeraw"])
    if name.startswith("cancelled"):
        assert record["cancelled_by_uid"] == 20001
    if name == "completed":
        assert record["job_name"] == "a|b c"
        assert record["total_cpu_seconds"] == pytest.approx(seconds(truth["totalcpu"]), abs=0.001)
        assert [step["job_id"] for step in record["steps"]] == [f"{ended.ids[name]}.batch"]


def test_each_task_of_an_array_is_a_job(ended: Ended) -> None:
    for task, state in ARRAY.items():
        job_id = f"{ended.array}_{task}"
        assert ended.rayslurm.value("job_state", site=SITE, job_id=job_id, state=state) == 1
        assert ended.parsed[job_id]["state"] == state.upper()
        assert ended.parsed[job_id]["array_id"] == ended.array


def test_a_requeued_job_is_one_job_that_was_started_again(ended: Ended) -> None:
    job_id = ended.ids["requeued"]
    assert ended.rayslurm.value("job_restarts", site=SITE, job_id=job_id) == 1
    assert ended.parsed[job_id]["restarts"] == 1
    assert len(ended.parsed[job_id]["attempts"]) == 1


def test_the_counters_equal_accounting(ended: Ended) -> None:
    counted: dict[str, float] = {}
    for labels, value in ended.rayslurm.samples()["rayslurm_jobs_finished_total"].items():
        state = dict(labels)["state"]
        counted[state] = counted.get(state, 0) + value
    states = [row["state"].split()[0].lower() for row in ended.truth.values()]
    assert {state: value for state, value in counted.items() if value} == {
        state: states.count(state) for state in set(states)
    }
    assert len(states) == len(EXPECTED) + len(ARRAY)


def test_the_site_was_asked_little(ended: Ended) -> None:
    by_command: dict[str, float] = {}
    for labels, value in ended.rayslurm.samples()["rayslurm_remote_commands_total"].items():
        assert dict(labels)["outcome"] == "ok"
        by_command[dict(labels)["command"]] = by_command.get(dict(labels)["command"], 0) + value
    assert set(by_command) == {"squeue", "sacct", "sacct-helpformat", "sinfo", "scontrol"}
    assert by_command["sacct-helpformat"] == by_command["sinfo"] == by_command["scontrol"] == 1
    assert ended.rayslurm.value("ssh_connections_total", site=SITE, outcome="ok") == 1
    assert ended.rayslurm.value("remote_commands_throttled_total", site=SITE) == 0
    # Only what Slurm itself printed in pieces: of a job that slurmdbd knew by its step alone it says `16?` for ReqMem.
    if ended.rayslurm.value("parse_errors_total", site=SITE, parser="sacct"):
        with Store(ended.rayslurm.state_dir / "rayslurm.sqlite3") as store, store.snapshot() as connection:
            texts = [row["text"] for row in connection.execute("SELECT text FROM raw_outputs WHERE source = 'sacct'")]
        warnings = [warning for text in texts for warning in parse_sacct(text, timezone=UTC).warnings]
        assert all(warning.text.endswith("allocation") and "reqmem" in warning.reason for warning in warnings), warnings
