"""What the supervisor of a practice job would write into its folder: how far it is, and at its end how it went."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from exporter.practice.ray import RAY_VERSION
from exporter.practice.world import Job

STARTS_SECONDS = 2
"""How long a practice job's Ray takes to come up."""

_ENDS = {
    "COMPLETED": ("succeeded", 0, "the entrypoint ended with exit status 0"),
    "FAILED": ("failed", 7, "the entrypoint ended with exit status 7"),
    "CANCELLED": ("terminated", 143, "SIGTERM came: the job was cancelled, or Slurm ended it"),
}
"""How those end that have the time to say so: outcome, exit code, reason."""


def write(job: Job, now: float, restarts: int = 0) -> None:
    """Writes `status.json` and `summary.json` of a job, where they say something else than before.

    Args:
        job: the job.
        now: epoch seconds.
        restarts: how often its tunnels were opened again.
    """
    if not job.ran(now) or now < job.start:
        return
    with suppress(OSError, ValueError, KeyError):  # its folder is gone, or isn't one of rayslurm's
        plan = json.loads((job.folder / "plan.json").read_text(encoding="utf-8"))
        about = _about(job, plan["token"], now)
        reason = "ssh ended with exit status 255" if restarts else ""
        about["tunnels"] = [
            {"name": tunnel["name"], "restarts": restarts, "reason": reason} for tunnel in plan["tunnels"]
        ]
        _write(job.folder / "status.json", about)
        if job.end <= now and job.fate in _ENDS:
            outcome, exit_code, reason = _ENDS[job.fate]
            cpus = round(job.cpu_share * job.cpus / job.nodes, 2)
            peaks = {"peak_memory_bytes": job.peak // job.nodes, "peak_cpus": cpus}
            nodes = [
                {"name": name, "role": "worker" if number else "head", "exit_code": 0, **peaks}
                for number, name in enumerate(job.node_names)
            ]
            end = {"outcome": outcome, "reason": reason, "exit_code": exit_code, "nodes": nodes, "end_time": job.end}
            _write(job.folder / "summary.json", {**about, **end})


def _about(job: Job, token: str, now: float) -> dict[str, Any]:
    ready = job.start + STARTS_SECONDS
    about = {"version": 1, "job_id": str(job.job_id), "token": token, "ray_version": RAY_VERSION}
    about["node_names"] = job.node_names
    if job.end <= now and job.fate in _ENDS:
        failed = job.fate == "FAILED"
        about |= {"phase": "failed" if failed else "ended", "phase_time": job.end}
    elif now < ready:
        return about | {"phase": "waiting_head", "phase_time": job.start, "time": job.start}
    else:
        about |= {"phase": "driver", "phase_time": ready}
    minute = (min(now, job.end) - ready) // 60 * 60
    return about | {
        "ready_time": ready,
        "session_name": f"session_{job.start}_{job.job_id}",
        "time": job.end if job.end <= now else ready + minute,
    }


def _write(path: Path, record: dict[str, Any]) -> None:
    text = json.dumps(record, indent=1)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        new = path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
