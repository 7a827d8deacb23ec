"""Gathers what the store has of one job. Pure reading; what was printed is read again with its parser."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from exporter.billing.advice import Advised, Charged, NodeUse, Used, advise
from exporter.billing.charge import Amounts, Charge, amounts_of, charge
from exporter.config import Config, Site
from exporter.efficiency import combined
from exporter.errors import InputError
from exporter.explain.disagreements import Disagreement, disagreements
from exporter.parsers import sacct, seff, squeue
from exporter.records import AccountingRecord, EfficiencyReport, Parsed, ParseWarning, SeffReport
from exporter.sites.rates import Rate, rule
from exporter.store import (
    awaited,
    chains,
    clusters,
    conditions,
    consequences,
    differences,
    estimates,
    evidence,
    exposure,
    holds,
    jobs,
    leases,
    probe_runs,
    runs,
    submissions,
    tunnel_failures,
    tunnels,
    waste,
)
from exporter.store.awaited import Awaited
from exporter.store.chains import Chain
from exporter.store.clusters import RayCluster
from exporter.store.conditions import Spell
from exporter.store.consequences import Consequence
from exporter.store.differences import Opinion
from exporter.store.estimates import Estimate, Mismatch
from exporter.store.evidence import BillTold, RawText, ReportTold
from exporter.store.exposure import Exposure
from exporter.store.holds import Hold
from exporter.store.jobs import JobRow, Tracked
from exporter.store.leases import Lease
from exporter.store.probe_runs import ProbeRun
from exporter.store.runs import Run
from exporter.store.submissions import Submission
from exporter.store.tunnel_failures import Failure
from exporter.store.tunnels import Health
from exporter.store.waste import Waste

TEXTS = {"seff": 3, "sacct": 3, "squeue": 2}
"""How many texts of each command are shown, newest first; of the queue each look is another one."""

_PARSERS = {"seff": seff.parse, "sacct": sacct.parse, "squeue": squeue.parse}


@dataclass(frozen=True, slots=True)
class Text:
    """A kept text that names the job.

    Attributes:
        warnings: rows of it that were not understood.
        refused: why nothing of it was; nothing where it was read.
    """

    raw: RawText
    warnings: tuple[ParseWarning, ...] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A time that a job ran, and what it cost by the rate.

    Attributes:
        charge: None where the rate needs an amount that isn't known.
    """

    elapsed_seconds: float
    amounts: Amounts
    charge: Charge | None


