"""Balances as `rayslurm status` shows them."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from exporter.cli.table import age, print_table
from exporter.funds.projects import Fund

_HEADER = ("PROJECT", "KIND", "USED", "GRANTED", "LEFT", "A DAY", "OURS", "RUNS DRY", "READ", "REMARK")


def show_balances(found: Sequence[Fund], now: float) -> None:
    """Prints what projects have left; nothing where nothing was read."""
    if not found:
        return
    typer.echo()
    print_table(_HEADER, [_row(fund, now) for fund in found])


def _row(fund: Fund, now: float) -> tuple[str, ...]:
    balance, told = fund.balance, fund.forecast
    dry = "" if told.exhausted_at is None else f"in {age(told.exhausted_at - now)}"
    return (
        fund.project.project,
        f"{balance.kind} {balance.unit}" if balance else "",
        _amount(balance.used if balance else None),
        _amount(balance.granted if balance else None),
        _amount(balance.remaining if balance else None),
        _amount(told.per_day_7d),
        "" if told.our_share is None else f"{told.our_share:.0%}",
        dry,
        f"{age(now - fund.project.read)} ago",
        fund.remark,
    )


def _amount(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.2f}"
