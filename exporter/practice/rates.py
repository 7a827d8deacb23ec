"""What jobs cost at the sites that are played, as their billing pages of 2026 have it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Bill = tuple[str, dict[str, float]]
"""The kind of units that a job is paid in, CPU or GPU, and how many by what they are for."""


@dataclass(frozen=True)
class Allocated:
    """What a job got, in all.

    Attributes:
        cpus: as the site's Slurm counts them: on LUMI hardware threads.
        memory: in GiB.
        gpus: whole ones.
        slices: sevenths of an A100, on Mahti.
        nvme: reserved storage in GiB.
    """

    nodes: int
    cpus: int
    memory: float
    gpus: int = 0
    slices: int = 0
    nvme: int = 0


def bill(site: str, partition: str, job: Allocated, seconds: float) -> Bill | None:
    """Returns what a job cost that ran so long; None where the site names no rate for the partition."""
    hourly = _SITES[site](partition, job)
    if hourly is None:
        return None
    kind, parts = hourly
    return kind, {name: units * seconds / 3600 for name, units in parts.items()}


def _roihu(partition: str, job: Allocated) -> Bill | None:
    storage = 0.02 * job.nvme
    if partition in {"test", "small", "longrun", "interactive"}:
        cpu, memory = 0.75 * job.cpus, 0.375 * job.memory
        return "CPU", {"CPU": cpu if cpu >= memory else 0.0, "Mem": memory if memory > cpu else 0.0, "NVMe": storage}
    if partition in {"medium", "large"}:
        return "CPU", {"CPU": 288.0 * job.nodes, "Mem": 0.0, "NVMe": storage}
    if partition in {"gputest", "gpumedium", "gpularge"}:
        return "GPU", {"GPU": 200.0 * job.gpus, "NVMe": storage}
    return None


def _mahti(partition: str, job: Allocated) -> Bill | None:
    if partition in {"medium", "large"}:
        return "CPU", {"Non-Interactive": 100.0 * job.nodes}
    if partition == "small":
        return "CPU", {"CPU": 1.0 * job.cpus, "NVMe": 0.01 * job.nvme}
    if partition in {"gpusmall", "gpumedium", "gputest"}:
        return "GPU", {"GPU": 100.0 * job.gpus + 15.0 * job.slices, "NVMe": 0.01 * job.nvme}
    return None


def _puhti(partition: str, job: Allocated) -> Bill | None:
    shared = {"CPU": 1.0 * job.cpus, "Mem": 0.1 * job.memory, "NVMe": 0.006 * job.nvme}
    if partition in {"test", "interactive", "small", "large", "longrun", "hugemem"}:
        return "CPU", shared
    if partition in {"gpu", "gputest"}:
        return "GPU", {**shared, "GPU": 60.0 * job.gpus}
    return None


def _lumi(partition: str, job: Allocated) -> Bill | None:
    cores = job.cpus / 2
    if partition == "standard":
        return "CPU", {"CPU": 128.0 * job.nodes}
    if partition in {"small", "debug"}:
        return "CPU", {"CPU": max(cores, math.ceil(job.memory / 2))}
    if partition == "standard-g":
        return "GPU", {"GPU": 4.0 * job.nodes}
    if partition in {"small-g", "dev-g"}:
        return "GPU", {"GPU": 0.5 * max(math.ceil(cores / 8), math.ceil(job.memory / 64), job.gpus)}
    return None


_SITES: dict[str, Callable[[str, Allocated], Bill | None]] = {
    "roihu": _roihu,
    "mahti": _mahti,
    "puhti": _puhti,
    "lumi": _lumi,
}
