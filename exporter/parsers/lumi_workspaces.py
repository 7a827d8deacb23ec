"""What `lumi-workspaces` prints of disk areas."""

from __future__ import annotations

from datetime import UTC, tzinfo

from exporter.parsers.workspaces import read_areas
from exporter.records import Parsed, WorkspaceRecord

KIND = "lumi-workspaces"


def parse(text: str, *, timezone: tzinfo = UTC) -> Parsed[WorkspaceRecord]:
    """Read what `lumi-workspaces` prints: one record an area, see `read_areas`.

    Args:
        text: the output, with or without what was printed around it.
        timezone: not used; the text has no times.

    Raises:
        InputError: the text has no disk area; quotes its first line.
    """
    del timezone
    return read_areas(text, tool=KIND)
