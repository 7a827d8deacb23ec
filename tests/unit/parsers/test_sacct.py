"""What sacct's parser promises beyond the golden texts."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from exporter.errors import InputError
from exporter.parsers import sacct
from exporter.records import AccountingRecord

SEFF = """Job ID: 307386
Cluster: roihu
User/Group: alice/alice
State: COMPLETED (exit code 0)
"""


def one(text: str) -> AccountingRecord:
    (record,) = sacct.parse(text).records
    return record


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        (SEFF, "'Job ID: 307386'"),
        ("<!DOCTYPE html>\n<html><body>JobID</body></html>", "'<!DOCTYPE html>'"),
        ("             JOBID PARTITION     NAME     USER ST\n 1 a b c R\n", "'JOBID PARTITION     NAME     USER ST'"),
        ("JOBID|NAME|STATE\n1|a|RUNNING\n", "'JOBID|NAME|STATE'"),
        ('\n\nsacct: error: Invalid field requested: "Planned"\n', "sacct: error: Invalid field"),
        ("State|ExitCode\nCOMPLETED|0:0\n", "'State|ExitCode'"),
        ("JobIDRaw|State\n1|COMPLETED\n", "'JobIDRaw|State'"),
        ("1|COMPLETED\n", "'1|COMPLETED'"),
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", "slurm_load_jobs"),
        ("", "empty"),
        (" \n\r\n\t\n", "empty"),
        ("x" * 5000, "…"),
    ],
)
def test_text_of_another_kind_is_refused_with_its_line(text: str, quoted: str) -> None:
    with pytest.raises(InputError) as caught:
        sacct.parse(text)
    assert quoted in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_single_column() -> None:
    parsed = sacct.parse("JobID\n5\n5.batch\n")
    assert parsed.records == (AccountingRecord("5", steps=(AccountingRecord("5.batch"),)),)


def test_steps_before_their_job_find_it() -> None:
    record = one("JobID|State\n5.batch|FAILED\n5.0|COMPLETED\n5|FAILED\n")
    assert [step.job_id for step in record.steps] == ["5.batch", "5.0"]


def test_steps_are_those_of_their_own_attempt() -> None:
    record = one("JobID|Submit|State\n5|100|NODE_FAIL\n5.0|101|CANCELLED\n5|200|COMPLETED\n5.0|201|COMPLETED\n")
    assert record.state == "COMPLETED"
    assert [step.state for step in record.steps] == ["COMPLETED"]
    assert [step.state for step in record.attempts[0].steps] == ["CANCELLED"]
    assert record.restarts == 1


def test_a_pending_attempt_is_the_latest() -> None:
    record = one("JobID|Submit|Start|State\n5|100|Unknown|PENDING\n5|100|110|NODE_FAIL\n")
    assert record.state == "PENDING"
    assert [attempt.state for attempt in record.attempts] == ["NODE_FAIL"]


def test_one_row_tells_nothing_of_restarts_unless_it_has_the_column() -> None:
    assert one("JobID|State\n5|COMPLETED\n").restarts is None
    assert one("JobID|Restarts\n5|0\n").restarts == 0
    assert one("JobID|Restarts|Submit\n5|3|100\n5|4|200\n").restarts == 4


def test_the_same_row_twice_is_no_restart() -> None:
    parsed = sacct.parse("JobID|Submit|ReqCPUS\n5|100|2\n5|100|2\n")
    assert parsed.records[0].restarts is None
    assert parsed.records[0].attempts == ()
    assert parsed.records[0].req_cpus == 2
    assert "printed again" in parsed.warnings[0].reason


def test_rows_of_one_attempt_that_contradict_each_other_leave_only_what_both_say() -> None:
    parsed = sacct.parse("JobID|Submit|ReqCPUS|AllocCPUS\n5|100|2|4\n5|100|3|4\n")
    assert (parsed.records[0].req_cpus, parsed.records[0].alloc_cpus) == (None, 4)


def test_a_later_table_replaces_what_an_earlier_one_said() -> None:
    parsed = sacct.parse("JobID|State\n5|RUNNING\n6|RUNNING\n\nJobID|State|ElapsedRaw\n5|COMPLETED|60\n")
    assert [(record.job_id, record.state, record.restarts) for record in parsed.records] == [
        ("5", "COMPLETED", None),
        ("6", "RUNNING", None),
    ]
    assert parsed.warnings == ()


def test_the_peak_is_that_of_the_largest_step_and_no_product() -> None:
    record = one(
        "JobID|NTasks|MaxRSS|TRESUsageInTot\n"
        "5|||\n"
        "5.batch|1|7M|cpu=00:00:01,mem=7M\n"
        "5.0|4|5M|cpu=00:00:01,mem=9M\n"
        "5.1|4|6M|\n"
    )
    assert record.max_rss_bytes == 7 * 1024**2
    assert record.memory_peak_bytes == 9 * 1024**2


@pytest.mark.parametrize(
    "lost", ["5.1|4|6Z|cpu=00:00:01,mem=8Z", "5.1|4|6M", "5.1|4|6M|cpu=00:00:01|x", "x.1|4|6M|mem=8M", "5|||6\n.1"]
)
def test_the_peak_is_unknown_where_a_step_was_lost(lost: str) -> None:
    record = sacct.parse(f"JobID|NTasks|MaxRSS|TRESUsageInTot\n5|||\n5.0|4|5M|mem=9M\n{lost}\n6|||\n").records[0]
    assert record.max_rss_bytes is None
    assert record.memory_peak_bytes is None


def test_words_after_the_table_do_not_make_the_peak_unknown() -> None:
    record = sacct.parse("JobID|NTasks|MaxRSS\n5||\n5.0|4|5M\nrc=0\n").records[0]
    assert record.max_rss_bytes == 5 * 1024**2


def test_a_broken_id_is_not_taken_for_the_rest_of_it() -> None:
    parsed = sacct.parse("JobID|State|MaxRSS\n1\n2|COMPLETED|5M\n3|FAILED|\n")
    assert [record.job_id for record in parsed.records] == ["3"]
    assert [warning.line for warning in parsed.warnings] == [2, 3]


def test_surplus_cells_are_only_a_name_where_the_rest_makes_sense() -> None:
    header = "JobID|State|ReqCPUS|JobName\n"
    assert one(header + "5|FAILED|2|a|b||c\n").job_name == "a|b||c"
    parsed = sacct.parse(header + "5||FAILED|2|name\n")
    assert parsed.records == ()
    assert "more cells" in parsed.warnings[0].reason


def test_surplus_cells_are_kept_raw_where_they_may_be_anywhere() -> None:
    parsed = sacct.parse("JobID|Comment|ReqCPUS|JobName\n5|a|7|2|name\n6|a|2|name\n")
    assert [(record.job_id, record.req_cpus) for record in parsed.records] == [("6", 2)]
    parsed = sacct.parse("JobID|JobName|ReqCPUS\n5|a|7|2\n6|a|2\n")
    assert [(record.job_id, record.req_cpus) for record in parsed.records] == [("6", 2)]


def test_a_line_break_in_a_text_cell_within_a_row_is_part_of_it() -> None:
    record = one("JobID|SubmitLine|ReqCPUS\n5|srun -c '\nfor x in 1 2\n\ndo'|2\n")
    assert record.req_cpus == 2


def test_a_line_break_in_a_cell_that_cannot_have_one_spoils_the_row() -> None:
    parsed = sacct.parse("JobID|State|ReqCPUS\n5|FAI\nLED|2\n6|FAILED|2\n")
    assert [record.job_id for record in parsed.records] == ["6"]
    assert [warning.line for warning in parsed.warnings] == [2, 3]


def test_error_lines_between_rows_are_no_part_of_a_name() -> None:
    parsed = sacct.parse("JobID|JobName\n5|a\nsacct: error: lost contact\n6|b\n")
    assert [record.job_name for record in parsed.records] == ["a", "b"]


@pytest.mark.parametrize("before", ["", "JobID ", "[alice@login11 ~]$ sacct -o JobID,State\n", "perl: warning: x\n\n"])
def test_text_before_the_header(before: str) -> None:
    assert one(f"{before if before.endswith(chr(10)) else ''}JobID|State\r\n5|FAILED\r\n").state == "FAILED"


def test_rows_before_the_header_are_warned_of() -> None:
    parsed = sacct.parse("4|FAILED|1\nJobID|State|ReqCPUS\n5|FAILED|1\n")
    assert [record.job_id for record in parsed.records] == ["5"]
    assert [warning.text for warning in parsed.warnings] == ["4|FAILED|1"]


@pytest.mark.parametrize(
    ("cells", "seconds"),
    [
        ("COMPLETED|100|00:01:00|00:02:00|2", 120),
        ("CANCELLED|None|00:01:00|8148-22:13:30|2", None),
        ("CANCELLED|Unknown|00:01:00|8148-22:13:30|2", None),
        ("CANCELLED|None|INVALID|8148-22:13:30|2", None),
        ("PENDING|Unknown|00:01:00|00:02:00|2", 120),
        ("COMPLETED|100|30-00:00:00|11574-01:46:39|100000", None),
    ],
)
def test_planned_cpu_time_that_never_was_is_unknown(cells: str, seconds: float | None) -> None:
    assert one(f"JobID|State|Start|Planned|PlannedCPU|ReqCPUS\n5|{cells}\n").planned_cpu_seconds == seconds


def test_planned_cpu_seconds_that_wrapped_around_give_way_to_the_clock() -> None:
    text = "JobID|Start|PlannedCPU|PlannedCPURAW\n5|100|50000-00:00:00|25032704\n"
    assert one(text).planned_cpu_seconds == 50000 * 86400
    assert one(text.replace("25032704", "25032705")).planned_cpu_seconds is None


def test_columns_that_tell_the_same_must_tell_the_same() -> None:
    parsed = sacct.parse("JobID|Elapsed|ElapsedRaw\n5|00:01:00|61\n")
    assert parsed.records[0].elapsed_seconds is None
    assert parsed.warnings[0].reason == "elapsedraw: not the same as elapsed"


def test_nodes_by_nnodes_only_of_what_has_started() -> None:
    assert one("JobID|NNodes|Elapsed\n5|3|00:00:01\n").alloc_nodes == 3
    assert one("JobID|NNodes|Elapsed\n5|3|00:00:00\n").alloc_nodes is None
    assert one("JobID|NNodes|AllocNodes|Elapsed\n5|3|0|00:00:00\n").alloc_nodes == 0


def test_energy_is_the_raw_column_where_there_is_one() -> None:
    assert one("JobID|ConsumedEnergy|ConsumedEnergyRaw\n5|12.50M|12504321\n").energy_joules == 12504321
    assert one("JobID|ConsumedEnergy|ConsumedEnergyRaw\n5|12.50M|0\n").energy_joules is None
    assert one("JobID|ConsumedEnergy\n5|12.50M\n").energy_joules == 12500000


def test_times_are_read_in_the_sites_zone() -> None:
    (record,) = sacct.parse("JobID|Start\n5|2026-07-01T12:00:00\n", timezone=ZoneInfo("Europe/Helsinki")).records
    assert record.start_time == 1782896400


def test_a_rule_of_dashes_that_does_not_fit_is_no_rule() -> None:
    parsed = sacct.parse("JobID|State\n-\n5|FAILED\n")
    assert [record.state for record in parsed.records] == ["FAILED"]


def test_marks_of_what_was_cut_are_understood_in_a_table_that_somebody_made_delimited() -> None:
    record = one("JobID|State|JobName\n3659617|CANCELLED+|c++\n3659617.bat+|OUT_OF_ME+|batch\n")
    assert (record.state, record.job_name) == ("CANCELLED", "c++")
    assert [(step.job_id, step.state) for step in record.steps] == [("3659617.bat+", "OUT_OF_MEMORY")]


RULED = "JobID           JobName      State\n------------ ---------- ----------\n"


@pytest.mark.parametrize(
    "row",
    [
        "7654321      ray-head-+  COMPLETED",
        "7654321.bat+      batch  COMPLETED",
        "7654321            name CANCELLED+",
        "7654321      ten chr c+  COMPLETED",
        "9990001_[2-+       name    PENDING",
        "12345678901+       name    PENDING",
        "7654321      \u00f6\u00f6\u00f6\u00f6\ufffd+  COMPLETED",
    ],
)
def test_a_table_with_a_cut_cell_is_refused_with_what_to_type(row: str) -> None:
    whole = "7654320            name  COMPLETED\n"
    assert one(RULED + whole).state == "COMPLETED"
    with pytest.raises(InputError) as caught:
        sacct.parse(RULED + whole + row + "\n")
    assert f"line 4 {row!r}" in str(caught.value)
    assert "type: sacct -P -j JOBID -o JobID," in str(caught.value)


@pytest.mark.parametrize("name", ["c++", "a+", "x + y+"])
def test_a_name_that_ends_in_plus_and_is_shorter_than_its_column_is_whole(name: str) -> None:
    assert one(f"{RULED}7654321      {name:>10}  COMPLETED\n").job_name == name


def test_words_with_a_plus_after_a_table_are_not_cut_cells() -> None:
    parsed = sacct.parse(RULED + "7654321            name  COMPLETED\ncompiled with g++ today\n")
    assert parsed.records[0].state == "COMPLETED"
    assert len(parsed.warnings) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("7654321|name|COMPLETED\n7654321.batch|batch|COMPLETED\n", "rows without a header are not read"),
        ("7654321            name  COMPLETED\n", "rows without a header are not read"),
        ("7654321.bat+      batch  COMPLETED\n", "rows without a header are not read"),
        ('{\n  "jobs": [\n    {"job_id": 5}\n  ]\n}\n', "JSON is not read"),
        ('$ sacct --json -j 5\nsacct: error: x\n{"jobs": []}\n', "JSON is not read"),
        ("State|ExitCode\nCOMPLETED|0:0\n", "no header with JobID"),
    ],
)
def test_rows_without_a_header_and_json_are_refused_with_what_to_type(text: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        sacct.parse(text)
    assert why in str(caught.value)
    assert "type: sacct -P -j JOBID -o JobID," in str(caught.value)
