"""What squeue's parser promises beyond the golden texts."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import InputError
from exporter.parsers import squeue
from exporter.records import QueueRecord

TEXT = (Path(__file__).parents[2] / "golden" / "squeue" / "delimited.txt").read_text(encoding="utf-8")
TABLE = (Path(__file__).parents[2] / "golden" / "squeue" / "default_table.txt").read_text(encoding="utf-8")


def one(text: str) -> QueueRecord:
    (record,) = squeue.parse(text).records
    return record


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("JobID|State\n5|RUNNING\n", "'JobID|State'"),
        ("JobID           State\n------------ --------\n5  RUNNING\n", "JobID           State"),
        ("Job ID: 5\nState: RUNNING\n", "'Job ID: 5'"),
        ("STEPID     NAME PARTITION\n5.0 a b\n", "STEPID"),
        ("<html>JOBID</html>", "'<html>JOBID</html>'"),
        ("slurm_load_jobs error: Invalid job id specified\n", "slurm_load_jobs error"),
        ("", "empty"),
    ],
)
def test_text_of_another_kind_is_refused_with_its_line(text: str, quoted: str) -> None:
    with pytest.raises(InputError) as caught:
        squeue.parse(text)
    assert quoted in str(caught.value)


def test_a_header_alone_is_an_empty_queue() -> None:
    assert squeue.parse("JOBID|STATE\n").records == ()
    assert squeue.parse("  JOBID PARTITION NAME\n").records == ()
    assert squeue.parse("JOBID\n").records == ()


def test_a_start_that_is_yet_to_come_is_expected() -> None:
    waiting = one("JOBID|STATE|START_TIME\n5|PENDING|1780300000\n")
    assert (waiting.start_time, waiting.expected_start_time) == (None, 1780300000)
    running = one("JOBID|STATE|START_TIME\n5|RUNNING|1780300000\n")
    assert (running.start_time, running.expected_start_time) == (1780300000, None)
    unknown = one("JOBID|START_TIME\n5|1780300000\n")
    assert (unknown.start_time, unknown.expected_start_time) == (None, None)


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("PENDING", "Resources", "Resources"),
        ("PENDING", "None", None),
        ("RUNNING", "Dependency", None),
        ("REQUEUE_HOLD", "JobHeldUser", "JobHeldUser"),
        ("COMPLETING", "None", None),
    ],
)
def test_only_what_waits_has_a_reason_to_wait(state: str, reason: str, expected: str | None) -> None:
    assert one(f"JOBID|STATE|REASON\n5|{state}|{reason}\n").pending_reason == expected


@pytest.mark.parametrize(
    ("columns", "cells", "gpus"),
    [
        ("NODES|TRES_PER_NODE", "2|gres:gpu:v100:4", 8),
        ("NODES|TRES_PER_NODE", "2|gres/gpu:4", 8),
        ("NODES|TRES_PER_NODE", "1|gres/gpu:a100=4", 4),
        ("NODES|TRES_PER_NODE", "3|gpu", 3),
        ("NODES|TRES_PER_NODE", "1|gpu:a100", 1),
        ("NODES|TRES_PER_NODE", "1|gres:gpu:a100:2,gres:gpu:v100:1,gres:nvme:100", 3),
        ("NODES|TRES_PER_NODE", "1|gres:gpu:2(S:0-1)", 2),
        ("NODES|TRES_PER_NODE", "1|gres:nvme:100", None),
        ("NODES|TRES_PER_NODE", "1|N/A", None),
        ("NODES|TRES_PER_NODE", "|gpu:4", None),
        ("TRES_PER_JOB|TRES_PER_NODE", "gres:gpu:8|N/A", 8),
        ("TRES_ALLOC|TRES_PER_NODE", "cpu=2,gres/gpu=4,gres/gpu:a100=4|gpu:1", 4),
        ("TRES_ALLOC|TRES_PER_NODE", "cpu=2,gres/gpu:a100=1,gres/gpu:h100=2|N/A", 3),
        ("TRES_ALLOC|TRES_PER_NODE", "cpu=2|N/A", None),
        ("NODES|TRES_PER_NODE", "1|gpu:x4y:z", None),
    ],
)
def test_gpus_of_the_whole_job(columns: str, cells: str, gpus: int | None) -> None:
    assert one(f"JOBID|{columns}\n5|{cells}\n").gpus == gpus


@pytest.mark.parametrize(
    ("columns", "cells", "array"),
    [
        ("ARRAY_JOB_ID|ARRAY_TASK_ID", "312|6", "312"),
        ("ARRAY_JOB_ID|ARRAY_TASK_ID", "318|N/A", None),
        ("ARRAY_JOB_ID", "312", "312"),
        ("ARRAY_JOB_ID", "318", None),
        ("USER", "alice", None),
    ],
)
def test_the_array_of_a_job_whose_id_is_printed_raw(columns: str, cells: str, array: str | None) -> None:
    assert one(f"JOBID|{columns}\n318|{cells}\n").array_id == array


def test_codes_and_words_of_states_must_agree() -> None:
    assert one("JOBID|STATE|ST\n5|RUNNING|R\n").state == "RUNNING"
    assert one("JOBID|ST\n5|SO\n").state == "STAGE_OUT"
    parsed = squeue.parse("JOBID|STATE|ST\n5|RUNNING|PD\n")
    assert parsed.records[0].state is None
    assert parsed.warnings[0].reason == "st: not the same as state"


def test_padded_columns_cut_their_cells() -> None:
    record = one("       JOBID|    NAME|   NODES|PARTITION\n           5|my-namei|       2|     small\n")
    assert (record.job_name, record.nodes, record.partition) == (None, 2, "small")


def test_a_table_laid_out_to_the_left() -> None:
    text = (
        "JOBID      NAME       STATE      NODES\n"
        "5          two words  RUNNING    12\n"
        "6                     PENDING    1\n"
    )
    parsed = squeue.parse(text)
    assert [(each.job_name, each.state, each.nodes) for each in parsed.records] == [
        ("two words", "RUNNING", 12),
        (None, "PENDING", 1),
    ]


def test_rows_of_one_job_that_contradict_each_other_leave_only_what_both_say() -> None:
    parsed = squeue.parse("JOBID|STATE|NODES\n5|PENDING|2\n5|RUNNING|2\n")
    assert [(each.state, each.nodes) for each in parsed.records] == [(None, 2)]
    assert len(parsed.warnings) == 1


def test_a_later_table_replaces_what_an_earlier_one_said() -> None:
    parsed = squeue.parse("JOBID|STATE\n5|PENDING\n6|PENDING\n\nJOBID|STATE\n5|RUNNING\n")
    assert [(each.job_id, each.state) for each in parsed.records] == [("5", "RUNNING"), ("6", "PENDING")]
    assert parsed.warnings == ()


def test_tables_of_several_clusters_are_all_read() -> None:
    table = "             JOBID PARTITION ST\n               {}     small  R\n"
    parsed = squeue.parse("CLUSTER: one\n" + table.format(101) + "\nCLUSTER: two\n" + table.format(102))
    assert [each.job_id for each in parsed.records] == ["101", "102"]


TEXTS = [TEXT, TABLE]


def values(text: str) -> dict[str, QueueRecord]:
    return {each.job_id: each for each in squeue.parse(text).records}


@settings(max_examples=400, deadline=None)
@given(
    text=st.sampled_from(TEXTS),
    data=st.data(),
    how=st.sampled_from("idr"),
    character=st.sampled_from("0123456789|:-.() PDRabc\n\t"),
)
def test_one_damaged_character_changes_no_other_job(text: str, data: st.DataObject, how: str, character: str) -> None:
    lines = text.split("\n")
    first = next(number for number, line in enumerate(lines) if "JOBID" in line) + 1
    start = sum(len(line) + 1 for line in lines[:first])
    place = data.draw(st.integers(start, len(text) - 2))
    row = text[:place].count("\n")
    damaged = text[:place] + ("" if how == "d" else character) + text[place + (how != "i") :]
    before = values(text)
    named = {name for name in before for near in lines[max(0, row - 1) : row + 2] if name in near}
    for name, record in values(damaged).items():
        if name in before and name not in named:
            # Less may be known of it, if the damage made another row claim its id; nothing else.
            for field in fields(record):
                assert getattr(record, field.name) in {None, getattr(before[name], field.name)}


@settings(max_examples=400, deadline=None)
@given(data=st.data(), cell=st.text(st.sampled_from("0123456789:-.KMGT=,/gpuPDx+"), max_size=12))
def test_a_damaged_cell_is_read_strictly_or_not_at_all(data: st.DataObject, cell: str) -> None:
    lines = TEXT.split("\n")
    header = lines[0].split("|")
    row = data.draw(st.sampled_from([1, 2, 4, 5, 6]))
    column = data.draw(st.integers(1, len(header) - 2))
    cells = lines[row].split("|")
    identity, was = cells[0], values(TEXT)
    cells[column] = cell
    lines[row] = "|".join(cells)
    after = values("\n".join(lines))
    by_column = {
        "STATE": {"state", "pending_reason", "start_time", "expected_start_time"},
        "REASON": {"pending_reason"},
        "TIME": {"elapsed_seconds"},
        "TIME_LIMIT": {"time_limit_seconds"},
        "NODES": {"nodes", "gpus"},
        "CPUS": {"cpus"},
        "NODELIST": {"node_list"},
        "PARTITION": {"partition"},
        "ACCOUNT": {"project"},
        "USER": {"user"},
        "SUBMIT_TIME": {"submit_time"},
        "START_TIME": {"start_time", "expected_start_time"},
        "END_TIME": {"end_time"},
        "TRES_PER_NODE": {"gpus"},
        "ARRAY_JOB_ID": {"array_id"},
    }
    if identity not in after:
        return
    for name, record in after.items():
        for field in fields(record):
            if name == identity and field.name in by_column[header[column]]:
                continue
            if was.get(name) is not None:
                assert getattr(record, field.name) == getattr(was[name], field.name)
    for field_name in ("nodes", "cpus", "elapsed_seconds", "submit_time"):
        value = getattr(after[identity], field_name)
        column_name = {"nodes": "NODES", "cpus": "CPUS", "elapsed_seconds": "TIME", "submit_time": "SUBMIT_TIME"}[
            field_name
        ]
        if header[column] == column_name and value is not None and cell.isdecimal():
            assert value == int(cell)


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from([*TEXT.split("\n"), *TABLE.split("\n"), "JOBID", "JOBID|", "x"])).map("\n".join)
)
def test_nothing_but_input_error(text: str) -> None:
    try:
        squeue.parse(text)
    except InputError:
        return
