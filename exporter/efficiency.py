"""How well a finished job used what it had, by accounting or by the site's own report."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from exporter.records import FINAL_STATES, AccountingRecord, EfficiencyReport, SeffReport


def from_accounting(
    record: AccountingRecord, *, threads_per_core: int = 1, whole_nodes: bool | None = None
) -> EfficiencyReport:
    """Returns the efficiency of a job by what `sacct` says; what it doesn't say is None.

    CPU: TotalCPU over CPUTime (elapsed time times allocated CPUs), which is what `seff` means by it. Memory: the `mem`
    of TRESUsageInTot of the step that took most, over the `mem` of AllocTRES; both are totals over the job's nodes.
    Wall time: elapsed over the limit. Frequency and disk averages are those of the step that used most CPU time: Slurm
    has none for the job.

    A requeued job is judged by its last attempt.

    What a job used is known only when all its steps have ended and their usage came in: a node that failed reports
    nothing, and a CPU time of exactly 0 over a job that ran means that nobody reported.

    Args:
        record: a job with its steps.
        threads_per_core: hardware threads that the site counts as CPUs for a core.
        whole_nodes: whether the job had its nodes to itself. Slurm measures the energy of nodes, so that of a job that
            may have shared one is not known.
    """
    cpu_time = None if record.cpu_time_seconds is None else record.cpu_time_seconds / threads_per_core
    allocated = cpu_time or None
    memory = (record.tres_allocated or {}).get("mem") or None
    limit = record.time_limit_seconds or None
    reported = _usage_is_reported(record)
    used = record.total_cpu_seconds if reported and allocated else None
    peak = record.memory_peak_bytes if reported else None
    busiest = max(record.steps, key=lambda step: step.total_cpu_seconds or 0.0) if reported else None
    return EfficiencyReport(
        source="sacct",
        cpu_used_seconds=used,
        cpu_allocated_seconds=cpu_time,
        memory_peak_bytes=peak,
        memory_allocated_bytes=memory,
        cpu_efficiency_ratio=_ratio(used, allocated),
        memory_efficiency_ratio=_ratio(peak, memory),
        walltime_efficiency_ratio=_ratio(record.elapsed_seconds, limit),
        average_cpu_frequency_hertz=(busiest.ave_cpu_freq_hertz or None) if busiest else None,
        average_disk_read_bytes=busiest.ave_disk_read_bytes if busiest else None,
        average_disk_write_bytes=busiest.ave_disk_write_bytes if busiest else None,
        energy_joules=record.energy_joules if whole_nodes else None,
    )


def from_seff(report: SeffReport, *, accounted_cpu_seconds: float | None) -> EfficiencyReport:
    """Returns the efficiency of a finished job as `seff` prints it; what it doesn't say is None.

    The energy that it prints is that of the GPUs alone, and so is none of the job.

    Args:
        report: of a job that has ended.
        accounted_cpu_seconds: CPU time by accounting; None where the usage of its steps did not come in. Then `seff`
            prints zeros.
    """
    used = report.cpu_used_seconds
    told = accounted_cpu_seconds is not None and bool(used or accounted_cpu_seconds < 1)
    loads = [gpu.load_mean_ratio for gpu in report.gpus if gpu.load_mean_ratio is not None]
    return EfficiencyReport(
        source="seff",
        cpu_used_seconds=used if told else None,
        cpu_allocated_seconds=report.core_walltime_seconds if told else None,
        cpu_efficiency_ratio=report.cpu_efficiency_ratio if told else None,
        memory_peak_bytes=report.memory_used_bytes if told else None,
        memory_allocated_bytes=report.memory_allocated_bytes if told else None,
        memory_efficiency_ratio=report.memory_efficiency_ratio if told else None,
        gpu_efficiency_ratio=fmean(loads) if loads and len(loads) == len(report.gpus) else None,
    )


def combined(reports: Iterable[EfficiencyReport]) -> list[EfficiencyReport]:
    """Returns what is shown of several sources' reports on one job: each value by one source, `seff` first.

    What belongs together comes from one source: CPU time and its ratio, memory and its ratio.
    """
    by_source = {report.source: report for report in reports}
    ordered = [by_source[source] for source in ("seff", "ray", "sacct") if source in by_source]
    taken: set[str] = set()
    shown = []
    for report in ordered:
        kept: dict[str, float | None] = {}
        for group in _GROUPS:
            values = {name: getattr(report, name) for name in group}
            if group[0] not in taken and any(value is not None for value in values.values()):
                kept |= values
                taken.add(group[0])
        if kept:
            shown.append(EfficiencyReport(report.source, **kept))
    return shown


_GROUPS = (
    ("cpu_efficiency_ratio", "cpu_used_seconds", "cpu_allocated_seconds"),
    ("memory_efficiency_ratio", "memory_peak_bytes", "memory_allocated_bytes"),
    ("gpu_efficiency_ratio",),
    ("walltime_efficiency_ratio",),
    ("average_cpu_frequency_hertz",),
    ("average_disk_read_bytes", "average_disk_write_bytes"),
    ("energy_joules",),
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
