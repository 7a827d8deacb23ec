"""Where a figure was read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """Where a figure was read, and when that was written.

    Attributes:
        page: the page, or the user's own file.
        date: of the page, as exactly as it is known: `2026-08-21`, `2024-10`; None where it bears none.
    """

    page: str
    date: str | None

    def __str__(self) -> str:
        """Returns it as people read it."""
        return self.page if self.date is None else f"{self.page}, {self.date}"


def csc(topic: str) -> Source:
    """Returns the CSC user guide as the source of a topic."""
    return Source(f"CSC user guide, {topic}", "2026-08-21")


def lumi(topic: str, date: str = "2024-10 and 2026-04") -> Source:
    """Returns the LUMI guides as the source of a topic."""
    return Source(f"LUMI guides, {topic}", date)


YOURS = Source("rayslurm.yaml", None)
"""The source of what the user wrote."""
