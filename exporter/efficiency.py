"""How well a finished job used what it had, reckoned from accounting."""

from __future__ import annotations

from exporter.records import FINAL_STATES, AccountingRecord, EfficiencyReport


def from_accounting(record: AccountingRecord) -> EfficiencyReport:
    """Returns the efficiency of a job by what `sacct` says; what it doesn't say is None.

    CPU: TotalCPU over CPUTime (elapsed times allocated CPUs). Memory: the `mem` of TRESUsageInTot of the step that took
    most, over the `mem` of AllocTRES; both are totals over the job's nodes. Wall time: elapsed over the limit.
    Frequency and disk averages are those of the step that used most CPU time: Slurm has none for the job.

    A requeued job is judged by its last attempt.

    What a job used is known only when all its steps have ended and their usage came in: a node that failed reports
    nothing, and a CPU time of exactly 0 over a job that ran means that nobody reported.
    """
    allocated = record.cpu_time_seconds or None
    memory = (record.tres_allocated or {}).get("mem") or None
    limit = record.time_limit_seconds or None
    reported = _usage_is_reported(record)
    used = record.total_cpu_seconds if reported and allocated else None
    peak = record.memory_peak_bytes if reported else None
    busiest = max(record.steps, key=lambda step: step.total_cpu_seconds or 0.0) if reported else None
    return EfficiencyReport(
        source="sacct",
        cpu_used_seconds=used,
        cpu_allocated_seconds=record.cpu_time_seconds,
        memory_peak_bytes=peak,
        memory_allocated_bytes=memory,
        cpu_efficiency_ratio=_ratio(used, allocated),
        memory_efficiency_ratio=_ratio(peak, memory),
        walltime_efficiency_ratio=_ratio(record.elapsed_seconds, limit),
        average_cpu_frequency_hertz=(busiest.ave_cpu_freq_hertz or None) if busiest else None,
        average_disk_read_bytes=busiest.ave_disk_read_bytes if busiest else None,
        average_disk_write_bytes=busiest.ave_disk_write_bytes if busiest else None,
        energy_joules=record.energy_joules,
    )


def _usage_is_reported(record: AccountingRecord) -> bool:
    return (
        bool(record.steps)
        and all(step.state in FINAL_STATES for step in record.steps)
        and record.state not in {"NODE_FAIL", "BOOT_FAIL"}
        and bool(record.total_cpu_seconds)
    )


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
