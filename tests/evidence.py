"""What the `*-test` targets of the Makefile leave in build/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, Any]:
    """Returns what was written down by now; nothing where nothing was."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write_down(path: Path, kind: str, row: dict[str, Any]) -> None:
    """Adds what was seen to a file, right or not.

    Args:
        path: the file, which is made where it isn't there.
        kind: of what it is.
        row: what was seen.
    """
    known = read(path)
    known.setdefault(kind, []).append(row)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
