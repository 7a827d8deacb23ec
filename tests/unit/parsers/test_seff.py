"""What seff's parser promises beyond the golden texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.errors import InputError
from exporter.parsers import seff
from exporter.parsers.as_json import to_json
from exporter.records import Parsed, SeffReport

FIELDS = """
    job_id array_job_id cluster partition user group state exit_code nodes cores_per_node cores cpu_used_seconds
    cpu_efficiency_ratio core_walltime_seconds wall_clock_seconds memory_used_bytes memory_used_is_estimate
    memory_efficiency_ratio memory_allocated_bytes billing_units billing_components billed_project gpus
"""
GPU_FIELDS = "hostname gpu_id load_mean_ratio load_max_ratio memory_mean_bytes memory_max_bytes energy_joules"
GOLDEN = Path(__file__).parents[2] / "golden" / "seff"
GPUS = (GOLDEN / "puhti_gpus.txt").read_text(encoding="utf-8")
ROIHU = (GOLDEN / "roihu.txt").read_text(encoding="utf-8")
REPORT = """Job ID: 7
Cluster: hpc
User/Group: alice/staff
State: COMPLETED (exit code 0)
Nodes: 1
Cores per node: 4
CPU Utilized: 00:10:00
CPU Efficiency: 50.00% of 00:20:00 core-walltime
Job Wall-clock time: 00:05:00
Memory Utilized: 5.00 GB
Memory Efficiency: 50.00% of 10.00 GB
"""


def one(text: str) -> SeffReport:
    parsed = seff.parse(text)
    assert parsed.warnings == ()
    (record,) = parsed.records
    return record


def reasons(text: str) -> list[str]:
    return [warning.reason for warning in seff.parse(text).warnings]


def test_the_contracts_fields_in_its_order() -> None:
    (record,) = to_json(seff.parse(GPUS))["records"]
    assert list(record) == FIELDS.split()
    assert list(record["gpus"][0]) == GPU_FIELDS.split()
    (record,) = to_json(seff.parse("Job ID: 7\nState: PENDING\n"))["records"]
    assert [name for name in record if record[name] is not None] == ["job_id", "state", "billing_components", "gpus"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Job not found.\n", "seff says 'Job not found.'"),
        ("perl: error: Connection refused\nJob not found.\n", "after 'perl: error: Connection refused'"),
        ("Badly formatted array jobid 5 with task_id = -2\n", "ask for one task of the array, ID_TASK"),
        ("Usage: seff [Options] <Jobid>\n       Options:\n", "'Usage: seff [Options] <Jobid>'"),
        ("bash: seff: command not found\n", "'bash: seff: command not found'"),
        ("CPU Efficiency: 1.00% of 00:00:10 core-walltime\n", "no line 'Job ID: …' before 'CPU Efficiency"),
        ("GPU energy\n      Hostname        GPU Id   Energy (Wh)\n", "no line 'Job ID: …' before 'GPU energy'"),
        ("Job ID: 5\n", "nothing after 'Job ID: 5'"),
        ("Job ID: 5_\nCluster: a\n", "no line 'Job ID: …' before 'Cluster: a'"),
        ("Job ID: 5\nJob Wall-time:  100.33%  00:15:03 of 00:15:00 time limit\n", "line 2 'Job Wall-time:  100.33%"),
        ('{\n "Job ID": "5"\n}\n', "not what seff prints but JSON; it begins '{'"),
        ("JOBID|NAME\n5|x\n", "no line 'Job ID: …'; it begins 'JOBID|NAME'"),
        ("JobId: 5\nQos: x\n", "it begins 'JobId: 5'"),
        ("", "empty"),
        (" \r\n", "empty"),
        ("x" * 9999, "…"),
    ],
)
def test_text_without_a_report_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        seff.parse(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


def test_cores_of_nodes_that_have_not_the_same_number_of_them() -> None:
    text = (
        REPORT.replace("Nodes: 1", "Nodes: 3").replace("00:20:00", "01:10:00").replace("50.00% of 01", "14.29% of 01")
    )
    assert (one(text).nodes, one(text).cores_per_node, one(text).cores) == (3, 4, 14)
    without = re.sub("Job Wall.*\n", "", text)
    assert one(without).cores is None


@pytest.mark.parametrize(
    ("line", "instead", "lost"),
    [
        ("Cores per node: 4", "Cores per node: 5", "cores nodes cores_per_node wall_clock_seconds"),
        ("00:05:00", "00:06:00", "cores nodes cores_per_node wall_clock_seconds core_walltime_seconds"),
        ("CPU Utilized: 00:10:00", "CPU Utilized: 00:11:00", "cpu_used_seconds cpu_efficiency_ratio"),
        ("50.00% of 00", "5.00% of 00", "cpu_used_seconds cpu_efficiency_ratio core_walltime_seconds"),
        ("Memory Utilized: 5.00 GB", "Memory Utilized: 5.00 MB", "memory_used_bytes memory_efficiency_ratio"),
        ("of 10.00 GB", "of 10.02 GB", "memory_used_bytes memory_efficiency_ratio memory_allocated_bytes"),
    ],
)
def test_values_that_contradict_each_other_are_unknown(line: str, instead: str, lost: str) -> None:
    parsed = seff.parse(REPORT.replace(line, instead))
    assert len(parsed.warnings) == 1
    assert all(getattr(parsed.records[0], name) is None for name in lost.split())
    assert parsed.records[0].state == "COMPLETED"


BILL = REPORT + "Job consumed 3.00 CSC billing units{}\nBilled project: project_1\n"


@pytest.mark.parametrize(
    ("how", "components", "warns"),
    [
        (" based on following used resources", "CPU BU: 1.00\nMem BU: 2.01\n", False),
        (" based on following used resources", "CPU BU: 1.00\nMem BU: 1.99\n", False),
        (" based on following used resources", "CPU BU: 1.00\nMem BU: 2.02\n", True),
        (" based on following used resources", "CPU BU: 1.00\nMem BU: 1.00\nGPU BU: 1.02\n", False),
        (" based on following used resources", "CPU BU: 1.00\nMem BU: 3.00\n", True),
        (", billed on Mem usage", "CPU usage: 1.00 CPU BU\nMem usage: 3.00 CPU BU\n", False),
        (", billed on GPU usage", "CPU usage: 1.00 CPU BU\nGPU usage: 3.00 GPU BU\n", False),
        ("", "", False),
    ],
)
def test_components_need_only_about_sum_up(how: str, components: str, warns: bool) -> None:
    parsed = seff.parse(BILL.format(how) + components)
    assert bool(parsed.warnings) == warns
    assert parsed.records[0].billing_units == (None if warns else 3)
    assert len(parsed.records[0].billing_components) == components.count("\n")


@pytest.mark.parametrize("spelling", ["Job consumed 3.00 CSC billing units", "Job consumed 3.00 CSC Billing Units x"])
def test_the_bill_has_no_colon_and_any_case(spelling: str) -> None:
    assert one(REPORT + spelling + "\nnon-interactive bus: 3.00\n").billing_components == {"non_interactive": 3.0}


def test_half_a_report_says_what_is_missing() -> None:
    parsed = seff.parse(REPORT[: REPORT.index("Memory")])
    assert parsed.records[0].cpu_used_seconds == 600
    assert reasons(REPORT[: REPORT.index("Memory")]) == ["a report without Memory Efficiency"]
    assert reasons("Job ID: 5\nCluster: a\n") == ["a report without State, CPU Efficiency, Memory Efficiency"]


def test_lines_of_a_report_whose_beginning_is_lost_are_nobodys() -> None:
    second = REPORT.replace("Job ID: 7", "Jqb ID: 8\nArray Job ID: 8_1")
    parsed = seff.parse(REPORT + second)
    assert parsed.records == (one(REPORT),)
    assert len(parsed.warnings) == second.count("\n")


def test_several_reports_are_several_records() -> None:
    parsed = seff.parse(REPORT + GPUS + ROIHU)
    assert [record.job_id for record in parsed.records] == ["7", "6200001", "412001"]
    assert parsed.warnings == ()


def test_not_a_size_a_job_can_have() -> None:
    assert "not a size" in reasons(REPORT.replace("5.00 GB", "1.00 EB"))[0]


# What damaged text gives: what it was, what the damaged line says, or nothing and a warning.

LONG = REPORT + GPUS + ROIHU
BEFORE = {record.job_id: record for record in seff.parse(LONG).records}
STARTS = [match.start() for match in re.finditer("^Job ID", LONG, re.MULTILINE)]
UNITS = {f"{letter}B": 1024.0**power for power, letter in enumerate("KMGTPE", 1)}


def words(text: str) -> Iterator[object]:
    """What a line may say, read loosely: words, numbers with and without units and percent, clocks."""
    for line in text.split("\n"):
        tail = line.partition(":")[2].strip()
        yield from (tail, *tail.split("/"), *line.split(), tail.split(" ")[0])
        for match in re.finditer(r"([0-9]+(?:\.[0-9]+)?)(?: ([KMGTPE]B))?", line):
            value = float(match[1])
            yield from (value, float(f"{match[1]}e-2"), value * 1024**3, value * 3600, value * UNITS.get(match[2], 1))
        for match in re.finditer(r"(?:([0-9]+)-)?([0-9]+):([0-9]+):([0-9]+)", line):
            days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
            yield float(days * 86400 + hours * 3600 + minutes * 60 + seconds)


def leaves(record: SeffReport) -> Iterator[tuple[str, object]]:
    for each in fields(record):
        value = getattr(record, each.name)
        if each.name == "gpus":
            for gpu in value:
                key = f"{gpu.hostname} {gpu.gpu_id}"
                yield from ((f"{key} {part.name}", getattr(gpu, part.name)) for part in fields(gpu))
        elif each.name == "billing_components":
            yield from value.items()
        else:
            yield each.name, value


def judge(text: str, place: int) -> None:
    try:
        parsed = seff.parse(text)
    except InputError:
        return
    report = max(at for at, start in enumerate(STARTS) if start <= place)
    touched = list(BEFORE)[report]
    around = text[text.rfind("\n", 0, max(place - 1, 0)) + 1 :].split("\n")
    said = set(words("\n".join(around[:3])))
    for record in parsed.records:
        was = BEFORE.get(record.job_id)
        if was is not None and record.job_id != touched:
            assert record == was
            continue
        base = dict(leaves(BEFORE[touched]))
        for name, value in leaves(record):
            fine = value is None or value == base.get(name) or value in said or name == "memory_used_is_estimate"
            if name == "cores" and record.nodes == 1:
                fine = fine or value == record.cores_per_node
            assert fine, (name, value, base.get(name))
        lost = {name for name, value in base.items() if value is not None} - {
            name for name, value in leaves(record) if value is not None
        }
        assert not lost or parsed.warnings or lost <= {"user", "group", "cluster", "partition", "billed_project"}, lost
    if len(parsed.records) != len(BEFORE):
        assert parsed.warnings


CHARACTERS = st.sampled_from("0123456789:./%-() KMGTxB\n\r\t\x1b") | st.characters(codec="utf-8")


@settings(max_examples=1000, deadline=None)
@given(place=st.integers(0, len(LONG) - 1), how=st.sampled_from("idr"), character=CHARACTERS)
@example(place=STARTS[1], how="i", character=" ")
@example(place=STARTS[1] + 5, how="d", character="")
@example(place=LONG.index("1-16:00:00 core") + 3, how="r", character="8")
def test_one_character(place: int, how: str, character: str) -> None:
    judge(LONG[:place] + ("" if how == "d" else character) + LONG[place + (how != "i") :], place)


@settings(max_examples=500, deadline=None)
@given(place=st.integers(0, len(LONG) - 1), digit=st.sampled_from("0123456789"))
def test_a_wrong_digit_in_what_can_be_checked_is_noticed(place: int, digit: str) -> None:
    line = LONG[LONG.rfind("\n", 0, place) + 1 :].split("\n")[0]
    if not LONG[place].isdigit() or LONG[place] == digit or not line.startswith(("CPU", "Job W", "Memory", "Cores")):
        return
    parsed = seff.parse(LONG[:place] + digit + LONG[place + 1 :])
    same = [dict(leaves(record)) == dict(leaves(BEFORE[record.job_id])) for record in parsed.records]
    close = "(" in line or line.startswith(("Memory", "CPU"))  # within what two decimals leave open, or a node's share
    assert all(same) or parsed.warnings or close


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_one_line(data: st.DataObject) -> None:
    lines = LONG.splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    how = data.draw(st.sampled_from(["drop", "twice", "cut", "stray"]))
    place = sum(len(line) + 1 for line in lines[:at])
    if how == "drop":
        del lines[at]
    elif how == "twice":
        lines.insert(at, lines[at])
    elif how == "cut":
        lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))]
    else:
        lines.insert(at, data.draw(st.text(max_size=40)))
    with suppress(InputError):
        parsed = seff.parse("\n".join(lines))
        for record in parsed.records:
            report = max(number for number, start in enumerate(STARTS) if start <= place)
            near = {list(BEFORE)[report], list(BEFORE)[max(report - 1, 0)]}
            cut_id = how in {"cut", "stray"} and record.job_id not in BEFORE
            assert record.job_id in near or cut_id or record == BEFORE.get(record.job_id)
            known = {value for was in all_values() for value in was} | set(
                words("\n".join(lines[max(at - 1, 0) : at + 2]))
            )
            assert all(value is None or value in known for _, value in leaves(record))
            mine = dict(leaves(BEFORE[record.job_id])) if record.job_id in BEFORE else {}
            wrong = [name for name, value in leaves(record) if mine and value is not None and value != mine.get(name)]
            assert not wrong or how in {"cut", "stray"} or parsed.warnings, wrong


@cache
def all_values() -> tuple[frozenset[object], ...]:
    return tuple(frozenset(value for _, value in leaves(record)) for record in BEFORE.values())


@settings(max_examples=500, deadline=None)
@given(
    st.text(max_size=300) | st.lists(st.sampled_from([*LONG.splitlines(), "", "x", "Job not found."])).map("\n".join)
)
def test_nothing_but_input_error(text: str) -> None:
    with suppress(InputError):
        parsed: Parsed[SeffReport] = seff.parse(text)
        assert all(1 <= warning.line <= text.count("\n") + 1 for warning in parsed.warnings)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("Job ID: 12\nState:GPU load%CPBU().x\x1b[m"), max_size=300))
def test_nothing_but_records_after_a_head(body: str) -> None:
    with suppress(InputError):
        seff.parse("Job ID: 5\nState: PENDING\n" + body)
