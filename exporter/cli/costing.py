"""How prices and costs are shown to people and programs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from exporter.billing.price import NoPrice, Price
from exporter.records import Bill
from exporter.store.chains import Chain
from exporter.store.estimates import Estimate

_LEAST = Decimal("0.01")


def units_text(units: float | Decimal) -> str:
    """Returns units with two decimals; what is little keeps two digits, so that it doesn't look like nothing."""
    exact = Decimal(str(units))
    if 0 < abs(exact) < _LEAST:
        return f"{float(exact):.2g}"
    return f"{exact:.2f}"


def cost_text(bill: Bill | None, estimate: Estimate | None, chain: Chain | None) -> str:
    """Returns what a job cost or has cost so far, after what the earlier jobs of its chain did."""
    paid = bill if chain is None else chain.bill
    told = [] if paid is None else [f"{units_text(paid.units)} {paid.kind} {paid.unit}"]
    if bill is None and estimate is not None:
        told.append(_estimate_text(estimate))
    return " + ".join(one for one in told if one)


def _estimate_text(estimate: Estimate) -> str:
    limit, so_far = estimate.units_at_limit, estimate.units
    unit = f"{estimate.kind} {estimate.unit}"
    if so_far is None:
        return "" if limit is None else f"at most {units_text(limit)} {unit}"
    of_limit = "" if limit is None else f" of at most {units_text(limit)}"
    return f"~{units_text(so_far)}{of_limit} {unit}"


def price_text(price: Price | NoPrice) -> str:
    """Returns in a sentence what something costs at its time limit."""
    if isinstance(price, NoPrice):
        return f"what it costs isn't known: {price.reason}"
    parts = ", ".join(f"{name} {units_text(units)}" for name, units in price.components)
    return (
        f"at its time limit it costs {units_text(price.units)} {price.kind} {price.unit}"
        + (f" ({parts})" if len(price.components) > 1 else "")
        + f": {price.rule} per hour, by {price.source}"
    )


def price_json(price: Price | NoPrice) -> dict[str, Any] | None:
    """Returns a price for programs; None where it isn't known."""
    if isinstance(price, NoPrice):
        return None
    return {
        "units": float(price.units),
        "kind": price.kind,
        "unit": price.unit,
        "rule": price.rule,
        "source": price.source,
        "components": [{"of": name, "units": float(units)} for name, units in price.components],
        "units_per_hour": float(price.units_per_hour),
    }
