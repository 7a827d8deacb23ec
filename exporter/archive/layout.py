"""Where things are in the bucket, and what a manifest and a job's record hold; docs/archive.md tells it to people.

What is not a job's own begins with an underscore, which no site's name does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from exporter.errors import ArchiveError
from exporter.store.archive import Rows

VERSION = 1
"""Of manifests and records; a reader refuses a larger one."""

COUNTERS = "_state/counters.json"
"""The lifetime counters as they stood before the newest manifest was written."""

_MANIFEST = re.compile(
    r"(?P<site>[^/_][^/]*)/(?P<project>[^/]+)/(?P<day>\d{4}/\d\d/\d\d)/(?P<job>[^/]+)/manifest\.json"
)
_ODD = re.compile(r"[^A-Za-z0-9._+\[\]-]")


def object_key(name: str) -> str:
    """Returns where content lies: by its SHA-256, with `.gz` where it is compressed there."""
    return f"_objects/{name[:2]}/{name}"


def manifest_key(site: str, project: str | None, end_time: float, job_id: str) -> str:
    """Returns where a job's manifest lies: below the UTC day of its end."""
    return f"{site}/{_part(project)}/{datetime.fromtimestamp(end_time, UTC):%Y/%m/%d}/{_part(job_id)}/manifest.json"


def records_key(site: str, project: str | None, end_time: float) -> str:
    """Returns where the records of a project's jobs of a month (UTC) lie."""
    return f"_records/{site}/{_part(project)}/{datetime.fromtimestamp(end_time, UTC):%Y-%m}.ndjson.gz"


def named_by(key: str) -> dict[str, str] | None:
    """Returns `site`, `project`, `day` and `job` of a manifest's key; None for any other key."""
    match = _MANIFEST.fullmatch(key)
    return match.groupdict() if match else None


def read_manifest(content: bytes, key: str) -> dict[str, Any]:
    """Returns a manifest.

    Raises:
        ArchiveError: it is none, or one that a newer rayslurm wrote.
    """
    try:
        manifest = json.loads(content)
        version, _, _ = manifest["version"], manifest["files"], manifest["rows"]
    except (ValueError, KeyError, TypeError):
        raise ArchiveError(f"{key}: is no manifest", "damaged") from None
    if version > VERSION:
        raise ArchiveError(f"{key}: was written by {manifest.get('written_by')}; upgrade rayslurm")
    found: dict[str, Any] = manifest
    return found


def record(rows: Rows, key: str) -> dict[str, Any]:
    """Returns a job's record, one line of the month's file. None is not known; kinds and units are never added up.

    Args:
        rows: the job's rows of the store.
        key: of its manifest.
    """
    (job,) = rows["jobs"]
    bill: Mapping[str, Any] = next((row for row in rows["bills"] if row["final"]), {})
    by_source = {row["source"]: row for row in rows["reports"]}
    used = by_source.get("seff") or by_source.get("sacct") or {}
    run: Mapping[str, Any] = next(iter(rows["runs"]), {})
    wasted = [row["units"] for row in rows["waste"] if row["units"] is not None]
    names = (
        "site", "job_id", "job_name", "user", "project", "partition", "campaign", "state", "submit_time", "start_time",
        "end_time", "elapsed_seconds", "time_limit_seconds", "exit_code", "restarts", "nodes", "cpus", "gpus",
    )  # fmt: skip
    return {
        "version": VERSION,
        **{name: job[name] for name in names},
        "token": next((row["token"] for row in rows["submissions"]), None),
        "billing_units": bill.get("units"),
        "billing_kind": bill.get("kind"),
        "billing_unit": bill.get("unit"),
        "billing_project": bill.get("project") or job["project"],
        "billing_source": bill.get("source"),
        "efficiency_source": used.get("source"),
        **{
            name: used.get(name)
            for name in (
                "cpu_efficiency_ratio", "memory_efficiency_ratio", "gpu_efficiency_ratio", "memory_peak_bytes",
                "energy_joules",
            )
        },
        "ray_version": run.get("ray_version"),
        "ray_ready_time": run.get("ready_time"),
        "outcome": run.get("outcome"),
        "reason": run.get("reason"),
        "wasted_units": sum(wasted) if wasted else None,
        "manifest": key,
    }  # fmt: skip


def _part(name: str | None) -> str:
    return _ODD.sub("_", name) if name else "_unknown"
