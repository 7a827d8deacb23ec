"""What is known about jobs, as frozen records. Unknown is None, never 0.

Times are UTC epoch seconds, durations seconds, sizes bytes, energy joules, ratios 0-1 (over 1 where the source
says so). Ids are strings as printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

BASE_STATES = frozenset(
    {
        "PENDING",
        "RUNNING",
        "SUSPENDED",
        "COMPLETED",
        "CANCELLED",
        "FAILED",
        "TIMEOUT",
        "NODE_FAIL",
        "PREEMPTED",
        "BOOT_FAIL",
        "DEADLINE",
        "OUT_OF_MEMORY",
    }
)
"""Slurm's base job states (slurm.h, enum job_states)."""

FINAL_STATES = BASE_STATES - {"PENDING", "RUNNING", "SUSPENDED"}
"""Base states in which a job has ended."""


@dataclass(frozen=True, slots=True)
class ParseWarning:
    """A row that was not understood, kept raw.

    Attributes:
        line: 1-based number of the line in the text.
        text: the line as it came.
        reason: what was wrong with it.
    """

    line: int
    text: str
    reason: str


RecordT_co = TypeVar("RecordT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Parsed(Generic[RecordT_co]):
    """What a parser read of a text.

    Attributes:
        records: one for each thing the text tells of.
        warnings: one for each row that was not understood.
    """

    records: tuple[RecordT_co, ...]
    warnings: tuple[ParseWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class AccountingRecord:
    """A job or one of its steps as `sacct` tells it.

    Field names are those of `rayslurm parse sacct --json`; `job_id` is the id as printed (`123`, `123_4`,
    `999_[1-10]`, `4285795+0`, for a step `123.batch`).

    Attributes:
        array_id: the id all tasks of an array share; None for a job that is no array.
        state: Slurm's word in capitals without what follows it (`CANCELLED`, not `CANCELLED by 20001`); None for `?`.
        cancelled_by_uid: the uid of `CANCELLED by <uid>`.
        exit_code: the first number of ExitCode.
        signal: the second one, None where 0.
        planned_seconds: time between eligible and start; `Reserved` before Slurm 23.02.
        time_limit_seconds: None for UNLIMITED, Partition_Limit and blank.
        memory_peak_bytes: `mem` of TRESUsageInTot; for a job that of its largest step. Not MaxRSS times tasks.
        memory_requested_bytes: ReqMem for the whole job where the text allows to know it.
        energy_joules: None where the site has no sensors (0) or the value is a fault.
        billing_tres: the `billing` of AllocTRES.
        tres_allocated: AllocTRES as printed, name to amount; memory in bytes.
        restarts: how often Slurm put the job back into the queue and started it again.
        steps: the job's steps, same shape; empty for a step.
        attempts: earlier attempts of a requeued job, oldest first (`sacct --duplicates`), same shape.
    """

    job_id: str
    array_id: str | None = None
    job_name: str | None = None
    user: str | None = None
    project: str | None = None
    partition: str | None = None
    state: str | None = None
    cancelled_by_uid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    req_cpus: int | None = None
    alloc_cpus: int | None = None
    req_nodes: int | None = None
    alloc_nodes: int | None = None
    submit_time: int | None = None
    start_time: int | None = None
    end_time: int | None = None
    elapsed_seconds: float | None = None
    time_limit_seconds: float | None = None
    planned_seconds: float | None = None
    planned_cpu_seconds: float | None = None
    cpu_time_seconds: float | None = None
    total_cpu_seconds: float | None = None
    ave_cpu_seconds: float | None = None
    ave_cpu_freq_hertz: float | None = None
    ave_disk_read_bytes: float | None = None
    ave_disk_write_bytes: float | None = None
    max_rss_bytes: float | None = None
    memory_peak_bytes: float | None = None
    memory_requested_bytes: float | None = None
    energy_joules: float | None = None
    billing_tres: float | None = None
    tres_allocated: dict[str, float] | None = None
    restarts: int | None = None
    steps: tuple[AccountingRecord, ...] = ()
    attempts: tuple[AccountingRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """A job as `squeue` tells it.

    Attributes:
        job_id: as printed, for array tasks `123_4` or `123_[5-9]`.
        array_id: the id all tasks of an array share; None for a job that is no array.
        state: Slurm's word in capitals; a flag such as COMPLETING stands in its place.
        pending_reason: why it waits; None where it doesn't.
        start_time: when it started; None while it waits.
        expected_start_time: what the scheduler expects while it waits.
        gpus: GPUs of the whole job, from TRES.
    """

    job_id: str
    array_id: str | None = None
    job_name: str | None = None
    user: str | None = None
    project: str | None = None
    partition: str | None = None
    state: str | None = None
    pending_reason: str | None = None
    submit_time: int | None = None
    start_time: int | None = None
    expected_start_time: int | None = None
    end_time: int | None = None
    elapsed_seconds: float | None = None
    time_limit_seconds: float | None = None
    nodes: int | None = None
    cpus: int | None = None
    gpus: int | None = None
    node_list: str | None = None
    restarts: int | None = None


@dataclass(frozen=True, slots=True)
class EfficiencyReport:
    """How well a finished job used what it had, by one source.

    Attributes:
        source: `seff`, `sacct` or `ray`.
        cpu_allocated_seconds: allocated CPUs times elapsed time.
        cpu_efficiency_ratio: used over allocated CPU time.
        memory_efficiency_ratio: peak over allocated memory.
        walltime_efficiency_ratio: elapsed time over the time limit.
    """

    source: str
    cpu_used_seconds: float | None = None
    cpu_allocated_seconds: float | None = None
    memory_peak_bytes: float | None = None
    memory_allocated_bytes: float | None = None
    cpu_efficiency_ratio: float | None = None
    memory_efficiency_ratio: float | None = None
    gpu_efficiency_ratio: float | None = None
    walltime_efficiency_ratio: float | None = None
    average_cpu_frequency_hertz: float | None = None
    average_disk_read_bytes: float | None = None
    average_disk_write_bytes: float | None = None
    energy_joules: float | None = None
