"""What was found of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["well", "look", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing.

    Attributes:
        level: `well`; `look`, where a person should see whether that is meant so; `wrong`, where rayslurm can't do its
            work.
        subject: the thing, in a word or two.
        text: what is so, and why.
        cure: what to do about it; empty where there is nothing to do.
        site: of which site; None where it is about this machine.
    """

    level: Level
    subject: str
    text: str
    cure: str = ""
    site: str | None = None


def well(subject: str, text: str, *, site: str | None = None) -> Finding:
    """Returns that something is as it should be."""
    return Finding("well", subject, text, site=site)


def look(subject: str, text: str, cure: str = "", *, site: str | None = None) -> Finding:
    """Returns that a person should look at something."""
    return Finding("look", subject, text, cure, site)


def wrong(subject: str, text: str, cure: str, *, site: str | None = None) -> Finding:
    """Returns that something is wrong."""
    return Finding("wrong", subject, text, cure, site)
