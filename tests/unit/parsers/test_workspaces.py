"""What is read of disk areas."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import InputError
from exporter.parsers import Parser, csc_workspaces, lumi_workspaces
from exporter.parsers.as_json import to_json
from exporter.records import WorkspaceRecord

FIELDS = "path project used_bytes limit_bytes used_files limit_files over_quota cleanup_days"
GOLDEN = Path(__file__).parents[2] / "golden"
TEXT = (GOLDEN / "csc-workspaces" / "puhti.txt").read_text(encoding="utf-8")
KIB, MIB, GIB, TIB = (1024.0**power for power in range(1, 5))


def one(cells: str) -> WorkspaceRecord:
    parsed = csc_workspaces.parse(f"/scratch/project_1   {cells}\n")
    assert parsed.warnings == ()
    (record,) = parsed.records
    return record


def test_the_contracts_fields_in_its_order() -> None:
    for parse in (csc_workspaces.parse, lumi_workspaces.parse):
        assert list(to_json(parse(TEXT))["records"][0]) == FIELDS.split()


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ("7.2T*/7.0T 2.7M/5.0M 90d", (7.2 * TIB, 7 * TIB, 2700000, 5000000, True, 90)),
        ("36.43G/1T .64k/1000k", (36.43 * GIB, TIB, 640, 1000000, False, None)),
        ("4k/50G 0k/100k n/a", (4 * KIB, 50 * GIB, 0, 100000, False, None)),
        ("12.86M/50G .97k/100k", (12.86 * MIB, 50 * GIB, 970, 100000, False, None)),
        ("512/1P 37/100K", (512, 1024 * TIB, 37, 100000, False, None)),
        ("7.0T*/7.0T 1/2", (7 * TIB, 7 * TIB, 1, 2, True, None)),
        ("8T/7T 1/2", (8 * TIB, 7 * TIB, 1, 2, True, None)),
        ("1T/7T 101K*/100K", (TIB, 7 * TIB, 101000, 100000, True, None)),
        ("1T/7T 1.0K/-", (TIB, 7 * TIB, 1000, None, None, None)),
        ("1T/0 1.0K/n/a 30d", (TIB, None, 1000, None, None, 30)),
    ],
)
def test_an_area(cells: str, expected: tuple[object, ...]) -> None:
    record = one(cells)
    assert (
        record.used_bytes,
        record.limit_bytes,
        record.used_files,
        record.limit_files,
        record.over_quota,
        record.cleanup_days,
    ) == expected
    assert record.project == "project_1"


@pytest.mark.parametrize("parse", [csc_workspaces.parse, lumi_workspaces.parse])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Job ID: 5\nCluster: x\n", "no disk area; it begins 'Job ID: 5'"),
        ("Project | CPU (used/allocated)\n", "no disk area; it begins 'Project |"),
        ("/dev/sda1  10G  5G  5G  50% /\n", "'/dev/sda1  10G  5G  5G  50% /'"),
        ("-bash: csc-workspaces: command not found\n", "command not found"),
        ('{"a": 1}\n', "JSON"),
        ("", "empty"),
        ("x" * 9999, "…"),
    ],
)
def test_text_without_areas_is_refused(parse: Parser, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 350


def test_a_header_alone_is_no_area() -> None:
    assert csc_workspaces.parse(TEXT.splitlines()[2]).records == ()


def test_a_home_belongs_to_no_project_wherever_it_is_printed() -> None:
    assert [each.project for each in csc_workspaces.parse(TEXT).records] == [
        None,
        "project_2009876",
        "project_2009876",
        "project_2009877",
    ]


BEFORE = {each.path: each for each in csc_workspaces.parse(TEXT).records}


def reading(text: str, step: int) -> float | None:
    """What a cell is worth, by another way than the parser's."""
    digits = text.rstrip("*")
    unit = digits[-1:].upper()
    try:
        if unit in {"K", "M", "G", "T", "P", "E"}:
            return float(digits[:-1]) * float(step) ** ("KMGTPE".index(unit) + 1)
        return float(digits)
    except ValueError:
        return None


@settings(max_examples=1000, deadline=None)
@given(
    place=st.integers(0, len(TEXT) - 1),
    how=st.sampled_from("idr"),
    character=st.sampled_from("0123456789.kKMGT*/ -dn\n\r") | st.characters(codec="utf-8"),
)
def test_one_character(place: int, how: str, character: str) -> None:
    """Every value is that of the area before, or what the damaged row says."""
    text = TEXT[:place] + ("" if how == "d" else character) + TEXT[place + (how != "i") :]
    parsed = csc_workspaces.parse(text)
    rows = {words[0]: words for line in text.split("\n") if (words := line.split()) and words[0].startswith("/")}
    for each in parsed.records:
        words = rows[each.path]
        capacity, files = words[1].partition("/"), words[2].partition("/")
        assert each.used_bytes == pytest.approx(reading(capacity[0], 1024))
        assert each.limit_bytes is None or each.limit_bytes == pytest.approx(reading(capacity[2], 1024))
        assert each.used_files == pytest.approx(reading(files[0], 1000), abs=0.5)
        assert each.limit_files is None or each.limit_files == pytest.approx(reading(files[2], 1000), abs=0.5)
        assert each.cleanup_days is None or f"{each.cleanup_days}d" in words[3]
        assert "*" not in words[1] + words[2] or each.over_quota
        was = BEFORE.get(each.path)
        assert was is None or each.project == was.project or parsed.warnings
    if len(parsed.records) < len(BEFORE):
        assert parsed.warnings


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from([*TEXT.splitlines(), "", "x", "/"])).map("\n".join))
def test_nothing_but_input_error(text: str) -> None:
    for parse in (csc_workspaces.parse, lumi_workspaces.parse):
        with suppress(InputError):
            parse(text)
        parse("/scratch/project_1 1/2 3/4\n" + text)
