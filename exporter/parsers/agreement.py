"""What two rows that tell of the same thing both say."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TypeVar

from exporter.records import AccountingRecord, QueueRecord

_RecordT = TypeVar("_RecordT", AccountingRecord, QueueRecord)


def agreed(one: _RecordT, other: _RecordT) -> _RecordT:
    """A record in which every field is None on which the two differ; they have the same id.

    A table does not print a job twice with different values: one of the rows is garbled, and which is not known.
    """
    differing = {each.name: None for each in fields(one) if getattr(one, each.name) != getattr(other, each.name)}
    return replace(one, **differing)  # type: ignore[arg-type]  # only fields that may be None differ
