"""What each real text on balances and disk areas of a collection beside the checkout must give."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from exporter.errors import InputError
from exporter.parsers import parsers
from exporter.parsers.csc_projects import parse as parse_csc
from exporter.parsers.lumi_allocations import parse as parse_lumi
from exporter.records import Parsed

SAMPLES = Path(__file__).parents[3] / ".." / "shared" / "samples"
pytestmark = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="no collection of real outputs in ../shared/samples beside this checkout"
)

GIB, TIB = 1024.0**3, 1024.0**4
HELSINKI = ZoneInfo("Europe/Helsinki")


def text(name: str) -> str:
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip(f"no {name} in ../shared/samples beside this checkout")
    return path.read_text(encoding="utf-8")


def balances(parsed: Parsed[Any]) -> list[tuple[object, ...]]:
    assert parsed.warnings == ()
    return [(each.project[-3:], each.kind, each.used, each.granted, each.remaining) for each in parsed.records]


LUMI = {
    "RENDERED_lumi-allocations_noqpu": [
        ("001", "cpu", 0, None, None),
        ("001", "gpu", 12, 300, 288),
        ("001", "storage", 5, 10, 5),
    ],
    "RENDERED_lumi-allocations_qpu": [
        ("001", "cpu", 0, None, None),
        ("001", "gpu", 12, 300, 288),
        ("001", "storage", 5, 10, 5),
        ("001", "qpu", 0, None, None),
        ("002", "cpu", 1234567, 1000000, -234567),
        ("002", "gpu", 0, None, None),
        ("002", "storage", 7, 7000, 6993),
        ("002", "qpu", 42, 3600, 3558),
    ],
    "lumi-allocations_20251010_zero_alloc": [
        ("353", "cpu", 657004, None, None),
        ("353", "gpu", 9337612, None, None),
        ("353", "storage", 6560216, None, None),
        ("963", "cpu", 174875, 1500000, 1325125),
        ("963", "gpu", 125563, 1500000, 1374437),
        ("963", "storage", 908606, 8000000, 7091394),
    ],
}


@pytest.mark.parametrize("name", LUMI)
def test_lumi_allocations(name: str) -> None:
    assert balances(parse_lumi(text(f"lumi/{name}.txt"))) == LUMI[name]


def test_when_lumis_balances_were_reckoned() -> None:
    assert {each.updated_time for each in parse_lumi(text("lumi/RENDERED_lumi-allocations_qpu.txt")).records} == {
        1795451153
    }


def test_csc_projects() -> None:
    parsed = parse_csc(text("csc/csc-projects_2025BU.txt"), timezone=HELSINKI)
    assert balances(parsed) == [
        ("345", "cpu", 20, 60000, 59980),
        ("345", "gpu", 30, 1000, 970),
        ("345", "storage", 40, 300000, 299960),
        ("345", "cloud", 10, 400, 390),
    ]
    for each in parsed.records:
        assert (each.provider, each.unit, each.updated_time) == ("csc", "BU", 1756815120)
        assert (each.start_time, each.end_time, each.last_grant_time) == (1566248400, 1887397200, 1738274400)
        assert (each.status, each.title) == ("open", "Ortotopology modeling")


Area = tuple[str, float, float, int, int, bool, int | None]
AREAS: dict[str, list[Area]] = {
    "csc-workspaces_puhti": [
        ("/users/kkayttaj", 4.4 * GIB, 10 * GIB, 24000, 100000, False, None),
        ("/projappl/project_2000123", 24 * GIB, 50 * GIB, 36000, 100000, False, None),
        ("/scratch/project_2000123", 103 * GIB, TIB, 389000, 1000000, False, 180),
        ("/projappl/project_2001234", 85 * GIB, 100 * GIB, 282000, 600000, False, None),
        ("/scratch/project_2001234", 7.2 * TIB, 8 * TIB, 2700000, 5000000, False, 90),
    ],
    "csc-workspaces_quota_exceeded_asterisk": [
        ("/users/kkayttaj", 4.4 * GIB, 10 * GIB, 24000, 100000, False, None),
        ("/projappl/project_2000123", 24 * GIB, 50 * GIB, 36000, 100000, False, None),
        ("/scratch/project_2000123", 103 * GIB, TIB, 389000, 1000000, False, 180),
        ("/projappl/project_2001234", 85 * GIB, 100 * GIB, 282000, 600000, False, None),
        ("/scratch/project_2001234", 7.2 * TIB, 7 * TIB, 2700000, 5000000, True, 90),
    ],
    "csc-workspaces_mahti_values": [
        ("/users/csc", 3.045 * GIB, 10 * GIB, 2420, 100000, False, None),
        ("/projappl/project_csc", 4 * 1024, 50 * GIB, 0, 100000, False, None),
        ("/projappl/project_csc", 12.86 * 1024**2, 50 * GIB, 970, 100000, False, None),
        ("/scratch/project_csc", 36.43 * GIB, TIB, 640, 1000000, False, None),
    ],
}


@pytest.mark.parametrize("name", AREAS)
def test_disk_areas(name: str) -> None:
    parsed = parsers()["csc-workspaces"](text(f"csc/{name}.txt"))
    for each, expected in zip(parsed.records, AREAS[name], strict=True):
        assert (each.path, each.over_quota, each.cleanup_days) == (expected[0], *expected[5:])
        assert (each.used_files, each.limit_files) == expected[3:5]
        assert (each.used_bytes, each.limit_bytes) == pytest.approx(expected[1:3])
        assert each.project == (None if "/users/" in each.path else each.path.rpartition("/")[2])
    assert len(parsed.warnings) == (name == "csc-workspaces_mahti_values")  # an area with two values


REFUSED = {
    "csc-workspaces": [
        "csc/csc-projects_2025BU.txt",
        "lumi/RENDERED_lumi-allocations_qpu.txt",
        "seff/roihu_307386_completed_cpu_newBU.txt",
        "slurm-lab/squeue-me.txt",
    ],
    "lumi-workspaces": [
        "csc/csc-projects_2025BU.txt",
        "lumi/RENDERED_lumi-allocations_no_access.txt",
        "seff/error_job_not_found.stderr.txt",
    ],
    "csc-projects": [
        "csc/csc-workspaces_puhti.txt",
        "csc/csc-workspaces_mahti_values.txt",
        "lumi/RENDERED_lumi-allocations_qpu.txt",
        "lumi/RENDERED_lumi-allocations_no_access.txt",
        "seff/roihu_307386_completed_cpu_newBU.txt",
        "slurm-lab/sacct-full-P.txt",
    ],
    "lumi-allocations": [
        "lumi/RENDERED_lumi-allocations_no_access.txt",
        "csc/csc-projects_2025BU.txt",
        "csc/csc-workspaces_puhti.txt",
        "seff/roihu_307386_completed_cpu_newBU.txt",
        "slurm-lab/squeue-me.txt",
        "slurm-lab/sacct-full-P.txt",
    ],
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in REFUSED.items() for name in names])
def test_text_of_another_kind_is_refused(kind: str, name: str) -> None:
    lines = [line.strip() for line in text(name).splitlines() if line.strip()]
    with pytest.raises(InputError) as caught:
        parsers()[kind](text(name))
    assert any(repr(line)[:100] in str(caught.value) for line in lines)
