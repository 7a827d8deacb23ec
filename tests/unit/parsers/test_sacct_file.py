"""A file of sacct's read job by job says what its text says as a whole, and what is odd is read with the same care."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.errors import InputError
from exporter.parsers import sacct, values
from exporter.records import AccountingRecord, Parsed

GOLDEN = Path(__file__).parents[2] / "golden" / "sacct"
HEADER = "JobID|State|Submit|MaxRSS|JobName\n"


def from_file(text: str) -> Parsed[AccountingRecord]:
    pieces = list(sacct.parse_file(io.StringIO(text, newline="\n")))
    return Parsed(
        tuple(record for piece in pieces for record in piece.records),
        tuple(warning for piece in pieces for warning in piece.warnings),
    )


def outcome(read: Callable[[str], Parsed[AccountingRecord]], text: str) -> object:
    try:
        return read(text)
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_the_pieces_put_together_are_the_whole(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "backslashreplace")
    assert outcome(from_file, text) == outcome(sacct.parse, text)


def test_a_job_that_comes_again_after_others_is_one_job() -> None:
    text = f"{HEADER}7|FAILED|1780000000||a\n8|COMPLETED|1780000001||b\n7|COMPLETED|1780000002||a\n"
    for parsed in (sacct.parse(text), from_file(text)):
        first, _ = parsed.records
        assert (first.job_id, first.state, first.restarts) == ("7", "COMPLETED", 1)
        assert [attempt.state for attempt in first.attempts] == ["FAILED"]


def test_ids_out_of_order_are_no_fault() -> None:
    text = f"{HEADER}9|FAILED|1780000000||a\n9.0|FAILED|1780000000|1K|0\n8_2|COMPLETED|1780000001||b\n8_1|FAILED|||c\n"
    assert [record.job_id for record in from_file(text).records] == ["9", "8_2", "8_1"]
    assert from_file(text) == sacct.parse(text)


def test_a_broken_row_far_from_its_job_leaves_the_jobs_largest_step_unknown() -> None:
    rows = "7|FAILED|1780000000||a\n7.batch|FAILED|1780000000|5K|batch\n8|FAILED|1780000000||b\n"
    for odd in ("7.0|FAILED|178\n", "\n7.0|FAILED\n"):
        text = HEADER + rows + odd + "9|FAILED|1780000000||c\n"
        for parsed in (sacct.parse(text), from_file(text)):
            assert parsed.records[0].max_rss_bytes is None
            assert parsed.warnings


def test_a_warning_names_the_line_of_the_file() -> None:
    rows = "".join(f"{job}|COMPLETED|1780000000||a\n" for job in range(100))
    text = f"{HEADER}{rows}100|NONSENSE|1780000000||b\n100.0|FAILED|1780000000|much|0\n"
    assert [warning.line for warning in from_file(text).warnings] == [102, 103]
    assert from_file(text) == sacct.parse(text)


def test_what_comes_after_blank_lines_is_read_too() -> None:
    text = f"{HEADER}7|FAILED|1780000000||a\n\n\n8|NONSENSE|1780000000||b\n"
    assert [warning.reason for warning in sacct.parse(text).warnings] == ["state: not a state"]
    assert from_file(text) == sacct.parse(text)


def test_a_step_before_any_job_is_told() -> None:
    text = f"{HEADER}.batch|FAILED|1780000000||batch\n7|FAILED|1780000000||a\n"
    assert [record.job_id for record in from_file(text).records] == ["7"]
    assert from_file(text) == sacct.parse(text)


@pytest.mark.parametrize("cpu", ["00:00:08", "61:59:59", "1-23:00:00", "123456789-00:00:00"])
def test_usage_in_its_usual_order_is_worth_what_it_is_in_any_other(cpu: str) -> None:
    usual = f"cpu={cpu},energy=0,fs/disk=293389,gres/gpumem=1.50G,gres/gpuutil=3,mem=165284K,pages=0,vmem=2M"
    other = ",".join(reversed(usual.split(",")))
    assert values.tres_usage_memory(usual) == values.tres_usage_memory(other) == 165284 * 1024


@pytest.mark.parametrize("text", ["cpu=1-24:00:00,mem=1K", "cpu=00:60:00,mem=1K", "cpu=00:00:01,mem=1K,mem=2K"])
def test_usage_with_anything_wrong_in_it_is_not_known(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        values.tres_usage_memory(text)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks, sizes = [], []
    for jobs in (2_000, 20_000):
        path = tmp_path / f"{jobs}.txt"
        rows = "".join(f"{job}|COMPLETED|1780000000||a\n{job}.0|COMPLETED|1780000000|5K|0\n" for job in range(jobs))
        path.write_text(HEADER + rows)
        tracemalloc.start()
        with path.open(newline="\n") as file:
            assert sum(len(piece.records) for piece in sacct.parse_file(file)) == jobs
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append(path.stat().st_size)
    grown = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    assert grown < 0.5, "it remembers eight bytes of a job, to know one that comes again"
