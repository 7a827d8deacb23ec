"""What the command line does with what a job brings along: shows it, and copies it at the moment of the command."""

from __future__ import annotations

import time
from typing import Any

from exporter.config import Config
from exporter.launch.bundle import SpecFile, stage
from exporter.launch.selection import Selection, files_text, private_paths, select, size_text
from exporter.launch.spec import Spec
from exporter.store import submissions
from exporter.store.db import Store


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
        "files": len(selection.files),
        "bytes": selection.total_bytes,
        "largest": [{"path": file.path, "size": file.size} for file in selection.largest()],
    }


def selection_lines(selection: Selection) -> list[str]:
    """Returns what would be brought along, for a person; nothing where that is nothing."""
    if not selection.sources:
        return []
    largest = ", ".join(f"{file.path} ({size_text(file.size)})" for file in selection.largest())
    told = files_text(len(selection.files), selection.total_bytes)
    return [f"brings along {told}" + (f"; the largest: {largest}" if largest else "")]


def staged(spec: Spec, spec_file: SpecFile, config: Config, store: Store, *, key: str | None) -> str | None:
    """Copies what is brought along as it is now, for whoever carries the launch out.

    Args:
        spec: what is launched.
        spec_file: its file.
        config: where the copy goes, and what is never brought.
        store: the journal.
        key: what the person calls this launch.

    Returns:
        The copy's name; None where nothing is brought, or the launch has been carried out already.

    Raises:
        ConfigError: it isn't there.
        RefusedError: it can't be brought.
        StoreError: there is no room for the copy.
    """
    if not spec.bring:
        return None
    if key is not None:
        with store.snapshot() as connection:
            if submissions.of_key(connection, key) is not None:
                return None
    return stage(selected(spec, config), config.state_dir, spec=spec_file, now=time.time())