@dataclass(frozen=True, slots=True)
class Working:
    """How a bill comes about by the site's rate.

    Attributes:
        rule: the rate as people write it, per hour.
        source: where it was read.
        attempts: oldest first; empty where what accounting said isn't kept any more.
    """

    rate: Rate
    rule: str
    source: str
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of a job; None, or empty, is not known.

    Attributes:
        now: when it was gathered, epoch seconds.
        title: the site's, for people.
        followed: since when the job is followed, and how often accounting had no last word.
        queue_run: how asking the site for its jobs last went.
        record: what accounting said, where the text is still kept.
        seff: what the site's report said, likewise.
        efficiency: what is published of `reports`.
        working: how the bill comes about; None where the site's rate isn't known.
        reserved: what it was priced at its launch.
        estimate: what it has cost so far, while it isn't paid.
        mismatch: how that estimate was wrong; None where it wasn't.
        opinion: what the project's balance says of its cost, where it was alone in its window.
        awaited: the report that is still to be asked for.
        spells: when it was seen to be of no use, for as long as that isn't reckoned.
    """

    now: float
    title: str
    job: JobRow
    followed: Tracked | None
    queue_run: ProbeRun | None
    submission: Submission | None
    brought: Mapping[str, Any] | None
    leases: tuple[Lease, ...]
    run: Run | None
    ray: RayCluster | None
    tunnels: tuple[Health, ...]
    failures: tuple[Failure, ...]
    exposed: tuple[Exposure, ...]
    consequences: tuple[Consequence, ...]
    spells: tuple[Spell, ...]
    waste: tuple[Waste, ...]
    reports: tuple[ReportTold, ...]
    efficiency: tuple[EfficiencyReport, ...]
    bills: tuple[BillTold, ...]
    reserved: Hold | None
    estimate: Estimate | None
    mismatch: Mismatch | None
    opinion: Opinion | None
    awaited: Awaited | None
    working: Working | None
    record: AccountingRecord | None
    seff: SeffReport | None
    chain: Chain | None
    texts: tuple[Text, ...]
    disagreements: tuple[Disagreement, ...]
    advised: Advised


def gather(connection: sqlite3.Connection, config: Config, site_name: str, job_id: str, *, now: float) -> Explanation:
    """Returns what is known of a job.

    Args:
        connection: of a snapshot.
        config: the configuration.
        site_name: the job's site.
        job_id: its id there.
        now: epoch seconds.

    Raises:
        InputError: no followed job has that id.
    """
    site = config.site(site_name)
    found = jobs.find(connection, job_id, site_name)
    if not found:
        parts = [part.job_id for part in jobs.jobs_of(connection, site_name, jobs.root_of(job_id))]
        hint = f"its tasks are: {', '.join(parts)}" if parts else f"to follow it: rayslurm track {site_name}/{job_id}"
        raise InputError(f"{site_name}/{job_id} is no followed job; {hint}")
    (job,) = found
    identity = (site_name, job_id)
    followed = jobs.tracked(connection, site_name, job.root_id)
    token = followed.token if followed else None
    submission = submissions.get(connection, token) if token is not None else None
    run = runs.of_job(connection, *identity)
    reports = tuple(evidence.reports_of(connection, *identity))
    bills = tuple(evidence.bills_of(connection, *identity))
    texts, parsed = _texts(connection, site, job_id, token)
    record = _record(job, parsed)
    seff_report = _seff(job, parsed)
    rate = site.profile.rate(job.partition or "")
    threads = site.profile.accounting.threads_per_core
    spec = submission.spec if submission else None
    return Explanation(
        now=now,
        title=site.profile.title,
        job=job,
        followed=followed,
        queue_run=next(
            (one for one in probe_runs.runs(connection) if (one.site, one.probe) == (site_name, "jobs")), None
        ),
        submission=submission,
        brought=submissions.manifest(connection, token) if token is not None else None,
        leases=tuple(leases.of_submission(connection, token)) if token is not None else (),
        run=run,
        ray=clusters.current(connection, now=now).get(identity),
        tunnels=tuple(tunnels.by_job(connection, now=now).get(identity, ())),
        failures=tuple(tunnel_failures.of_job(connection, *identity)),
        exposed=tuple(exposure.of_jobs(connection, now=now).get(identity, ())),
        consequences=tuple(consequences.of_job(connection, *identity)),
        spells=tuple(conditions.spells(connection, *identity)),
        waste=tuple(waste.of_job(connection, job)),
        reports=reports,
        efficiency=tuple(combined(told.report for told in reports)),
        bills=bills,
        reserved=holds.of_token(connection, token) if token is not None else None,
        estimate=estimates.of_job(connection, *identity),
        mismatch=estimates.mismatch_of(connection, *identity),
        opinion=differences.opinion_of(connection, *identity),
        awaited=next((one for one in awaited.waiting(connection, site_name) if one.job_id == job_id), None),
        working=None if rate is None else _working(rate, record, threads),
        record=record,
        seff=seff_report,
        chain=chains.of_job(connection, *identity),
        texts=texts,
        disagreements=tuple(
            disagreements(
                job,
                spec=spec,
                run=run,
                reports=[told.report for told in reports],
                bills=bills,
                record=record,
                seff=seff_report,
            )
        ),
        advised=_advised(
            job,
            spec=spec,
            run=run,
            reports=reports,
            record=record,
            seff_report=seff_report,
            rate=rate,
            threads=threads,
        ),
    )


def _texts(
    connection: sqlite3.Connection, site: Site, job_id: str, token: str | None
) -> tuple[tuple[Text, ...], dict[str, list[Parsed[Any]]]]:
    """Returns the kept texts that name a job, and what was read of each command's, newest first."""
    texts: list[Text] = []
    read: dict[str, list[Parsed[Any]]] = {}
    for source, most in TEXTS.items():
        for raw in evidence.texts_of(connection, site.name, source, job_id, token, most=most):
            try:
                parsed = _PARSERS[source](raw.text, timezone=site.timezone)
            except InputError as error:
                texts.append(Text(raw, refused=str(error)))
                continue
            texts.append(Text(raw, parsed.warnings))
            read.setdefault(source, []).append(parsed)
    return tuple(texts), read


