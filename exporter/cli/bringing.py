"""What the command line does with what a job brings along: shows it, and copies it at the moment of the command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from exporter.config import Config
from exporter.launch.bring import WORK_FOLDER
from exporter.launch.bundle import SpecFile, stage
from exporter.launch.selection import Selection, files_text, private_paths, select, size_text
from exporter.launch.spec import Spec


def selected(spec: Spec, config: Config) -> Selection:
    """Returns what would be brought along.

    Raises:
        ConfigError: it isn't there.
        RefusedError: it can't be brought.
    """
    return select(spec.bring, spec.bring_limits, private=private_paths(config))


def selection_json(selection: Selection) -> dict[str, Any]:
    """Returns what would be brought along, for programs."""
    return {
        "bytes": selection.total_bytes,
        "files": [{"path": file.path, "size": file.size, "mode": f"{file.mode:04o}"} for file in selection.files],
    }


def selection_text(selection: Selection) -> str:
    """Returns in one line what would be brought along, for a person."""
    largest = ", ".join(f"{file.path} ({size_text(file.size)})" for file in selection.largest())
    told = files_text(len(selection.files), selection.total_bytes)
    return f"brings along {told}" + (f"; the largest: {largest}" if largest else "")


def selection_lines(selection: Selection) -> Iterator[str]:
    """Yields every file that would be brought along, for a person."""
    yield f"==> {WORK_FOLDER}/ brought along: {files_text(len(selection.files), selection.total_bytes)} <=="
    for file in selection.files:
        yield f"{file.mode:04o} {file.size:>12} {file.path}"


def staged(spec: Spec, spec_file: SpecFile, config: Config) -> str | None:
    """Copies what is brought along as it is now, for whoever carries the launch out.

    Returns:
        The copy's name; None where nothing is brought.

    Raises:
        ConfigError: it isn't there.
        RefusedError: it can't be brought.
        StoreError: there is no room for the copy.
    """
    if not spec.bring:
        return None
    return stage(selected(spec, config), config.state_dir, spec=spec_file, now=time.time())
