"""Parsed texts as the plain data that `rayslurm parse KIND --json` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from exporter.records import Parsed


def to_json(parsed: Parsed[Any]) -> dict[str, Any]:
    """Turn a parser's answer into plain data.

    Returns:
        `records`, each with the fields of its record in their order, null where unknown; and `warnings`, each with
        `line`, `text` and `reason`. Whole numbers are without a decimal point.
    """
    return {"records": _plain(parsed.records), "warnings": _plain(parsed.warnings)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
