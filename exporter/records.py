"""What is known about jobs, as frozen records. Unknown is None, never 0.

Times are UTC epoch seconds, durations seconds, sizes bytes, energy joules, ratios 0-1 (over 1 where the source
says so). Ids are strings as printed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
        tres_allocated: TRES of the job as printed (`tres-alloc`), name to amount; memory in bytes.
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
    tres_allocated: dict[str, float] | None = None


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


@dataclass(frozen=True, slots=True)
class Bill:
    """What a job cost, by one source.

    Attributes:
        source: `seff`, or `formula`: the site's rates applied to what accounting says.
        kind: which of the project's budgets pays, `cpu` or `gpu`.
        unit: what is paid in: `BU`, `core-hours` or `gpu-hours`.
        units: how many; all attempts of a requeued job together.
        project: who pays; None where that isn't told.
    """

    source: str
    kind: str
    unit: str
    units: float
    project: str | None = None


@dataclass(frozen=True, slots=True)
class GpuUse:
    """How one GPU of a job was used, by the site's monitoring.

    Attributes:
        hostname: the node it is in.
        gpu_id: its number there, as printed.
        load_mean_ratio: mean load, 0-1.
        load_max_ratio: highest load, 0-1.
        memory_mean_bytes: mean memory in use.
        memory_max_bytes: most memory in use.
        energy_joules: None where the site does not count it (0).
    """

    hostname: str
    gpu_id: str
    load_mean_ratio: float | None = None
    load_max_ratio: float | None = None
    memory_mean_bytes: float | None = None
    memory_max_bytes: float | None = None
    energy_joules: float | None = None


@dataclass(frozen=True, slots=True)
class SeffReport:
    """A job as `seff` reports it. Field names are those of `rayslurm parse seff --json`.

    Attributes:
        array_job_id: `123_4` of an array's task; None for a job that is no array's.
        state: Slurm's word in capitals, as seff has it: a job killed for its memory may be `FAILED`.
        exit_code: None while the job waits or runs.
        nodes: None where seff prints `Cores: 1` alone.
        cores_per_node: seff rounds it down where the cores are not spread evenly.
        cores: cores of the whole job; None where the two above do not tell.
        cpu_used_seconds: CPU time used.
        cpu_efficiency_ratio: `cpu_used_seconds` over `core_walltime_seconds` as printed, 0-1, may be more.
        core_walltime_seconds: wall-clock time times cores.
        memory_used_is_estimate: whether seff says "(estimated maximum)".
        memory_efficiency_ratio: used over allocated memory as printed; over 1 for a job that took more than it had.
        memory_allocated_bytes: memory of the whole job.
        billing_units: what the job cost in all.
        billing_components: what that consists of: `cpu mem gpu nvme non_interactive` to units; empty where not told.
        gpus: one for each GPU; empty where no table of them is printed.
    """

    job_id: str
    array_job_id: str | None = None
    cluster: str | None = None
    partition: str | None = None
    user: str | None = None
    group: str | None = None
    state: str | None = None
    exit_code: int | None = None
    nodes: int | None = None
    cores_per_node: int | None = None
    cores: int | None = None
    cpu_used_seconds: float | None = None
    cpu_efficiency_ratio: float | None = None
    core_walltime_seconds: float | None = None
    wall_clock_seconds: float | None = None
    memory_used_bytes: float | None = None
    memory_used_is_estimate: bool | None = None
    memory_efficiency_ratio: float | None = None
    memory_allocated_bytes: float | None = None
    billing_units: float | None = None
    billing_components: dict[str, float] = field(default_factory=dict)
    billed_project: str | None = None
    gpus: tuple[GpuUse, ...] = ()


@dataclass(frozen=True, slots=True)
class AllocationRecord:
    """What a project may use of one kind of resource, and what it has used.

    Field names are those of `rayslurm parse lumi-allocations --json`.

    Attributes:
        provider: `lumi` or `csc`.
        project: as printed.
        kind: `cpu`, `gpu`, `storage`, `qpu` or `cloud`. Kinds are never added up.
        unit: `core-hours`, `gpu-hours`, `TB-hours`, `qpu-seconds` or `BU`.
        used: in that unit.
        granted: None where nothing is granted (`N/A`).
        remaining: granted less used; negative where more was used.
        updated_time: when the site reckoned this; UTC epoch seconds.
    """

    provider: str
    project: str
    kind: str
    unit: str
    used: float | None = None
    granted: float | None = None
    remaining: float | None = None
    updated_time: int | None = None


@dataclass(frozen=True, slots=True)
class CscAllocationRecord(AllocationRecord):
    """The same of a project at CSC, with what is known of the project.

    Attributes:
        start_time: when it began: midnight of the date, UTC epoch seconds.
        end_time: the date on which it ends, likewise.
        last_grant_time: the date of the latest grant, likewise.
        status: as printed, such as `open`.
        title: without its quotation marks.
    """

    start_time: int | None = None
    end_time: int | None = None
    last_grant_time: int | None = None
    status: str | None = None
    title: str | None = None


@dataclass(frozen=True, slots=True)
class WorkspaceRecord:
    """A disk area and how full it is.

    Attributes:
        project: whose it is; None for a home.
        used_bytes: units are steps of 1024.
        used_files: units are steps of 1000.
        over_quota: whether the site marks it so, or more is used than allowed; None where neither is known.
        cleanup_days: after how many days the site removes what nobody touched; None for never or not told.
    """

    path: str
    project: str | None = None
    used_bytes: float | None = None
    limit_bytes: float | None = None
    used_files: int | None = None
    limit_files: int | None = None
    over_quota: bool | None = None
    cleanup_days: int | None = None


@dataclass(frozen=True, slots=True)
class PartitionRecord:
    """A partition as the site's own Slurm describes it. None: it states no limit, or that isn't known.

    Attributes:
        state: `up`, `down`, `drain` or `inactive`.
        max_time_seconds: how long a job may take.
        min_nodes: nodes that a job must have; None for one.
        max_nodes: nodes that a job may have.
        nodes: nodes that there are, those that are down among them.
        max_cpus_per_node: CPUs, as Slurm counts them, that a job can have on the largest node.
        max_memory_bytes_per_node: bytes of memory of the largest node.
        max_gpus_per_node: GPUs of the node that has most; 0 where none has any.
        whole_nodes: whether a job gets whole nodes whatever it asks for.
    """

    name: str
    state: str | None = None
    max_time_seconds: float | None = None
    min_nodes: int | None = None
    max_nodes: int | None = None
    nodes: int | None = None
    max_cpus_per_node: int | None = None
    max_memory_bytes_per_node: int | None = None
    max_gpus_per_node: int | None = None
    whole_nodes: bool | None = None


@dataclass(frozen=True, slots=True)
class ReservationRecord:
    """Nodes that a site has set aside for a time.

    Attributes:
        start_time: UTC epoch seconds; None where it isn't known.
        end_time: likewise.
        nodes: how many; None where it isn't known.
        partition: of which partition; None: of any.
        flags: Slurm's words, such as `MAINT`.
    """

    name: str
    start_time: int | None = None
    end_time: int | None = None
    nodes: int | None = None
    partition: str | None = None
    flags: tuple[str, ...] = ()

    @property
    def is_maintenance(self) -> bool:
        """Whether nobody's jobs run on its nodes meanwhile."""
        return "MAINT" in self.flags
