"""What people set for their money: a campaign's budget, and what launches must leave of a project."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from exporter.yamlfile import FileModel

Period = Literal["run", "week", "month"]

PERIODS: tuple[Period, ...] = ("run", "week", "month")
"""In the order in which they are told."""

Units = Annotated[float, Field(gt=0)]

Floors = dict[Literal["cpu", "gpu"], Annotated[float, Field(ge=0)]]
"""What launches must leave of one project, by kind, in the unit that its provider counts in."""


class Budget(FileModel):
    """What a campaign's jobs may cost together, in the unit that their partition is paid in.

    A job counts to the week and the month in which it was launched, by the clock of the campaign's schedule.

    Attributes:
        run: all jobs of one run: of its matrix, their continuations and those that were launched again.
        week: all jobs of a week, from Monday on.
        month: all jobs of a calendar month.
    """

    run: Units | None = None
    week: Units | None = None
    month: Units | None = None

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if not self.limits:
            raise ValueError("write run, week or month with an amount of units, such as {month: 500}")
        return self

    @property
    def limits(self) -> Mapping[Period, float]:
        """Returns what is limited, by period."""
        amounts = {"run": self.run, "week": self.week, "month": self.month}
        return {period: amount for period in PERIODS if (amount := amounts[period]) is not None}


def period_start(period: Period, at: float, zone: tzinfo) -> float:
    """Returns when the week or month began that a moment is in; nothing begins before a `run`.

    Args:
        period: which.
        at: the moment, epoch seconds.
        zone: by whose clock.

    Returns:
        Epoch seconds.
    """
    if period == "run":
        return 0.0
    day = datetime.fromtimestamp(at, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    first = day.replace(day=1) if period == "month" else day - timedelta(days=day.weekday())
    return first.replace(fold=0).timestamp()
