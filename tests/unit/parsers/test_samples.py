"""What sites have really printed, where a collection of it lies beside the checkout.

The texts are other people's and stay outside the repository; a clone without them skips these tests and says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from exporter.errors import InputError
from exporter.parsers import sacct, squeue
from exporter.records import AccountingRecord

SAMPLES = Path(__file__).parents[3] / ".." / "shared" / "samples"
pytestmark = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="no collection of real outputs in ../shared/samples beside this checkout"
)
HELSINKI = ZoneInfo("Europe/Helsinki")


def text(name: str) -> str:
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip(f"no {name} in ../shared/samples beside this checkout")
    return path.read_text(encoding="utf-8")


def jobs(name: str) -> dict[str, AccountingRecord]:
    return {record.job_id: record for record in sacct.parse(text(name)).records}


@pytest.mark.parametrize(
    ("name", "records", "steps", "warnings"),
    [
        ("sacct/lumi_format_units.txt", 1, 3, 0),
        ("sacct/lumi_running_end_unknown.txt", 1, 9, 0),
        ("sacct/slurm2sql_test-data1.csv", 2, 3, 0),
        ("slurm-lab/sacct-full-P.txt", 17, 21, 0),
        ("slurm-lab/sacct-full-PX.txt", 17, 0, 0),
        ("slurm-lab/sacct-by-state.txt", 9, 9, 0),
    ],
)
def test_all_rows_are_understood(name: str, records: int, steps: int, warnings: int) -> None:
    parsed = sacct.parse(text(name))
    assert len(parsed.records) == records
    assert sum(len(record.steps) for record in parsed.records) == steps
    assert len(parsed.warnings) == warnings


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sacct/lumi_default_table.txt", "cut by the width of its column: line 3 '1234567      healthy_u+"),
        ("sacct/lumi_hetjob_plus0.txt", "cut by the width of its column: line 3 '4285795+0    slurm-her+"),
        ("sacct/lumi_step_still_running_lag.txt", "cut by the width of its column: line 3 '4238727      slurm-HWT+"),
        ("sacct/puhti_22361601_table.txt", "cut by the width of its column: line 4 '22361601.ba+"),
        ("sacct/lumi_sstat.txt", "cut by the width of its column: line 3 '1234567.bat+"),
        ("sacct/mahti_sacct_table.txt", "no header with JobID; it begins 'Resources:'"),
        ("sacct/xdmod_accounting-logs.log", "rows without a header are not read"),
        ("sacct/xdmod_reference_excerpt.log", "rows without a header are not read"),
        ("sacct/pending_all_fields_partition_limit.txt", "no header with JobID"),
        ("sacct/sacct_json_shape_slurm21.json", "JSON is not read"),
        ("sacct/sacct_json_shape_slurm23plus.json", "JSON is not read"),
        ("sacct/mahti_ray_sacct_parsed_1.json", "JSON is not read"),
    ],
)
def test_what_was_not_printed_by_sacct_minus_p_is_refused_with_what_to_type(name: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        sacct.parse(text(name))
    assert why in str(caught.value)
    assert "type: sacct -P -j JOBID -o JobID," in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "sacct/mahti_sacct_table.txt",
        "sacct/xdmod_accounting-logs.log",
        "sacct/xdmod_reference_excerpt.log",
        "sacct/pending_all_fields_partition_limit.txt",
        "sacct/sacct_json_shape_slurm21.json",
        "sacct/mahti_ray_sacct_parsed_1.json",
        "slurm-lab/sacct-unknown-field.txt",
        "slurm-lab/seff.txt",
        "slurm-lab/squeue-me.txt",
        "seff/roihu_307386_completed_cpu_newBU.txt",
        "csc/csc-projects_2025BU.txt",
        "lumi/RENDERED_lumi-allocations_qpu.txt",
    ],
)
def test_text_without_ids_or_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        sacct.parse(text(name))


def test_the_squeue_parser_refuses_sacct_and_seff() -> None:
    for name in ("slurm-lab/sacct-full-P.txt", "sacct/lumi_default_table.txt", "slurm-lab/seff.txt"):
        with pytest.raises(InputError):
            squeue.parse(text(name))


def test_lab_accounting() -> None:
    found = jobs("slurm-lab/sacct-full-P.txt")
    job = found["1"]
    assert (job.state, job.exit_code, job.elapsed_seconds, job.planned_cpu_seconds) == ("COMPLETED", 0, 13, 2)
    assert job.memory_requested_bytes == 600 * 1024**2
    assert job.memory_peak_bytes == 165284 * 1024
    assert found["2"].memory_requested_bytes == 1200 * 1024**2
    assert found["5"].steps[1].signal == 11
    assert (found["7"].memory_peak_bytes, found["7"].steps[1].cancelled_by_uid) == (418292 * 1024, 0)
    assert (found["12"].planned_seconds, found["12"].planned_cpu_seconds, found["12"].start_time) == (None, None, None)
    assert found["12"].cancelled_by_uid == 20001
    assert (found["3_3"].array_id, found["3_3"].state) == ("3", "FAILED")
    assert all(record.energy_joules is None for record in found.values())
    assert all(record.restarts is None for record in found.values())


def test_accounting_without_steps_says_the_same_but_for_what_only_steps_know() -> None:
    full, short = jobs("slurm-lab/sacct-full-P.txt"), jobs("slurm-lab/sacct-full-PX.txt")
    assert full.keys() == short.keys()
    for name, record in short.items():
        assert record.max_rss_bytes is None
        for field in (
            "state",
            "submit_time",
            "start_time",
            "end_time",
            "tres_allocated",
            "cpu_time_seconds",
            "job_name",
        ):
            assert getattr(record, field) == getattr(full[name], field)


def test_a_ray_job_on_mahti() -> None:
    rows = list(json.loads(text("sacct/mahti_ray_sacct_parsed_1.json")).values())
    lines = ["|".join(rows[0]), *("|".join(row[name] or "" for name in rows[0]) for row in rows)]
    (record,) = sacct.parse("\n".join(lines), timezone=HELSINKI).records
    assert (record.job_id, record.partition, record.state) == ("3659617", "medium", "CANCELLED")
    assert (record.submit_time, record.start_time, record.end_time) == (1723473797, 1723473808, 1723474225)
    assert (record.elapsed_seconds, record.planned_cpu_seconds, record.total_cpu_seconds) == (417, 22, 310.966)
    assert record.cpu_time_seconds == 2 * 86400 + 11 * 3600 + 18 * 60 + 24
    batch = record.steps[0]
    assert (batch.job_id, batch.job_name, batch.ave_cpu_freq_hertz) == ("3659617.bat+", "batch", 351.33e6)
    assert batch.ave_disk_read_bytes == pytest.approx(14.44 * 1024**2)
    assert len(record.steps) == 5


def test_lab_queue() -> None:
    parsed = squeue.parse(text("slurm-lab/squeue-me.txt"))
    found = {record.job_id: record for record in parsed.records}
    assert len(found) == 15
    assert (found["2"].node_list, found["2"].cpus, found["2"].time_limit_seconds) == ("c[1-2]", 4, 300)
    assert (found["9"].pending_reason, found["9"].state) == ("BeginTime", "PENDING")
    assert found["3_4"].array_id == "3"
    (held,) = squeue.parse(text("slurm-lab/cancel.txt")).records
    assert (held.job_id, held.pending_reason) == ("9", "JobHeldUser")
