"""A campaign's file: a spec with `schedule` and what else it takes to launch it again and again unwatched."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from exporter.budgets import Budget
from exporter.config import known_zone
from exporter.errors import ConfigError
from exporter.launch.spec import Spec
from exporter.yamlfile import Duration, FileModel, load_model_text

CAMPAIGN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
"""What a campaign's file may be called, without its suffix: it names the campaign and, unless it says so, its jobs."""

LEAST_SECONDS = 300.0
"""Between two times of a schedule: Slurm's queues are not for less, nor are the sites' rules."""

MOST_JOBS = 1000
"""How many jobs a matrix may make."""

_LOOKED_AT = 60

Value = StrictStr | StrictInt | StrictFloat | StrictBool


class Schedule(FileModel):
    """When a campaign runs: by the wall clock of a place, or at an interval.

    Attributes:
        cron: five fields as cron(5) has them: minute, hour, day of the month, month, day of the week (0 or 7: Sunday).
        every: seconds between two runs, counted from the campaign's start, or else from midnight UTC of 1970-01-01.
        timezone: whose clock `cron`, `start` and `end` mean.
    """

    cron: str | None = None
    every: Annotated[Duration, Field(ge=LEAST_SECONDS, le=366 * 86400)] | None = None
    timezone: Annotated[str, AfterValidator(known_zone)] = "UTC"

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.cron is None) == (self.every is None):
            raise ValueError('write either cron, such as "30 3 * * *", or every, such as 6h')
        if self.cron is not None:
            _check_cron(self.cron)
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.timezone)

    @property
    def words(self) -> str:
        """The schedule in a few words, as the metric's label has it."""
        if self.every is None:
            return f"{self.cron} {self.timezone}"
        return f"every {self.every:g} s"


def _check_cron(cron: str) -> None:
    if len(cron.split()) != 5:  # noqa: PLR2004 - the fields of cron(5)
        raise ValueError(
            'cron: has five fields: minute, hour, day of the month, month, day of the week; write "30 3 * * *"'
        )
    try:
        # By a clock that isn't changed: in the night when one is, two times may come close together.
        times = list(itertools.islice(CronSim(cron, datetime(2023, 1, 1, tzinfo=UTC)), _LOOKED_AT))
    except CronSimError as error:
        raise ValueError(
            f"cron: {str(error)[:1].lower()}{str(error)[1:]}; see crontab(5) for what each may be"
        ) from None
    if not times:
        raise ValueError("cron: never comes, such as the 30th of February")
    least = min((later - earlier for earlier, later in itertools.pairwise(times)), default=None)
    if least is not None and least.total_seconds() < LEAST_SECONDS:
        raise ValueError(f"cron: comes more often than every {LEAST_SECONDS / 60:g} minutes; make it rarer")


class Retries(FileModel):
    """What follows when a job ended because of the machine: NODE_FAIL, PREEMPTED or BOOT_FAIL, and nothing else.

    Attributes:
        times: how often such a job is launched again.
        back_off: seconds to wait before the first time; twice as long before each further one.
    """

    times: Annotated[int, Field(ge=0, le=10)] = 0
    back_off: Annotated[Duration, Field(ge=60, le=86400)] = 600


class Campaign(Spec):
    """A spec that is launched by a schedule.

    Attributes:
        schedule: when.
        start: the first day, or moment, of the schedule; in its time zone.
        end: the first day, or moment, after the schedule.
        paused: whether nothing is launched.
        missed: what follows a time at which rayslurm couldn't launch: nothing, or one run as soon as it can.
        misfire_grace: for how many seconds after its time a run isn't missed yet.
        concurrency: what a time means at which the run before still goes on: it is missed, or it waits.
        retries: what follows jobs that the machine ended.
        matrix: parameters and the values that each takes: one job for each combination. A job finds its own in its
            environment, under the parameters' names.
        budget: what its jobs may cost together; None: no limit.
        at_once: how many jobs of a run may be in the queue or running at the same time.
    """

    schedule: Schedule
    start: date | datetime | None = None
    end: date | datetime | None = None
    paused: bool = False
    missed: Literal["skip", "once"] = "skip"
    misfire_grace: Annotated[Duration, Field(ge=60, le=7 * 86400)] = 900
    concurrency: Literal["forbid", "queue"] = "forbid"
    retries: Retries = Retries()
    matrix: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Annotated[tuple[Value, ...], Field(min_length=1)]
    ] = Field(default_factory=dict)
    at_once: Annotated[int, Field(ge=1, le=100)] = 1
    budget: Budget | None = None

    @model_validator(mode="after")
    def _dates(self) -> Self:
        if self.end_time is not None and self.start_time is not None and self.end_time <= self.start_time:
            raise ValueError("end: is not after start; a day named as end is the first without a run")
        return self

    @model_validator(mode="after")
    def _parameters(self) -> Self:
        count = 1
        for values in self.matrix.values():
            count *= len(values)
        if count > MOST_JOBS:
            raise ValueError(f"matrix: makes {count} jobs a run; {MOST_JOBS} is the most")
        for name, values in self.matrix.items():
            if name in self.ray.env:
                raise ValueError(f"matrix.{name}: stands in ray.env too; keep one of them")
            if name.startswith(("SLURM_", "RAY_", "RAYSLURM_", "LD_")) or name == "PATH":
                raise ValueError(f"matrix.{name}: is a name that means something else to the job; take another one")
            if odd := [value for value in values if isinstance(value, str) and re.search(r"[\x00-\x1f\x7f]", value)]:
                raise ValueError(f"matrix.{name}: {odd[0]!r} is more than one line; write one line")
        return self

    @property
    def start_time(self) -> float | None:
        """When the schedule begins, epoch seconds."""
        return _moment(self.start, self.schedule.zone)

    @property
    def end_time(self) -> float | None:
        """When the schedule is over, epoch seconds."""
        return _moment(self.end, self.schedule.zone)

    def points(self) -> Iterator[dict[str, str]]:
        """Gives the parameters of each job of a run, as its environment has them; one empty set without a matrix."""
        for values in itertools.product(*self.matrix.values()):
            yield {name: _text(value) for name, value in zip(self.matrix, values, strict=True)}

    def spec(self, parameters: dict[str, str]) -> Spec:
        """Returns the spec of one job.

        Args:
            parameters: one of `points`.
        """
        fields = {name: getattr(self, name) for name in Spec.model_fields}
        fields["ray"] = self.ray.model_copy(update={"env": {**self.ray.env, **parameters}})
        return Spec.model_construct(**fields)


def _moment(day: date | datetime | None, zone: ZoneInfo) -> float | None:
    if day is None:
        return None
    moment = day if isinstance(day, datetime) else datetime.combine(day, time())
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC).timestamp()


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_campaign(text: str, path: Path) -> Campaign:
    """Reads a campaign's file.

    Args:
        text: what stands in it.
        path: where it lies; what the campaign brings along is relative to its folder.

    Returns:
        The campaign; without a `name` its jobs are called as the file is.

    Raises:
        ConfigError: with every fault, each with file, line, key and cure.
    """
    if not CAMPAIGN_NAME.fullmatch(path.stem):
        raise ConfigError(
            f"{path}: the file's name is the campaign's; take letters, digits, - and _, at most 40 of them"
        )
    campaign = load_model_text(text, Campaign, name=str(path))
    named = "name" in campaign.model_fields_set
    return campaign.at(path.absolute().parent).model_copy(update={} if named else {"name": path.stem})


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of a campaign's file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Campaign.model_json_schema(mode="validation"),
        "title": "rayslurm campaign",
    }
