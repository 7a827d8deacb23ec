"""What is to be done about the times of a schedule that have come. Pure.

Each time gives one run or one counted miss, never both and never neither: whatever the machine did meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from exporter.campaigns.model import Campaign
from exporter.campaigns.schedule import between

QUEUED_MOST = 10
"""How many runs of a campaign may wait for the one before; one more is missed."""

AHEAD_SECONDS = 60.0
"""How far ahead of the clock a time may have been decided; what lies further was when the clock was wrong."""


@dataclass(frozen=True, slots=True)
class Missed:
    """A time of a schedule that gives no run.

    Attributes:
        due: epoch seconds.
        reason: why, for people.
    """

    due: int
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided of the times up to a moment.

    Attributes:
        until: up to when, epoch seconds: the next decision begins there.
        run: the time that gives a run; None where none does.
        missed: those that give none.
    """

    until: float
    run: int | None
    missed: tuple[Missed, ...]


def decide(campaign: Campaign, *, decided: float, now: float, active: int, waiting: int) -> Plan:
    """Says which of the times since the last decision gives a run.

    One run at most comes of one decision: where several times have come, the newest stands for all.

    Args:
        campaign: the campaign, not paused.
        decided: up to when was decided before, epoch seconds.
        now: epoch seconds.
        active: how many of its runs go on.
        waiting: how many wait for those.
    """
    if decided > now + AHEAD_SECONDS:  # the clock was wrong; what was decided twice is told by the store
        decided = now
    come = between(campaign, after=decided, until=now)
    on_time = [due for due in come if now - due <= campaign.misfire_grace]
    late = [due for due in come if due not in on_time]
    run = on_time[-1] if on_time else late[-1] if late and campaign.missed == "once" else None
    missed = [Missed(due, "rayslurm could not launch it in time") for due in late if due != run]
    missed += [Missed(due, "the next time had come before it could be launched") for due in on_time if due != run]
    if run is not None and (active or waiting):
        if campaign.concurrency == "forbid":
            missed.append(Missed(run, "the run before it still went on (concurrency: forbid)"))
            run = None
        elif waiting >= QUEUED_MOST:
            missed.append(Missed(run, f"{QUEUED_MOST} runs were waiting before it"))
            run = None
    return Plan(max(decided, now), run, tuple(missed))
