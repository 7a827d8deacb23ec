"""The rates against what sites printed: of every `seff` text that tells its job's allocation, and the known sums."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from exporter.billing.charge import Amounts, charge
from exporter.parsers import seff
from exporter.records import SeffReport
from exporter.sites import profiles
from exporter.sites.rates import Rate
from tests import money
from tests.unit.test_cli import run

OWN = Path(__file__).parents[1] / "golden/seff"
SAMPLES = Path(__file__).parents[3] / "shared/samples/seff"
GIB = Decimal(1 << 30)
ROUNDING = 0.02


def bills(path: Path) -> list[SeffReport]:
    """Returns the jobs of a text of which it tells both what they cost and what they had."""
    if "Job consumed" not in (text := path.read_text(encoding="utf-8")):
        return []
    needed = ("billing_units", "wall_clock_seconds", "cores", "memory_allocated_bytes")
    found = [one for one in seff.parse(text).records if all(getattr(one, name) is not None for name in needed)]
    return [one for one in found if one.cluster in profiles()]


TEXTS = [path for path in sorted([*OWN.glob("*.txt"), *SAMPLES.glob("*.txt")]) if bills(path)]


@dataclass(frozen=True)
class Formula:
    """What the rates say of a text, and by which rule what it doesn't tell was taken."""

    units: float
    rule: str | None


def by_formula(report: SeffReport) -> Formula:
    """Returns what a report's job cost by what the report says that it had; its own bill tells what else is needed."""
    seconds = report.wall_clock_seconds
    assert seconds
    rate = rate_of(report)
    hours = Decimal(str(seconds)) / 3600
    rules = []
    gpus = len(report.gpus)
    told = {name: Decimal(str(units)) for name, units in report.billing_components.items()}
    each = next((part.times for part in rate.parts if getattr(part, "of", None) == "gpus"), Decimal(0))
    if told.get("gpu") and not gpus and each:
        gpus = max(1, round(told["gpu"] / (each * hours)))
        rules.append(f"how many GPUs it had isn't told: {gpus} by the GPU component")
    storage = told.get("nvme", Decimal(0))
    if storage:
        rules.append("reserved storage isn't told: its component as printed")
    amounts = Amounts(
        nodes=report.nodes or 1,
        cores=None if report.cores is None else Decimal(report.cores),
        memory=None if report.memory_allocated_bytes is None else Decimal(report.memory_allocated_bytes) / GIB,
        nvme=Decimal(0),
        gpus={"a100": gpus},
    )
    cost = charge(rate, amounts, seconds)
    assert cost is not None
    return Formula(float(cost.units + storage), "; ".join(rules) or None)


def rate_of(report: SeffReport) -> Rate:
    """Returns the rate of a report's partition; where that isn't told, the only one that has such components."""
    profile = profiles()[report.cluster or ""]
    if report.partition is not None:
        rate = profile.rate(report.partition)
        assert rate is not None
        return rate
    paid = report.billing_components
    name = (
        "gpu"
        if "gpu" in paid
        else "node"
        if "non_interactive" in paid
        else "cpu"
        if profile.name == "puhti"
        else "core"
    )
    return next(rate for rate in profile.rates if rate.name == name)


def test_there_are_texts_and_the_lack_of_others_is_told() -> None:
    assert len([path for path in TEXTS if path.parent == OWN]) >= 6
    if not SAMPLES.is_dir():
        pytest.skip(
            "no collection of real outputs in ../shared/samples beside this checkout: only own fixtures are held"
        )


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_the_formula_gives_what_the_site_printed(path: Path) -> None:
    for report in bills(path):
        printed = report.billing_units
        assert printed is not None
        found = by_formula(report)
        right = abs(found.units - printed) <= ROUNDING + 1e-9
        money.note(
            "text",
            {
                "name": path.stem, "from": "own fixture" if path.parent == OWN else "collected sample", "right": right,
                "units": round(found.units, 4), "printed": printed, "rule": found.rule,
            },
        )  # fmt: skip
        assert right, f"{path}: {found} and {printed} printed"


@pytest.mark.parametrize(
    ("options", "units"),
    [
        ("--site roihu --partition medium --nodes 1 --time 00:09:39", 46.32),
        ("--site mahti --partition medium --nodes 2 --time 00:06:49", 22.72),
        ("--site puhti --partition gpu --gpus 1 --time 18:07:40", 1087.67),
    ],
)
def test_the_known_sums_come_out(options: str, units: float) -> None:
    found = json.loads(run("price", *options.split(), "--json").stdout)
    right = round(found["units"], 2) == units
    money.note(
        "price",
        {"asked": options, "units": found["units"], "kind": found["kind"], "unit": found["unit"], "right": right},
    )
    assert right, found
