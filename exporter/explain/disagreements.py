"""Where the sources of one job's numbers don't agree. Pure.

Each number is published by one source (`efficiency.combined`, the final bill); here stands what the others said, and
why they may differ. What rounding explains is no disagreement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.records import AccountingRecord, EfficiencyReport, SeffReport
from exporter.states import base_state
from exporter.store.evidence import BillTold
from exporter.store.jobs import JobRow
from exporter.store.runs import Run

ALIKE = 0.02
"""By which part two measures of the same may differ: they are taken at other moments."""

ROUNDED_UNITS = 0.02
"""By how much two bills may differ: both the sum and its parts are printed with two decimals."""

_GIB = 1024.0**3


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Something of which two sources say different things.

    Attributes:
        about: what.
        said: what each source says, in words.
        why: what explains it, as far as that is known; nothing where it isn't.
    """

    about: str
    said: Mapping[str, str]
    why: str = ""


def disagreements(
    job: JobRow,
    *,
    spec: Mapping[str, Any] | None,
    run: Run | None,
    reports: Sequence[EfficiencyReport],
    bills: Sequence[BillTold],
    record: AccountingRecord | None,
    seff: SeffReport | None,
) -> list[Disagreement]:
    """Returns what the sources of a job don't agree on.

    Args:
        job: the job.
        spec: as the journal has it; None for one that was not launched from here.
        run: what its supervisor said; None where nothing was read.
        reports: what each source says about how well it used what it had.
        bills: what each source says that it cost.
        record: what accounting said, where the text is still kept.
        seff: what the site's report said, likewise.
    """
    return [
        *_asked_and_given(job, spec),
        *_endings(job, run, seff),
        *_uses(run, reports),
        *_lengths(record, seff),
        *_bills(job, spec, bills),
    ]


def _asked_and_given(job: JobRow, spec: Mapping[str, Any] | None) -> Iterator[Disagreement]:
    cluster = (spec or {}).get("cluster") or {}
    if job.nodes is not None and cluster.get("nodes") not in {None, job.nodes}:
        yield Disagreement("nodes", {"spec": str(cluster["nodes"]), "slurm": str(job.nodes)})
    limit, asked = job.time_limit_seconds, cluster.get("time")
    if limit is not None and asked is not None and abs(limit - asked) >= 60:  # noqa: PLR2004 - Slurm counts minutes
        yield Disagreement(
            "time limit", {"spec": f"{asked:g} s", "slurm": f"{limit:g} s"}, "somebody changed it, or the partition did"
        )
    if job.project is not None and (spec or {}).get("project") not in {None, job.project}:
        yield Disagreement("project", {"spec": str((spec or {})["project"]), "slurm": job.project})


def _endings(job: JobRow, run: Run | None, seff: SeffReport | None) -> Iterator[Disagreement]:
    if not job.final:
        return
    if seff is not None and seff.state is not None and base_state(seff.state) not in {job.state, "unknown"}:
        why = "seff prints a job that ran out of memory as FAILED" if job.state == "out_of_memory" else ""
        yield Disagreement("state", {"slurm": job.state.upper(), "seff": seff.state}, why)
    ours = None if run is None else run.exit_code
    if ours is not None and job.exit_code is not None and not job.signal and ours != job.exit_code:
        yield Disagreement(
            "exit code",
            {"slurm": str(job.exit_code), "supervisor": str(ours)},
            "the supervisor was ended before it could end by itself" if job.state != "completed" else "",
        )


def _uses(run: Run | None, reports: Iterable[EfficiencyReport]) -> Iterator[Disagreement]:
    by_source = {report.source: report for report in reports}
    cpu = {source: one.cpu_used_seconds for source, one in by_source.items() if one.cpu_used_seconds is not None}
    if _differ(cpu.values(), least=2.0):
        yield Disagreement("CPU time", {source: f"{seconds:.0f} s" for source, seconds in cpu.items()})
    memory = {source: one.memory_peak_bytes for source, one in by_source.items() if one.memory_peak_bytes is not None}
    peaks = node_peaks(run)
    if peaks is not None:
        memory["supervisor"] = sum(peak for _, peak in peaks)
    if _differ(memory.values(), least=16 * 1024.0**2):
        why = []
        if {"seff", "sacct"} <= memory.keys():
            why.append(
                "older versions of seff reckon the largest task times the tasks, sacct adds up what all tasks used"
            )
        if "supervisor" in memory:
            why.append(
                "the supervisor adds up each node's highest, every 5 s with Ray's shared object store; Slurm looks "
                "every half minute at the step as a whole"
            )
        said = {source: f"{size / _GIB:.2f} GiB" for source, size in memory.items()}
        yield Disagreement("peak memory", said, "; ".join(why))


def _lengths(record: AccountingRecord | None, seff: SeffReport | None) -> Iterator[Disagreement]:
    ran, wall = (record.elapsed_seconds if record else None), (seff.wall_clock_seconds if seff else None)
    if ran is not None and wall is not None and abs(ran - wall) > 1:
        why = "seff tells of the last attempt alone" if record is not None and record.restarts else ""
        yield Disagreement("time taken", {"sacct": f"{ran:g} s", "seff": f"{wall:g} s"}, why)


def _bills(job: JobRow, spec: Mapping[str, Any] | None, bills: Sequence[BillTold]) -> Iterator[Disagreement]:
    units = {told.bill.source: told.bill for told in bills}
    if len(units) > 1:
        amounts = [bill.units for bill in units.values()]
        kinds = {(bill.kind, bill.unit) for bill in units.values()}
        if len(kinds) > 1 or max(amounts) - min(amounts) > ROUNDED_UNITS:
            why = "seff tells of the last attempt alone" if job.restarts else ""
            said = {source: f"{bill.units:.2f} {bill.kind} {bill.unit}" for source, bill in units.items()}
            yield Disagreement("bill", said, why)
    paid = {told.bill.project for told in bills if told.final and told.bill.project is not None}
    wanted = (spec or {}).get("project") or job.project
    if paid and wanted is not None and paid != {wanted}:
        yield Disagreement("who pays", {"bill": ", ".join(sorted(paid)), "asked for": str(wanted)})


def node_peaks(run: Run | None) -> list[tuple[str, float]] | None:
    """Returns the most memory of each node, by name, as the supervisor told; None where it isn't told of every node."""
    nodes = [node for node in ((run.summary or {}).get("nodes") or [] if run else []) if isinstance(node, dict)]
    peaks = [
        (str(node.get("name") or number), float(peak))
        for number, node in enumerate(nodes)
        if isinstance(peak := node.get("peak_memory_bytes"), int | float) and not isinstance(peak, bool)
    ]
    return peaks if peaks and len(peaks) == len(nodes) else None


def _differ(values: Iterable[float], *, least: float) -> bool:
    known = list(values)
    return len(known) > 1 and max(known) - min(known) > max(ALIKE * max(known), least)
