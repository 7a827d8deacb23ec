"""Parsed texts as the plain data that `rayslurm parse KIND --json` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

from exporter.records import Parsed


def to_json(parsed: Parsed[Any]) -> dict[str, Any]:
    """Turn a parser's answer into plain data.

    Returns:
        `records`, each with the fields of its record in their order, null where unknown; and `warnings`, each with
        `line`, `text` and `reason`. Whole numbers are without a decimal point.
    """
    return {"records": _plain(parsed.records), "warnings": _plain(parsed.warnings)}


@cache
def _names(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass; none of what is no dataclass."""
    return tuple(each.name for each in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if names := _names(value.__class__):
        return {name: _plain(getattr(value, name)) for name in names}
    return value
