"""Damaged text: every value is the right one, or what the damaged text itself says, or unknown. Never another.

The judge is a reader of its own, with none of the parsers' code: it cuts lines at the delimiter, takes only lines with
as many cells as the header, and knows for each column a strict form and what it is worth.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.errors import InputError
from exporter.parsers import sacct
from exporter.records import AccountingRecord, Parsed

GOLDEN = Path(__file__).parents[2] / "golden" / "sacct"
TEXT = (GOLDEN / "parsable2_full.txt").read_text(encoding="utf-8")
LINES = TEXT.splitlines()
HEADER = LINES[0].split("|")
ROWS = [number for number, line in enumerate(LINES) if line.count("|") == LINES[0].count("|") and number]
DERIVED = {"max_rss_bytes", "memory_peak_bytes"}
NESTED = {"steps", "attempts", "job_id"}

Reading = Callable[[str], object]


def bare(text: str) -> str:
    return text.strip(" ")


def number(text: str) -> float:
    if not re.fullmatch(r"[0-9]+", text, re.ASCII):
        raise ValueError(text)
    return float(text)


def clock(text: str) -> float:
    long = re.fullmatch(r"(?:([0-9]+)-)?([0-9]+):([0-5][0-9]):([0-5][0-9])", text)
    if long:
        return int(long[1] or 0) * 86400 + int(long[2]) * 3600 + int(long[3]) * 60 + int(long[4])
    short = re.fullmatch(r"([0-9]{1,2}):([0-5][0-9](?:\.[0-9]+)?)", text)
    if short is None:
        raise ValueError(text)
    return int(short[1]) * 60 + float(short[2])


def scaled(step: int) -> Callable[[str], float]:
    def read(text: str) -> float:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGTPE]?)", text)
        if match is None:
            raise ValueError(text)
        return float(match[1]) * float(step) ** " KMGTPE".index(match[2] or " ")

    return read


binary = scaled(1024)


def moment(text: str) -> float:
    if re.fullmatch(r"[0-9]{1,10}", text):
        return int(text)
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()


def tres(text: str) -> dict[str, float]:
    amounts = {}
    for item in text.split(","):
        name, amount = item.split("=")
        amounts[name] = binary(amount) if name.startswith(("mem", "bb/")) else number(amount)
    return amounts


def word(text: str) -> str:
    return re.fullmatch(r"([A-Z_]+)(?: by [0-9]+)?", text)[1]  # type: ignore[index]  # TypeError is an answer


READINGS: dict[str, list[tuple[str, Reading]]] = {
    "array_id": [("JobID", lambda text: text.strip(" ").split("_")[0])],
    "job_name": [("JobName", str)],
    "user": [("User", bare)],
    "project": [("Account", bare)],
    "partition": [("Partition", bare)],
    "state": [("State", word)],
    "cancelled_by_uid": [("State", lambda text: int(text.split(" by ")[1]))],
    "exit_code": [("ExitCode", lambda text: int(text.split(":")[0]))],
    "signal": [("ExitCode", lambda text: int(text.split(":")[1]))],
    "req_cpus": [("ReqCPUS", binary)],
    "alloc_cpus": [("AllocCPUS", binary)],
    "req_nodes": [("ReqNodes", binary)],
    "alloc_nodes": [("AllocNodes", binary)],
    "submit_time": [("Submit", moment)],
    "start_time": [("Start", moment)],
    "end_time": [("End", moment)],
    "elapsed_seconds": [("Elapsed", clock), ("ElapsedRaw", number)],
    "time_limit_seconds": [("Timelimit", clock)],
    "planned_seconds": [("Reserved", clock)],
    "planned_cpu_seconds": [("ResvCPU", clock), ("ResvCPURAW", number)],
    "cpu_time_seconds": [("CPUTime", clock), ("CPUTimeRAW", number)],
    "total_cpu_seconds": [("TotalCPU", clock)],
    "ave_cpu_seconds": [("AveCPU", clock)],
    "ave_cpu_freq_hertz": [("AveCPUFreq", scaled(1000))],
    "ave_disk_read_bytes": [("AveDiskRead", binary)],
    "ave_disk_write_bytes": [("AveDiskWrite", binary)],
    "max_rss_bytes": [("MaxRSS", binary)],
    "memory_peak_bytes": [("TRESUsageInTot", lambda text: binary(re.search(r"(?:^|,)mem=([^,]*)", text)[1]))],  # type: ignore[index]  # as above
    "memory_requested_bytes": [("ReqMem", binary)],
    "energy_joules": [("ConsumedEnergyRaw", scaled(1000)), ("ConsumedEnergy", scaled(1000))],
    "billing_tres": [("AllocTRES", lambda text: tres(text)["billing"])],
    "tres_allocated": [("AllocTRES", tres)],
    "restarts": [],
}


def cells_of(text: str) -> Iterator[dict[str, str]]:
    """Lines with as many cells as the header; a short one goes on for as long as those after it are short."""
    lines = text.split("\n")
    for at, line in enumerate(lines):
        whole = line
        for more in lines[at + 1 : at + 4]:
            if whole.count("|") >= len(HEADER) - 1 or more.count("|") >= len(HEADER) - 1:
                break
            whole += "\n" + more
        cells = whole.split("|")
        if len(cells) == len(HEADER):
            yield dict(zip(HEADER, cells, strict=True))


def said(text: str) -> dict[str, dict[str, list[object]]]:
    """What each line says of the job or step that it names: id, field, values."""
    found: dict[str, dict[str, list[object]]] = defaultdict(lambda: defaultdict(list))
    for cells in cells_of(text):
        values = found[cells["JobID"].strip(" ")]
        for field, columns in READINGS.items():
            for column, read in columns:
                with suppress(TypeError, ValueError, IndexError, KeyError):
                    values[field].append(read(cells[column]))
        per = {"c": ("AllocCPUS", "ReqCPUS"), "n": ("AllocNodes", "ReqNodes")}.get(cells["ReqMem"][-1:], ())
        for column in per:  # a job that hasn't started has what it asks for, and was given nothing
            with suppress(ValueError):
                values["memory_requested_bytes"].append(binary(cells["ReqMem"][:-1]) * number(cells[column]))
    return found


def rows_of(parsed: Parsed[AccountingRecord]) -> Iterator[AccountingRecord]:
    for record in parsed.records:
        for attempt in (record, *record.attempts):
            yield attempt
            yield from attempt.steps


@cache
def undamaged() -> dict[str, AccountingRecord]:
    return {row.job_id: row for row in rows_of(sacct.parse(TEXT))}


def step_ids(text: str, job: str) -> list[str]:
    return sorted(cells["JobID"] for cells in cells_of(text) if cells["JobID"].startswith(f"{job}."))


def largest(text: str, job: str, field: str) -> list[object]:
    values = [value for step in set(step_ids(text, job)) for value in said(text)[step][field]]
    return [max(values)] if values else []  # type: ignore[type-var]  # numbers


def renamed(text: str) -> bool:
    """Whether all rows are there, and not all under their own names."""
    names = [cells["JobID"] for cells in cells_of(text)]
    return len(names) == len(list(cells_of(TEXT))) and sorted(names) != sorted(
        cells["JobID"] for cells in cells_of(TEXT)
    )


def judge(text: str) -> None:
    """Every value that is read of a damaged text is in the text for that job, or was before the damage."""
    try:
        parsed = sacct.parse(text)
    except InputError:
        return
    says = said(text)
    before = undamaged()
    for row in rows_of(parsed):
        for field in (each.name for each in fields(row)):
            value = getattr(row, field)
            if field in NESTED or value is None:
                continue
            if field == "job_name" and "|" in value:
                continue  # a header that lost its end makes the name the last column
            if field == "restarts":
                pytest.fail(f"a restart that never was: {row.job_id}")
            allowed = list(says[row.job_id][field])
            if row.job_id in before:
                allowed.append(getattr(before[row.job_id], field))
            if field in DERIVED and "." not in row.job_id:
                if renamed(text):
                    continue  # a step took another's name: nothing in the text tells
                allowed += largest(text, row.job_id, field)
            assert any(value == each for each in allowed), (row.job_id, field, value, allowed)


def test_the_judge_reads_the_undamaged_text_as_the_parser_does() -> None:
    judge(TEXT)
    assert len(undamaged()) > 8
    assert sum(getattr(row, field) is not None for row in undamaged().values() for field in READINGS) > 150


CHARACTERS = st.sampled_from("0123456789|:-.,=+KMGTPEcnxX _\n\r\t[]%") | st.characters(codec="utf-8")


@settings(max_examples=600, deadline=None)
@given(place=st.integers(0, len(TEXT) - 1), how=st.sampled_from("idr"), character=CHARACTERS)
@example(place=len(LINES[0]) + 2, how="i", character="\n")
@example(place=TEXT.index("|alice|") + 1, how="i", character=" ")
@example(place=TEXT.index("|project_462000001|") + 18, how="i", character=" ")
def test_one_character(place: int, how: str, character: str) -> None:
    rest = TEXT[place:] if how == "i" else TEXT[place + 1 :]
    judge(TEXT[:place] + ("" if how == "d" else character) + rest)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_one_line(data: st.DataObject) -> None:
    lines = list(LINES)
    at = data.draw(st.integers(0, len(lines) - 1))
    how = data.draw(st.sampled_from(["drop", "twice", "cut", "swap", "stray", "moved"]))
    if how == "drop":
        del lines[at]
    elif how == "twice":
        lines.insert(at, lines[at])
    elif how == "cut":
        lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))]
    elif how == "swap":
        lines[at - 1], lines[at] = lines[at], lines[at - 1]
    elif how == "moved":
        lines.insert(data.draw(st.integers(0, len(lines) - 1)), lines.pop(at))
    else:
        lines.insert(at, data.draw(st.text(max_size=40)))
    judge("\n".join(lines))


CELLS = (
    st.text(st.characters(codec="utf-8", exclude_characters="|\n"), max_size=12)
    | st.from_regex(r"-?[0-9]{1,20}[KMGTPcn]?", fullmatch=True)
    | st.from_regex(r"([0-9]{1,3}-)?[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?", fullmatch=True)
    | st.sampled_from(
        ["nan", "inf", "-1", "1e9", "0x10", "Unknown", "None", "INVALID", "N/A", "?", "+", "1,5", "\uff11"]
    )
)
QUIET = {"", "unknown", "none", "n/a", "na", "(null)", "invalid", "unlimited", "partition_limit", "not_set"}
"""Words that say that there is no value; nothing need be warned of."""


@settings(max_examples=600, deadline=None)
@example(row=LINES.index(next(line for line in LINES if line.startswith("505|"))), column="ReqMem", cell="1c")
@given(row=st.sampled_from(ROWS), column=st.sampled_from(HEADER[1:]), cell=CELLS)
def test_one_cell(row: int, column: str, cell: str) -> None:
    """The damaged cell is read strictly or warned of; the rest of its row and all other rows stay as they were."""
    lines = list(LINES)
    cells = lines[row].split("|")
    cells[HEADER.index(column)] = cell
    lines[row] = "|".join(cells)
    text = "\n".join(lines)
    judge(text)
    parsed = sacct.parse(text)
    affected = {field for field, columns in READINGS.items() if any(name == column for name, _ in columns)}
    if column in {"Start", "State", "Reserved", "ReqCPUS", "Elapsed", "ElapsedRaw", "End"}:
        affected.add("planned_cpu_seconds")
    identity = cells[0]
    after = {each.job_id: each for each in rows_of(parsed)}
    assert after.keys() == undamaged().keys()
    for name, was in undamaged().items():
        for field in READINGS:
            if name == identity and field in affected:
                continue
            if field in DERIVED & affected and identity.startswith(f"{name}."):
                continue
            assert getattr(after[name], field) == getattr(was, field), (name, field)
    lost = [field for field in affected - {"planned_cpu_seconds"} if getattr(after[identity], field) is None]
    had = [field for field in lost if getattr(undamaged()[identity], field) is not None]
    if had and cell.strip().casefold() not in QUIET and not accepted(column, cell):
        assert any(warning.line == row + 1 for warning in parsed.warnings), (column, cell, had)


def accepted(column: str, cell: str) -> bool:
    """Readings without a value that are no damage."""
    if column in {"ConsumedEnergyRaw", "ConsumedEnergy", "AllocTRES", "State", "ExitCode"}:
        return True  # zero, faults, a TRES that is missing, `?`, `CANCELLED` without a uid, signal 0
    if column == "ReqMem":
        return True  # all of a node, absurd amounts
    return (
        re.fullmatch(r"0+|[0-9]+\.[0-9]+[KMGTP]|[0-9]+[KMGTP]|42949672(94|95)|65534|1844674407370955161[45]", cell)
        is not None
    )


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=300) | st.lists(st.sampled_from([*LINES, "", "---- ----", "JobID", "JobID|", "x"])).map("\n".join)
)
def test_nothing_but_input_error(text: str) -> None:
    try:
        parsed = sacct.parse(text)
    except InputError:
        return
    assert all(1 <= warning.line <= text.count("\n") + 1 for warning in parsed.warnings)


@settings(max_examples=300, deadline=None)
@given(body=st.text(st.sampled_from("JobID|State123.batch_[]+- \n:x\x1b[m"), max_size=300), ruled=st.booleans())
def test_nothing_but_records_after_a_header(body: str, ruled: bool) -> None:
    header = "JobID           State\n------------ --------\n" if ruled else "JobID|State\n"
    if not ruled or "+" not in body:
        sacct.parse(header + body)
    else:  # what its column has cut is refused
        with suppress(InputError):
            sacct.parse(header + body)


TABLE = (GOLDEN / "default_table.txt").read_bytes().decode("utf-8", "replace")
BODY = TABLE.index("\n", TABLE.index("----")) + 1


@settings(max_examples=600, deadline=None)
@given(
    place=st.integers(BODY, len(TABLE) - 2),
    how=st.sampled_from("idr"),
    character=st.sampled_from("0123456789 +.:_[]-\nxyCü"),
)
@example(place=320, how="r", character="0")  # two rows of one step, ended by different signals
def test_one_character_of_a_table(place: int, how: str, character: str) -> None:
    """What is read of a row of fixed width is a word of its own line, or was there before."""
    text = TABLE[:place] + ("" if how == "d" else character) + TABLE[place + (how != "i") :]
    before = {row.job_id: row for row in rows_of(sacct.parse(TABLE))}
    try:
        parsed = sacct.parse(text)
    except InputError:
        return  # a cell that ends in + now fills its column
    words: dict[str, set[str]] = defaultdict(set)
    for line in text.split("\n"):
        words[line.split(" ")[0]] |= set(line.split())
    for row in rows_of(parsed):
        was = before.get(row.job_id)
        for value in (row.alloc_cpus, None if row.exit_code is None else f"{row.exit_code}:{row.signal or 0}"):
            known = {was.alloc_cpus, f"{was.exit_code}:{was.signal or 0}"} if was else set()
            read = {re.sub(r"\b0+(?=[0-9])", "", word) for word in words[row.job_id]}
            assert value is None or value in known or str(value) in read, (row, value)
        assert row.state is None or any(row.state.startswith(word.rstrip("+")) for word in words[row.job_id]), row