def _record(job: JobRow, parsed: Mapping[str, list[Parsed[Any]]]) -> AccountingRecord | None:
    """Returns accounting's newest word on an ended job; an id that was given again is another job."""
    for answer in parsed.get("sacct", []) if job.final else []:
        for record in cast("tuple[AccountingRecord, ...]", answer.records):
            if record.job_id == job.job_id and record.submit_time == job.submit_time and record.end_time is not None:
                return record
    return None


def _seff(job: JobRow, parsed: Mapping[str, list[Parsed[Any]]]) -> SeffReport | None:
    for answer in parsed.get("seff", []) if job.final else []:
        for report in cast("tuple[SeffReport, ...]", answer.records):
            if job.job_id in {report.job_id, report.array_job_id}:
                return report
    return None


def _attempts(record: AccountingRecord | None) -> list[AccountingRecord]:
    """Returns the times that a job ran; what ran under another user is an older job of the same number."""
    if record is None:
        return []
    return [*(one for one in record.attempts if one.user == record.user), record]


def _working(rate: Rate, record: AccountingRecord | None, threads: int) -> Working:
    attempts = []
    for one in _attempts(record):
        if one.elapsed_seconds:
            amounts = amounts_of(one, threads_per_core=threads)
            attempts.append(Attempt(one.elapsed_seconds, amounts, charge(rate, amounts, one.elapsed_seconds)))
    return Working(rate, rule(rate), str(rate.source), tuple(attempts))


def _advised(
    job: JobRow,
    *,
    spec: Mapping[str, Any] | None,
    run: Run | None,
    reports: tuple[ReportTold, ...],
    record: AccountingRecord | None,
    seff_report: SeffReport | None,
    rate: Rate | None,
    threads: int,
) -> Advised:
    if not job.final:
        return Advised(silent="it has not ended")
    peaks = [told.report.memory_peak_bytes for told in reports if told.report.memory_peak_bytes is not None]
    allocated = next((told.report.memory_allocated_bytes for told in reports if told.report.source == "sacct"), None)
    cluster = (spec or {}).get("cluster") or {}
    loads = [gpu.load_max_ratio for gpu in (seff_report.gpus if seff_report else ()) if gpu.load_max_ratio is not None]
    used = Used(
        state=job.state,
        elapsed_seconds=job.elapsed_seconds,
        time_limit_seconds=job.time_limit_seconds,
        nodes=job.nodes,
        cores=None if job.cpus is None else job.cpus / threads,
        cpus_for_ray=cluster["nodes"] * cluster["cpus_per_node"]
        if {"nodes", "cpus_per_node"} <= cluster.keys()
        else None,
        gpus=job.gpus,
        memory_allocated_bytes=allocated,
        memory_peak_bytes=max(peaks, default=None),
        node_uses=_node_uses(run),
        gpu_loads=tuple(loads),
        entrypoint=None if spec is None else spec.get("entrypoint") is not None,
        restarts=job.restarts,
    )
    price = None if rate is None or record is None else Charged(rate, amounts_of(record, threads_per_core=threads))
    return advise(used, price)


def _node_uses(run: Run | None) -> tuple[NodeUse, ...]:
    nodes = (run.summary or {}).get("nodes") if run else None
    return tuple(
        NodeUse(str(node.get("name") or number), _number(node, "peak_cpus"), _number(node, "peak_memory_bytes"))
        for number, node in enumerate(nodes if isinstance(nodes, list) else [])
        if isinstance(node, dict)
    )


def _number(node: Mapping[str, Any], name: str) -> float | None:
    value = node.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
