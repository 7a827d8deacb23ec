"""What is read of partitions."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import InputError
from exporter.parsers import sinfo
from exporter.records import PartitionRecord

TEXTS = Path(__file__).parents[2] / "golden" / "sinfo"
OLDER = (TEXTS / "22.05.txt").read_text(encoding="utf-8")
NEWER = (TEXTS / "24.11.txt").read_text(encoding="utf-8")
HEADER = "PARTITION|AVAIL|TIMELIMIT|JOB_SIZE|NODES|CPUS|MEMORY|GRES|MAX_CPUS_PER_NODE|OVERSUBSCRIBE\n"
MIB, GIB = 1024**2, 1024**3


def one(row: str) -> PartitionRecord:
    parsed = sinfo.parse(HEADER + row + "\n")
    assert parsed.warnings == ()
    (record,) = parsed.records
    return record


def test_slurm_22_05() -> None:
    parsed = sinfo.parse(OLDER)
    assert parsed.warnings == ()
    assert [record.name for record in parsed.records] == [
        "small", "medium", "standard", "pair", "one", "mixed", "empty", "groups", "huge",
    ]  # fmt: skip
    found = {record.name: record for record in parsed.records}
    assert found["small"] == PartitionRecord("small", "up", 259200, None, None, 3, 4, 8000 * MIB, 4, False)
    assert found["medium"].whole_nodes is True
    assert found["standard"] == PartitionRecord("standard", "up", 172800, None, None, 2, 8, 8000 * MIB, 8, True)
    assert found["pair"] == PartitionRecord("pair", "down", 1800, 2, 2, 3, 4, 8000 * MIB, 4, False)
    assert found["one"] == PartitionRecord("one", "drain", None, None, 1, 3, 2, 8000 * MIB, 4, False)
    assert found["mixed"] == PartitionRecord("mixed", "inactive", None, 2, 2048, 3, 8, 8000 * MIB, 8, False)
    assert found["empty"] == PartitionRecord("empty", "up", None, None, 2500, whole_nodes=False)
    assert found["huge"] == PartitionRecord("huge", "up", None, None, None, 2, 1000, 12582912 * MIB, 4, False)


def test_slurm_24_11_with_what_a_login_prints_around_it() -> None:
    parsed = sinfo.parse(NEWER)
    assert [warning.text for warning in parsed.warnings] == ["Remember: maintenance on Wednesday"]
    found = {record.name: record for record in parsed.records}
    assert set(found) == {"interactive", "gpumedium", "hugemem", "hybrid"}
    assert found["interactive"] == PartitionRecord(
        "interactive", "up", 7 * 86400, None, 1, 4, 32, 768000 * MIB, 0, False
    )
    assert found["gpumedium"] == PartitionRecord("gpumedium", "up", 129600, None, 4, 132, 288, 860000 * MIB, 4, True)
    assert found["hugemem"].max_memory_bytes_per_node == 6291456 * MIB
    assert found["hybrid"].max_gpus_per_node == 6


@pytest.mark.parametrize(
    ("row", "field", "expected"),
    [
        ("a|inact|1:00|1|1|1|1|(null)|UNLIMITED|NO", "state", "inactive"),
        ("a|strange|1:00|1|1|1|1|(null)|UNLIMITED|NO", "state", None),
        ("a*|up|1:00|1|1|1|1|(null)|UNLIMITED|NO", "name", "a"),
        ("a|up|n/a|1|1|1|1|(null)|UNLIMITED|NO", "max_time_seconds", None),
        ("a|up|0:30|1|1|1|1|(null)|UNLIMITED|NO", "max_time_seconds", 30),
        ("a|up|10-01:02:03|1|1|1|1|(null)|UNLIMITED|NO", "max_time_seconds", 867723),
        ("a|up|1:00|n/a|1|1|1|(null)|UNLIMITED|NO", "max_nodes", None),
        ("a|up|1:00|4|1|1|1|(null)|UNLIMITED|NO", "min_nodes", 4),
        ("a|up|1:00|1-1.50K|1|1|1|(null)|UNLIMITED|NO", "max_nodes", 1536),
        ("a|up|1:00|1|1|64+|1|(null)|UNLIMITED|NO", "max_cpus_per_node", None),
        ("a|up|1:00|1|1|64+|1|(null)|32|NO", "max_cpus_per_node", 32),
        ("a|up|1:00|1|1|1K|1|(null)|UNLIMITED|NO", "max_cpus_per_node", 1024),
        ("a|up|1:00|1|1|1|8000+|(null)|UNLIMITED|NO", "max_memory_bytes_per_node", None),
        ("a|up|1:00|1|1|1|1|gpu|UNLIMITED|NO", "max_gpus_per_node", 1),
        ("a|up|1:00|1|1|1|1|gpu:a100|UNLIMITED|NO", "max_gpus_per_node", 1),
        ("a|up|1:00|1|1|1|1|gpu:a100:4(S:0,2),nvme:3600,gpu:2|UNLIMITED|NO", "max_gpus_per_node", 6),
        ("a|up|1:00|1|1|1|1|gpu:a100_1g.5gb:28(S:0-1)|UNLIMITED|NO", "max_gpus_per_node", 28),
        ("a|up|1:00|1|1|1|1|nvme:3600|UNLIMITED|NO", "max_gpus_per_node", 0),
        ("a|up|1:00|1|1|1|1|n/a|UNLIMITED|NO", "max_gpus_per_node", None),
        ("a|up|1:00|1|1|1|1|(null)|UNLIMITED|FORCE:4", "whole_nodes", False),
    ],
)
def test_a_cell(row: str, field: str, expected: object) -> None:
    assert getattr(one(row), field) == expected


def test_a_cell_that_is_not_understood_is_unknown_and_told() -> None:
    parsed = sinfo.parse(HEADER + "a|up|soon|1-few|many|x|y|gpu:a100:|UNLIMITED|NO\n")
    assert [warning.reason.partition(":")[0] for warning in parsed.warnings] == [
        "JOB_SIZE", "NODES", "CPUS", "TIMELIMIT", "MEMORY",
    ]  # fmt: skip
    assert parsed.records == (PartitionRecord("a", "up", max_gpus_per_node=1, whole_nodes=False),)


def test_what_is_not_known_of_one_kind_of_node_is_not_known_of_the_partition() -> None:
    rows = "a|up|1:00|1|1|4|8000|(null)|UNLIMITED|NO\na|up|1:00|1|2|8|?|gpu:2|UNLIMITED|NO\n"
    (record,) = sinfo.parse(HEADER + rows).records
    assert (record.nodes, record.max_cpus_per_node, record.max_gpus_per_node) == (3, 8, 2)
    assert record.max_memory_bytes_per_node is None


def test_columns_are_known_by_their_heads() -> None:
    (record,) = sinfo.parse("NODES|HOSTNAMES|PARTITION\n7|c1|small\n").records
    assert record == PartitionRecord("small", nodes=7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the text is empty"),
        ("PARTITION AVAIL  TIMELIMIT  NODES  STATE NODELIST\nsmall* up 1:00 3 idle c1\n", "it begins 'PARTITION AVAIL"),
        ("slurm_load_partitions: Unable to contact slurm controller\n", "it begins 'slurm_load_partitions"),
        (HEADER, "no partition, only its header"),
        (HEADER + "small|up|1:00\n", "a row that is not whole: 'small|up|1:00'"),
        (HEADER + "|up|1:00|1|1|1|1|(null)|UNLIMITED|NO\n", "a row that is not whole"),
    ],
)
def test_what_is_no_whole_list_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        sinfo.parse(text)
    assert said in str(caught.value)


NAMES = {record.name for record in sinfo.parse(OLDER).records}


@settings(max_examples=1000, deadline=None)
@given(
    place=st.integers(len(HEADER), len(OLDER) - 1),
    how=st.sampled_from("idr"),
    character=st.sampled_from("0123456789|-+:KM()\n") | st.characters(codec="utf-8"),
)
def test_one_character(place: int, how: str, character: str) -> None:
    """A list that is damaged is refused, or it leaves at most the damaged row's partition out."""
    text = OLDER[:place] + ("" if how == "d" else character) + OLDER[place + (how != "i") :]
    with suppress(InputError):
        parsed = sinfo.parse(text)
        gone = NAMES - {record.name for record in parsed.records}
        assert len(gone) <= 1


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from([*OLDER.splitlines(), "", "x", "|"])).map("\n".join))
def test_nothing_but_input_error(text: str) -> None:
    with suppress(InputError):
        sinfo.parse(text)
