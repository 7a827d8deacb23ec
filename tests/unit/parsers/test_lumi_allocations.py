"""What is read of LUMI's balances, from the command and from the file it reads."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import InputError
from exporter.parsers.as_json import to_json
from exporter.parsers.lumi_allocations import parse, parse_project_json
from exporter.records import AllocationRecord, Parsed

FIELDS = "provider project kind unit used granted remaining updated_time"
TEXT = (Path(__file__).parents[2] / "golden" / "lumi-allocations" / "local_time.txt").read_text(encoding="utf-8")
HEADER = "Project |  CPU (used/allocated)|  GPU (used/allocated)\n"
FILE = """{
  "name": "project_465000010",
  "billing": {
    "cpu_hours": {"alloc": 1000, "used": 1250.5},
    "gpu_hours": {"alloc": 0, "used": 7},
    "storage_hours": {"alloc": 10, "used": 5},
    "qpu_secs": {"alloc": 3600, "used": 0}
  },
  "title": "A project"
}
"""

Balance = tuple[str, str, str, float | None, float | None, float | None]


def balances(parsed: Parsed[AllocationRecord]) -> list[Balance]:
    return [(each.project, each.kind, each.unit, each.used, each.granted, each.remaining) for each in parsed.records]


def test_the_contracts_fields_in_its_order() -> None:
    record = to_json(parse(TEXT))["records"][0]
    assert list(record) == FIELDS.split()
    assert record["updated_time"] == 1782907259


def test_the_time_is_the_sites() -> None:
    records = parse(TEXT, timezone=ZoneInfo("Europe/Helsinki")).records
    assert {record.updated_time for record in records} == {1782896459}
    twice = TEXT.replace("2026-07-01 12:00:59", "2026-10-25 03:30:00")
    parsed = parse(twice, timezone=ZoneInfo("Europe/Helsinki"))
    assert {record.updated_time for record in parsed.records} == {None}
    assert parsed.warnings[0].reason == "a local time that occurs twice"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Error: You do not have permissions to access project_999\n", "says 'Error: You do not have permissions"),
        ("Traceback (most recent call last):\n  File x\n", "says 'Traceback (most recent call last):'"),
        ("-bash: lumi-allocations: command not found\n", "command not found"),
        ("Job ID: 5\nCluster: x\n", "no line 'Project | CPU …'; it begins 'Job ID: 5'"),
        ("Billing units      Budget        Used      Remain\n", "it begins 'Billing units"),
        ("project_1 | 1/2 (50.0%) core/hours\n", "it begins 'project_1"),
        ("Project | CPU\n", "it begins 'Project | CPU'"),
        (FILE, "JSON"),
        ("", "empty"),
        ("x" * 9999, "…"),
    ],
)
def test_text_without_a_table_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_table_without_projects_is_none() -> None:
    assert parse(HEADER) == Parsed(())


def test_a_column_that_is_not_known_leaves_the_others() -> None:
    parsed = parse("Project | CPU (used/allocated)| TPU (used/allocated)\np | 1/2 (50.0%) core/hours| 1/2 (50.0%) x\n")
    assert [record.kind for record in parsed.records] == ["cpu"]
    assert "not known" in parsed.warnings[0].reason


def printed(used: int, granted: int) -> str:
    percent = f"({used / granted * 100:.1f}%)" if granted else "(N/A)"
    return f"{used}/{granted} {percent:>8}"


AMOUNTS = st.tuples(st.integers(0, 10**9), st.integers(0, 10**9))


@given(st.lists(st.tuples(AMOUNTS, AMOUNTS), max_size=5))
def test_what_is_printed_is_read_back(rows: list[tuple[tuple[int, int], tuple[int, int]]]) -> None:
    lines = [
        f"project_{number:<12}|{printed(*cpu) + ' core/hours':>40}|{printed(*gpu) + ' gpu/hours':>35}"
        for number, (cpu, gpu) in enumerate(rows)
    ]
    parsed = parse(HEADER + "-" * 70 + "\n" + "\n".join(lines) + "\n")
    expected: list[Balance] = []
    for number, amounts in enumerate(rows):
        for kind, unit, (used, granted) in zip(("cpu", "gpu"), ("core-hours", "gpu-hours"), amounts, strict=True):
            left = (granted, granted - used) if granted else (None, None)
            expected.append((f"project_{number}", kind, unit, used, *left))
    assert parsed.warnings == ()
    assert balances(parsed) == expected


BEFORE = {(each.project, each.kind): each for each in parse(TEXT).records}


def judge(text: str) -> None:
    """Every balance was there before, or is two numbers of one cell of the damaged text."""
    try:
        parsed = parse(text)
    except InputError:
        return
    pairs = {(float(used), float(granted)) for used, granted in re.findall(r"([0-9.]+)/([0-9.]+)\s", text)}
    for each in parsed.records:
        assert each.used is not None
        assert (each.used, each.granted or 0) in pairs
        assert each.remaining == (None if each.granted is None else each.granted - each.used)
        assert each.project in text
    if not parsed.warnings:
        assert len(parsed.records) in {0, len(BEFORE)} or "N/A|" not in text


@settings(max_examples=600, deadline=None)
@given(
    place=st.integers(TEXT.index("Project "), len(TEXT) - 1),
    how=st.sampled_from("idr"),
    character=st.sampled_from("0123456789/.|%()NA _\n\r") | st.characters(codec="utf-8"),
)
def test_one_character(place: int, how: str, character: str) -> None:
    with suppress(ValueError):
        judge(TEXT[:place] + ("" if how == "d" else character) + TEXT[place + (how != "i") :])


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from([*TEXT.splitlines(), "", "x"])).map("\n".join))
def test_nothing_but_input_error(text: str) -> None:
    with suppress(InputError):
        parse(text)
    with suppress(InputError):
        parse(HEADER + text)
    with suppress(InputError):
        parse_project_json(text, "project_1")


def test_the_file_of_a_project() -> None:
    parsed = parse_project_json(FILE, "project_465000010")
    assert balances(parsed) == [
        ("project_465000010", "cpu", "core-hours", 1250.5, 1000, -250.5),
        ("project_465000010", "gpu", "gpu-hours", 7, None, None),
        ("project_465000010", "storage", "TB-hours", 5, 10, 5),
        ("project_465000010", "qpu", "qpu-seconds", 0, 3600, 3600),
    ]
    assert parsed.warnings == ()


@pytest.mark.parametrize("bad", ["-1", "true", '"5"', "NaN", "Infinity", "1e400", "9" * 400, "[]"])
def test_an_amount_in_the_file_that_is_none(bad: str) -> None:
    parsed = parse_project_json(FILE.replace("1250.5", bad), "project_465000010")
    assert [record.kind for record in parsed.records] == ["gpu", "storage", "qpu"]
    assert parsed.warnings[0].line == 4
    assert parsed.warnings[0].reason == "cpu_hours: used is not an amount"


def test_kinds_that_the_file_does_not_have() -> None:
    text = json.dumps({"billing": {"cpu_hours": {"alloc": 1, "used": 0}, "gpu_hours": 5}})
    parsed = parse_project_json(text, "p")
    assert [record.kind for record in parsed.records] == ["cpu"]
    assert len(parsed.warnings) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("cat: /var/lib/project_info: No such file or directory\n", "no JSON; it begins 'cat: /var"),
        (FILE[:80], "no JSON; it begins '{'"),
        ("[1]", "no billing"),
        ('{"billing": []}', "no billing"),
        (FILE.replace("000010", "000011"), "but of 'project_465000011'"),
        ("[" * 100000, "no JSON"),
    ],
)
def test_a_text_that_is_not_the_file_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_project_json(text, "project_465000010")
    assert said in str(caught.value)
