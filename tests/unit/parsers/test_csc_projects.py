"""What is read of CSC's balances."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.errors import InputError
from exporter.parsers.as_json import to_json
from exporter.parsers.csc_projects import parse
from exporter.records import CscAllocationRecord

FIELDS = """
    provider project kind unit used granted remaining updated_time start_time end_time last_grant_time status title
"""
TEXT = (Path(__file__).parents[2] / "golden" / "csc-projects" / "local_time.txt").read_text(encoding="utf-8")


def one(row: str) -> CscAllocationRecord:
    parsed = parse(f"Project: project_1        Owner: A\n{row}\n")
    assert parsed.warnings == ()
    (record,) = parsed.records
    return record


def test_the_contracts_fields_in_its_order() -> None:
    record = to_json(parse(TEXT))["records"][0]
    assert list(record) == FIELDS.split()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Job ID: 5\nCluster: x\n", "no line 'Project: …'; it begins 'Job ID: 5'"),
        ("CPU BU:             60000          20       59980\n", "it begins 'CPU BU:"),
        ("-bash: csc-projects: command not found\n", "csc-projects: command not found"),
        ('{"project": 1}', "JSON"),
        ("", "empty"),
        ("x" * 9999, "…"),
        ("Project: 5\n", "it begins 'Project: 5'"),
        ("Project: project_1\n/projappl/project_1    24G/50G      36K/100K      n/a\n", "no balance of 'project_1'"),
    ],
)
def test_text_without_projects_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("row", "balance"),
    [
        ("CPU BU: 60000 20 59980", ("cpu", 20, 60000, 59980)),
        ("GPU BU: 10 30 -20", ("gpu", 30, 10, -20)),
        ("Storage BU: N/A 40 N/A", ("storage", 40, None, None)),
        ("Cloud BU: 400 N/A N/A", ("cloud", None, 400, None)),
        ("CPU BU: 0 0 0", ("cpu", 0, 0, 0)),
        ("CPU BU: 100 20 79", ("cpu", 20, 100, 80)),
        ("CPU BU: 100.5 0.25 100.25", ("cpu", 0.25, 100.5, 100.25)),
    ],
)
def test_a_balance(row: str, balance: tuple[object, ...]) -> None:
    record = one(row)
    assert (record.kind, record.used, record.granted, record.remaining) == balance
    assert (record.provider, record.unit, record.updated_time, record.title) == ("csc", "BU", None, None)


def test_local_times_are_read_in_the_sites_zone() -> None:
    text = "Project: p\nStart: 2026-07-01 End: 2026-12-01 Status: open\nCPU BU: 1 1 0\nProject info updated: {}\n"
    zone = ZoneInfo("Europe/Helsinki")
    (record,) = parse(text.format("2026-07-01 15:12"), timezone=zone).records
    assert (record.start_time, record.end_time, record.updated_time) == (1782853200, 1796076000, 1782907920)
    parsed = parse(text.format("2026-10-25 03:12"), timezone=zone)
    assert parsed.records[0].updated_time is None
    assert [warning.reason for warning in parsed.warnings] == ["a local time that occurs twice"]


def test_a_project_that_is_there_twice_and_differently_is_nobodys_but_a_later_table_counts() -> None:
    twice = TEXT.replace("project_2009876", "project_2009877")
    parsed = parse(twice)
    assert parsed.records == ()
    assert [warning.reason for warning in parsed.warnings] == ["a project that is there twice, and not the same"] * 2

    later = parse(TEXT + TEXT.replace("10           5           5", "10           6           4"))
    assert {(each.project, each.kind) for each in later.records} == set(BEFORE)
    assert [each.used for each in later.records if each.project == "project_2009877"] == [6]
    assert later.warnings == ()


NUMBERS = {word for line in TEXT.splitlines() for word in line.split()}
BEFORE = {(each.project, each.kind): each for each in parse(TEXT).records}


@settings(max_examples=1000, deadline=None)
@example(place=126, how="r", character="7")  # of one project's name this makes the other's
@given(
    place=st.integers(0, len(TEXT) - 1),
    how=st.sampled_from("idr"),
    character=st.sampled_from('0123456789:.-N/A BU"\n\r') | st.characters(codec="utf-8"),
)
def test_one_character(place: int, how: str, character: str) -> None:
    """A balance is one that was there, or three numbers of one damaged row that fit each other within rounding."""
    text = TEXT[:place] + ("" if how == "d" else character) + TEXT[place + (how != "i") :]
    try:
        parsed = parse(text)
    except InputError:
        return
    rows = {tuple(line.split()[-3:]) for line in text.split("\n") if " BU:" in line}
    for each in parsed.records:
        was = BEFORE.get((each.project, each.kind))
        mine = (each.used, each.granted)
        assert (was and mine == (was.used, was.granted)) or any(
            mine == (number(row[1]), number(row[0])) for row in rows if len(row) == 3
        )
        if was is None and each.project in {name for name, _ in BEFORE}:
            assert parsed.warnings or each.kind in text.casefold()
        if None not in mine:
            assert each.remaining == pytest.approx((each.granted or 0) - (each.used or 0))
    if len(parsed.records) < len(BEFORE):
        assert parsed.warnings
    projects = {name for name, _ in BEFORE}
    for each in parsed.records:
        was = BEFORE.get((each.project, each.kind))
        if each.project in projects and was is not None and (each.status, each.title) != (was.status, was.title):
            line_start = TEXT.rfind("\n", 0, place) + 1
            damaged = TEXT[line_start:place].startswith(("Start", "Title", "Project")) or place - line_start < 16
            assert damaged or parsed.warnings


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@pytest.mark.parametrize("name", ["Project; project_2009877 ", "Project: \u00e4 ", ""])
def test_rows_of_a_project_whose_name_is_garbled_are_nobodys(name: str) -> None:
    parsed = parse(TEXT.replace("Project: project_2009877 ", name))
    assert parsed.records == tuple(each for each in BEFORE.values() if each.project == "project_2009876")
    assert len(parsed.warnings) >= 5


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from([*TEXT.splitlines(), "", "x"])).map("\n".join))
def test_nothing_but_input_error(text: str) -> None:
    with suppress(InputError):
        parse(text)
    with suppress(InputError):
        parse("Project: project_1\nCPU BU: 1 1 0\n" + text)
