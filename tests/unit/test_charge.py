"""What jobs cost, against bills that the sites printed and rates that they publish."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.billing.charge import Amounts, amounts_of, bill_by_formula, charge
from exporter.records import AccountingRecord
from exporter.sites import profiles

GIB = 1024.0**3
MINUTE, HOUR = 60, 3600


def job(partition: str, seconds: float | None, **tres: float) -> AccountingRecord:
    return AccountingRecord(
        "1",
        project="project_2001234",
        partition=partition,
        elapsed_seconds=seconds,
        tres_allocated={name.replace("__", "/").replace("_t_", ":"): amount for name, amount in tres.items()},
    )


def bill(site: str, record: AccountingRecord) -> tuple[str, str, float] | None:
    profile = profiles()[site]
    found = bill_by_formula(
        profile.rate(record.partition or ""), record, threads_per_core=profile.accounting.threads_per_core
    )
    return None if found is None else (found.kind, found.unit, round(found.units, 4))


@pytest.mark.parametrize(
    ("site", "record", "expected"),
    [
        ("roihu", job("medium", 9 * MINUTE + 39, node=1, cpu=384, mem=745 * GIB), ("cpu", "BU", 46.32)),
        ("roihu", job("small", HOUR, node=1, cpu=10, mem=10 * GIB), ("cpu", "BU", 7.5)),
        ("roihu", job("small", HOUR, node=1, cpu=10, mem=40 * GIB, gres__nvme=100), ("cpu", "BU", 17)),
        ("roihu", job("gpumedium", HOUR / 2, node=2, cpu=8, mem=9 * GIB, gres__gpu=4), ("gpu", "BU", 400)),
        ("mahti", job("medium", 6 * MINUTE + 49, node=2, cpu=512, mem=20 * GIB), ("cpu", "BU", 22.7222)),
        ("mahti", job("small", HOUR, node=1, cpu=8, mem=20 * GIB, gres__nvme=100), ("cpu", "BU", 9)),
        (
            "mahti",
            job("gpusmall", HOUR, node=1, cpu=8, mem=20 * GIB, gres__gpu=3, gres__gpu_t_a100=1,
                **{"gres__gpu_t_a100_1g.5gb": 2}),
            ("gpu", "BU", 130),
        ),
        (
            "puhti",
            job("gpu", 18 * HOUR + 7 * MINUTE + 40, node=1, cpu=1, mem=5000 * 1024**2, gres__gpu=1),
            ("gpu", "BU", 1114.6459),
        ),
        ("puhti", job("large", 12 * MINUTE + 22, node=2, cpu=80, mem=371.09375 * GIB), ("cpu", "BU", 24.1375)),
        # AllocCPUS counts LUMI's hardware threads, two a core.
        ("lumi", job("standard", HOUR / 4, node=2, cpu=512, mem=448 * GIB), ("cpu", "core-hours", 64)),
        ("lumi", job("small", HOUR, node=1, cpu=16, mem=8 * GIB), ("cpu", "core-hours", 8)),
        ("lumi", job("small", HOUR, node=1, cpu=16, mem=33 * GIB), ("cpu", "core-hours", 17)),
        ("lumi", job("small-g", HOUR, node=1, cpu=18, mem=60 * GIB, gres__gpu=1), ("gpu", "gpu-hours", 1)),
        ("lumi", job("standard-g", HOUR, node=3, cpu=336, mem=1400 * GIB, gres__gpu=24), ("gpu", "gpu-hours", 12)),
    ],
)  # fmt: skip
def test_a_job_costs_what_its_site_says(site: str, record: AccountingRecord, expected: tuple[str, str, float]) -> None:
    assert bill(site, record) == expected


@pytest.mark.parametrize(
    ("site", "record"),
    [
        pytest.param("mahti", job("interactive", HOUR, cpu=1, node=1, mem=GIB), id="no rate is known"),
        pytest.param("roihu", job("small", HOUR, cpu=1, node=1), id="the memory isn't told"),
        pytest.param("roihu", AccountingRecord("1", partition="small", elapsed_seconds=9), id="nothing is told"),
        pytest.param("roihu", job("medium", None, cpu=1, node=1), id="it isn't told how long it ran"),
        pytest.param(
            "mahti", job("gpusmall", HOUR, cpu=1, node=1, mem=GIB, gres__gpu=1), id="a GPU, or a slice of one?"
        ),
        pytest.param(
            "roihu", job("small", HOUR, cpu=1, node=1, mem=GIB, gres__scratch=10), id="something that may be storage"
        ),
    ],
)
def test_what_cannot_be_known_is_not_reckoned(site: str, record: AccountingRecord) -> None:
    assert bill(site, record) is None


def test_every_attempt_of_a_requeued_job_costs() -> None:
    first = job("medium", 600, node=1)
    last = job("medium", 1200, node=1)
    record = AccountingRecord(
        "1", partition="medium", restarts=1, elapsed_seconds=1200, tres_allocated=last.tres_allocated, attempts=(first,)
    )
    assert bill("roihu", record) == ("cpu", "BU", 144)
    alone = AccountingRecord(
        "1", partition="medium", restarts=1, elapsed_seconds=1200, tres_allocated=last.tres_allocated
    )
    assert bill("roihu", alone) is None, "an attempt is missing"


def test_a_job_that_never_ran_costs_nothing() -> None:
    record = AccountingRecord("1", partition="medium", elapsed_seconds=0)
    assert bill("roihu", record) == ("cpu", "BU", 0)


@given(st.integers(1, 4), st.integers(1, 512), st.integers(1, 2000), st.integers(0, 8), st.integers(1, 200_000))
def test_components_add_up_and_more_never_costs_less(nodes: int, cores: int, gib: int, gpus: int, seconds: int) -> None:
    amounts = Amounts(nodes, Decimal(cores), Decimal(gib), Decimal(0), {"a100": gpus})
    more = Amounts(nodes + 1, Decimal(cores + 1), Decimal(gib + 1), Decimal(1), {"a100": gpus + 1})
    for profile in profiles().values():
        for rate in profile.rates:
            one, other = charge(rate, amounts, seconds), charge(rate, more, seconds)
            assert one is not None
            assert other is not None
            assert one.units == sum(units for _, units in one.components)
            assert 0 <= one.units <= other.units


def test_amounts_are_those_of_the_whole_job() -> None:
    record = job("gpu", 1, node=2, cpu=64, mem=6 * GIB, gres__gpu=4, gres__gpu_t_v100=3)
    assert amounts_of(record, threads_per_core=2) == Amounts(2, Decimal(32), Decimal(6), Decimal(0), {"v100": 3, "": 1})
