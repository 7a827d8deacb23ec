"""Holds a dashboard's JSON against the types of @grafana/schema."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_ERROR = re.compile(r"^check\.ts\((\d+),\d+\): error (.*)$", re.MULTILINE)

_Part = tuple[str, str, Any]
"""What it is part of, the name of its type in shapes.ts, and its JSON."""


def type_errors(dashboard: Mapping[str, Any], folder: Path) -> list[str]:
    """Returns what is wrong with a dashboard, a line each with the part that it is about.

    Args:
        dashboard: as Grafana reads it.
        folder: tests/grafana/types with its programs installed; check.ts is written there.

    Raises:
        RuntimeError: tsc said something that is not about the dashboard.
    """
    parts = list(_parts(dashboard))
    lines = ["import type * as shapes from './shapes';"]
    # JSON on one line each, so that the line of an error tells the part.
    lines += [
        f"export const part{index}: shapes.{shape} = {json.dumps(value)};"
        for index, (_, shape, value) in enumerate(parts)
    ]
    (folder / "check.ts").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = subprocess.run(
        ["node_modules/.bin/tsc", "--pretty", "false"], cwd=folder, capture_output=True, text=True, check=False
    )
    errors = [f"{parts[int(line) - 2][0]}: {message}" for line, message in _ERROR.findall(done.stdout)]
    others = re.search(r"^(?!check\.ts)\S.*error TS", done.stdout, re.MULTILINE)
    if others or (done.returncode and not errors):
        raise RuntimeError(f"tsc ended with {done.returncode}: {done.stdout}{done.stderr}")
    return errors


def _parts(dashboard: Mapping[str, Any]) -> Iterator[_Part]:
    head = {key: value for key, value in dashboard.items() if key not in {"annotations", "panels", "templating"}}
    yield "dashboard", "WrittenHead", head
    for variable in dashboard.get("templating", {}).get("list", []):
        yield f"variable {variable['name']}", "WrittenVariable", variable
    for annotation in dashboard.get("annotations", {}).get("list", []):
        yield f"annotation {annotation['name']}", "WrittenAnnotation", annotation
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield f"row {panel['title']!r}", "WrittenRow", {key: panel[key] for key in panel if key != "panels"}
            for inner in panel.get("panels", []):
                yield from _panel_parts(inner)
        else:
            yield from _panel_parts(panel)


def _panel_parts(panel: Mapping[str, Any]) -> Iterator[_Part]:
    name, kind = f"panel {panel.get('title')!r}", json.dumps(panel["type"])
    apart = {"fieldConfig", "options", "targets"}
    yield name, "WrittenPanel", {key: value for key, value in panel.items() if key not in apart}
    yield f"{name}, options", f"WrittenOptions<{kind}>", panel.get("options", {})
    for target in panel.get("targets", []):
        yield f"{name}, query {target.get('refId')}", "WrittenTarget", target
    config = panel.get("fieldConfig", {})
    yield f"{name}, field", f"WrittenField<{kind}>", config.get("defaults", {})
    for override in config.get("overrides", []):
        matcher = override["matcher"]
        yield f"{name}, matcher", "WrittenMatcher", matcher
        for prop in override["properties"]:
            about = f"{name}, {prop['id']} of {matcher.get('options')!r}"
            yield about, f"WrittenProperty<{kind}>", prop
