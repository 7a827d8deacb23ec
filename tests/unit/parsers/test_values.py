"""Single values: what is read, what is unknown, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.parsers import values

MEBI = 1024.0**2

DURATIONS = [
    ("00:00:00", 0),
    ("00:06:17", 377),
    ("2-11:18:24", 2 * 86400 + 11 * 3600 + 18 * 60 + 24),
    ("125-00:00:00", 125 * 86400),
    ("00:00.086", 0.086),
    ("08:00.834", 480.834),
    ("05:10.966", 310.966),
    ("0:03", 3),
    ("30:00", 1800),
    ("9:59:59", 35999),
    ("10:00:00", 36000),
    ("1-02:03:04", 93784),
    ("INVALID", None),
    ("UNLIMITED", None),
    ("Partition_Limit", None),
    ("NOT_SET", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "seconds"), DURATIONS)
def test_durations(text: str, seconds: float | None) -> None:
    assert values.duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "13",
        "-1",
        "-1:00",
        "1:2",
        "1:60",
        "00:60:00",
        "1-24:00:00",
        "1-2",
        "1-02",
        "1:2:03",
        "nan",
        "inf",
        "1e3",
        "\u0663:00",
        "00:00:01 ",
        "00:00:01\n",
        "0x1:00",
        "1-00:00:00-",
        "00:00:00:00",
        "08:00.",
        "1.5:00",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        values.duration(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("512", 512),
        ("1K", 1024),
        ("1.50K", 1536),
        ("0.00K", None),
        ("2.00K", None),
        ("1.17K", None),
        ("4294967294", None),
        ("", None),
    ],
)
def test_counts(text: str, number: int | None) -> None:
    assert values.count(text) == number


@pytest.mark.parametrize(
    "text", ["-1", "+1", "1.0", "1e3", "nan", "0x10", "\uff11\uff12", "1 2", "1_000", "1KK", "K", "5\n"]
)
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        values.count(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("139994035", 139994035),
        ("165284K", 165284 * 1024),
        ("0.28M", 0.28 * MEBI),
        ("85399.46K", 85399.46 * 1024),
        ("62.50G", 62.5 * 1024 * MEBI),
        ("1867M", 1867 * MEBI),
        ("2T", 2 * MEBI * MEBI),
        ("18446744073709551614", None),
        ("", None),
    ],
)
def test_sizes_are_in_steps_of_1024(text: str, size: float | None) -> None:
    assert values.size(text) == size


@pytest.mark.parametrize(
    "text", ["-1K", "1k", "1KB", "1KiB", "1,5M", "nan", "infM", ".5M", "1.M", "16E", "\uff11K", "1 K"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        values.size(text)


@pytest.mark.parametrize(
    ("text", "hertz"), [("2.44M", 2.44e6), ("5.20G", 5.2e9), ("351.33M", 351.33e6), ("999", 999), ("0", 0), ("", None)]
)
def test_frequencies_are_in_steps_of_1000(text: str, hertz: float | None) -> None:
    assert values.frequency(text) == pytest.approx(hertz)


@pytest.mark.parametrize(
    ("text", "joules"),
    [
        ("54156", 54156),
        ("54.16K", 54160),
        ("0", None),
        ("", None),
        ("18446744073709551614", None),
        ("184467440737095516", None),
        ("18446744.07T", None),
        ("4294967294", None),
    ],
)
def test_energy_of_absent_and_faulty_sensors_is_unknown(text: str, joules: float | None) -> None:
    assert values.energy(text) == joules


@pytest.mark.parametrize(
    ("text", "code"), [("0:0", (0, None)), ("7:0", (7, None)), ("0:125", (0, 125)), ("0:9", (0, 9)), ("", None)]
)
def test_exit_codes(text: str, code: tuple[int, int | None] | None) -> None:
    assert values.exit_code(text) == code


@pytest.mark.parametrize("text", ["7", "7:", ":0", "256:0", "-1:0", "0:0:0", "a:b"])
def test_what_is_no_exit_code_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an exit code"):
        values.exit_code(text)


def test_tres() -> None:
    assert values.tres("billing=2,cpu=2,energy=51,gres/gpu:a100=2,gres/gpu=2,mem=600M,node=1") == {
        "billing": 2,
        "cpu": 2,
        "energy": 51,
        "gres/gpu:a100": 2,
        "gres/gpu": 2,
        "mem": 600 * MEBI,
        "node": 1,
    }
    assert values.tres("cpu=1,mem=NONE,energy=18446744073709551614") == {"cpu": 1}
    assert values.tres("") is None
    assert values.tres("gres/gpumem=16G,cpu=1") == {"gres/gpumem": 16 * 1024 * MEBI, "cpu": 1}


@pytest.mark.parametrize(
    "text", ["cpu", "cpu=", "cpu=1,", "=1", "cpu=1,cpu=2", "cpu=-1", "cpu=1K", "billing=2,+", "1=2"]
)
def test_a_garbled_item_makes_all_tres_unusable(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        values.tres(text)


def test_memory_of_tres_usage() -> None:
    usage = "cpu=00:00:08,energy=0,fs/disk=293389,mem=165284K,pages=2,vmem=171624K"
    assert values.tres_usage_memory(usage) == 165284 * 1024
    assert values.tres_usage_memory("energy=0") is None
    with pytest.raises(ValueError, match="not a"):
        values.tres_usage_memory(usage.replace("pages=2", "pages=x"))


@pytest.mark.parametrize(
    ("text", "cpus", "nodes", "size"),
    [
        ("600M", 2, 1, 600 * MEBI),
        ("1200M", 4, 2, 1200 * MEBI),
        ("3000Mc", 48, 4, 144000 * MEBI),
        ("48000Mn", 36, 3, 144000 * MEBI),
        ("62.50Gn", 24, 1, 62.5 * 1024 * MEBI),
        ("0n", 8, 1, None),
        ("0", 8, 1, None),
        ("2147486648Mn", 8, 1, None),
        ("3000Mc", None, 4, None),
        ("48000Mn", 36, None, None),
        ("48000Mn", 36, 0, None),
        ("1500T", 1, 3000, 1500 * MEBI * MEBI),
        ("1500T", 1, None, None),
        ("17592186044415P", 1, 1, None),
    ],
)
def test_requested_memory(text: str, cpus: int | None, nodes: int | None, size: float | None) -> None:
    assert values.requested_memory(text, cpus=cpus, nodes=nodes) == size


READERS: list[Callable[[str], object]] = [
    values.integer,
    values.count,
    values.duration,
    values.raw_seconds,
    values.raw_minutes,
    values.size,
    values.frequency,
    values.energy,
    values.exit_code,
    values.tres,
    values.tres_usage_memory,
    lambda text: values.requested_memory(text, cpus=1, nodes=1),
]


@pytest.mark.parametrize("read", READERS)
@given(text=st.text(max_size=30) | st.text("0123456789.:-+KMGTPEcn,=/memcpu", max_size=30))
def test_readers_raise_nothing_but_value_error(read: Callable[[str], object], text: str) -> None:
    try:
        read(text)
    except ValueError:
        return
