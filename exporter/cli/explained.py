"""What is known of a job, as people read it: in sections, each line with who says so and how old that is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from exporter.cli.table import age, duration
from exporter.explain.gather import Explanation, Working
from exporter.records import EfficiencyReport
from exporter.store import consequences, runs
from exporter.store.runs import Run
from exporter.store.tunnels import Health

_WIDTH = 18
_GIB = 1024.0**3
_SAID_LINES = 6
_SUPERVISOR = "supervisor"
_NO_USE = {"never_ready": "its Ray was never ready", "tunnel_down": "its dashboard was not reached", "idle": "idle"}


def lines(told: Explanation) -> Iterator[str]:
    """Yields what is known of a job, a line each; what isn't known has none, unless people would miss it."""
    job = told.job
    name = f": {job.job_name}" if job.job_name else ""
    yield f"{job.site}/{job.job_id}{name}"
    for title, section in (
        ("Identity", _identity(told)),
        ("Journal", _journal(told)),
        ("State", _state(told)),
        ("Times", _times(told)),
        ("Ray", _ray(told)),
        ("Tunnels", _tunnels(told)),
        ("Of no use", _waste(told)),
        ("Efficiency", _efficiency(told)),
        ("Cost", _cost(told)),
        ("Disagreements", _disagreements(told)),
        ("Advice", _advice(told)),
        ("Texts", _texts(told)),
    ):
        found = list(section)
        if found:
            yield ""
            yield title
            yield from found


def raw_lines(told: Explanation) -> Iterator[str]:
    """Yields the texts that the numbers came from."""
    for text in told.texts:
        yield ""
        yield f"--- {text.raw.source}, last printed {moment(text.raw.last_seen)}, sha256 {text.raw.sha256[:12]}"
        for line in text.raw.text.splitlines():
            yield printable(line)


def moment(epoch: float | None, now: float | None = None) -> str:
    """Returns a time, and how long ago that is where `now` is given; `unknown` for None."""
    if epoch is None:
        return "unknown"
    exact = f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if now is None:
        return exact
    return f"{exact} ({age(now - epoch)} ago)" if epoch <= now else f"{exact} (in {age(epoch - now)})"


def printable(text: str) -> str:
    """Returns a line without what a terminal would obey; what separates columns is a bar."""
    return "".join(sign if sign.isprintable() or sign == "\t" else "|" for sign in text)


def _line(name: str, text: object, source: str = "") -> str:
    by = f"  [{source}]" if source else ""
    return printable(f"  {name:<{_WIDTH}}{text}{by}")


def _identity(told: Explanation) -> Iterator[str]:
    job = told.job
    yield _line("site", f"{job.site} ({told.title})")
    for name in ("project", "partition", "user", "campaign"):
        if getattr(job, name):
            yield _line(name, getattr(job, name))
    if job.root_id != job.job_id:
        yield _line("part of", job.root_id)
    if told.followed is not None:
        yield _line("followed since", moment(told.followed.since, told.now))
    if told.chain is not None and told.submission is not None:
        ids = ", ".join(link.submission.job_id for link in told.chain.links if link.submission.job_id)
        end = f"; no further one follows: {told.chain.end}" if told.chain.end else ""
        yield _line("chain", f"number {told.submission.link + 1} of at most {told.chain.times + 1} ({ids}){end}")


def _journal(told: Explanation) -> Iterator[str]:
    row = told.submission
    if row is None:
        yield _line("origin", "it was submitted by hand and is followed from here")
        return
    yield _line("intended", moment(row.created, told.now))
    yield _line("token", f"{row.token}; at the site it is called {row.slurm_name}")
    if row.key:
        yield _line("key", row.key)
    became = {
        "submitted": "sbatch answered with its number",
        "adopted": "the answer of sbatch was lost; it was found by its name and taken up",
        "submitting": "sbatch is being run",
        "intended": "nothing was sent yet",
    }.get(row.state, row.state)
    yield _line("became", f"{became}, {moment(row.updated, told.now)}")
    if row.forced:
        yield _line("forced", "yes: launched in spite of what was known of the site")
    if row.error:
        yield _line("trouble", row.error)
    yield _line("folder", row.run_dir)
    if told.brought and told.brought.get("total", {}).get("files"):
        total = told.brought["total"]
        yield _line("brought", f"{total['files']} files, {total['bytes']} bytes")
    if told.leases:
        yield _line("ports here", ", ".join(f"{lease.tunnel} {lease.port}" for lease in told.leases))


def _state(told: Explanation) -> Iterator[str]:
    job = told.job
    source = f"{'sacct' if job.final else 'squeue'}, {age(told.now - job.seen)} ago"
    yield _line("state", job.state, source)
    yield _line("noticed", moment(job.state_since, told.now))
    if job.pending_reason:
        yield _line("waits for", job.pending_reason, source)
    acted = consequences.in_words(job, told.consequences)
    ending = runs.ending(job, told.run, acted)
    for number, text in enumerate(ending.splitlines()[:_SAID_LINES]):
        yield _line("" if number else "it ended because", text)
    if acted and not job.final:
        yield _line("rayslurm says", acted)
    for one in told.consequences:
        yield _line("followed", f"{one.condition}: {one.state} {moment(one.at, told.now)}: {one.reason}")
    if job.exit_code is not None:
        signal = f", signal {job.signal}" if job.signal else ""
        yield _line("exit code", f"{job.exit_code}{signal}", "sacct")
    if job.restarts:
        yield _line("started again", f"{job.restarts} times", source)
    size = [
        f"{count} {what}"
        for count, what in ((job.nodes, "nodes"), (job.cpus, "CPUs as Slurm counts them"), (job.gpus, "GPUs"))
        if count
    ]
    if size:
        yield _line(
            "has" if not job.final else "had", ", ".join(size) + (f" on {job.node_list}" if job.node_list else "")
        )
    if not job.final and told.followed is not None and told.followed.sacct_tries:
        yield _line("accounting", f"asked {told.followed.sacct_tries} times without a last word")
    if told.queue_run is not None and not told.queue_run.success:
        yield _line("the site", f"could not be asked {moment(told.queue_run.at, told.now)}: {told.queue_run.error}")


def _times(told: Explanation) -> Iterator[str]:
    job, now = told.job, told.now
    yield _line("submitted", moment(job.submit_time, now))
    if job.state == "pending" and job.expected_start_time:
        yield _line("expected start", moment(job.expected_start_time, now))
    if job.start_time is not None:
        waited = "" if job.submit_time is None else f", after {duration(job.start_time - job.submit_time)} in the queue"
        yield _line("started", moment(job.start_time, now) + waited)
    if told.run is not None and told.run.ready_time is not None:
        after = "" if job.start_time is None else f", after {duration(told.run.ready_time - job.start_time)}"
        yield _line("Ray ready", moment(told.run.ready_time, now) + after, _SUPERVISOR)
    if job.end_time is not None:
        yield _line("ended", moment(job.end_time, now))
    if job.elapsed_seconds is not None:
        yield _line(
            "took", f"{duration(job.elapsed_seconds)} of {duration(job.time_limit_seconds) or 'no known limit'}"
        )


def _ray(told: Explanation) -> Iterator[str]:
    if told.run is not None:
        yield from _run(told.run, told.now)
    ray = told.ray
    if ray is not None:
        asked = f"ray, {age(told.now - ray.at)} ago"
        yield _line("nodes", ", ".join(f"{count} {state}" for state, count in ray.nodes.items()) or "unknown", asked)
        for resource, capacity in ray.capacity.items():
            yield _line(resource, f"{ray.used.get(resource, 0):g} of {capacity:g} in use", asked)
        if ray.idle_since is not None:
            yield _line("idle since", moment(ray.idle_since, told.now), asked)


def _run(run: Run, now: float) -> Iterator[str]:
    """Yields what the supervisor said."""
    if run.phase:
        yield _line(
            "phase", run.phase + (f", since {moment(run.phase_time, now)}" if run.phase_time else ""), _SUPERVISOR
        )
    if run.heartbeat:
        yield _line("last heard", moment(run.heartbeat, now), _SUPERVISOR)
    if run.ray_version:
        yield _line("version", run.ray_version, _SUPERVISOR)
    if run.outcome:
        yield _line("outcome", f"{run.outcome}, exit code {run.exit_code}", _SUPERVISOR)
    for node in [node for node in (run.summary or {}).get("nodes") or [] if isinstance(node, dict)]:
        memory, cpus = node.get("peak_memory_bytes"), node.get("peak_cpus")
        if isinstance(memory, int | float) and isinstance(cpus, int | float):
            use = f"at most {memory / _GIB:.1f} GiB of memory and {cpus:g} CPUs"
            yield _line(f"{node.get('role')} {node.get('name')}", use, _SUPERVISOR)


def _tunnels(told: Explanation) -> Iterator[str]:
    for health in told.tunnels:
        yield _line(health.tunnel, _health(health), f"probed {age(told.now - health.at)} ago")
    for one in told.exposed:
        yield _line(one.tunnel, f"others can reach it: it is listened on at {one.addresses}", "kernel")
    for failure in told.failures:
        times = "once" if failure.times == 1 else f"{failure.times} times since {moment(failure.first_at)}"
        yield _line(failure.tunnel, f"{failure.state} {times}, last {moment(failure.last_at, told.now)}")
        for text in failure.said.splitlines()[:_SAID_LINES]:
            yield _line("", f"| {text}")


def _health(health: Health) -> str:
    if health.up:
        return health.state
    return f"{health.state}, " + (
        "never up" if health.last_success is None else f"last up {moment(health.last_success)}"
    )


def _waste(told: Explanation) -> Iterator[str]:
    final = next((one.bill for one in told.bills if one.final), None)
    for part in told.waste:
        if part.seconds:
            cost = f", {part.units:.2f} {final.kind} {final.unit}" if final and part.units is not None else ""
            yield _line(part.reason, f"{duration(part.seconds)}{cost}: {_NO_USE[part.reason]}", "seen from here")
    for spell in told.spells:
        yield _line(spell.condition, f"{moment(spell.begin)} to {moment(spell.until)}", "seen from here")


def _efficiency(told: Explanation) -> Iterator[str]:
    read = {one.report.source: one.at for one in told.reports}
    for report in told.efficiency:
        source = f"{report.source}, {age(told.now - read[report.source])} ago"
        for name, text in _ratios(report):
            yield _line(name, text, source)
    if told.awaited is not None:
        tries = f", asked {told.awaited.tries} times in vain" if told.awaited.tries else ""
        yield _line("report", f"the site is still to be asked for it{tries}")


def _ratios(report: EfficiencyReport) -> Iterator[tuple[str, str]]:
    if report.cpu_efficiency_ratio is not None:
        used = f", {duration(report.cpu_used_seconds)} of {duration(report.cpu_allocated_seconds)} core time"
        yield "CPU", f"{report.cpu_efficiency_ratio:.1%}{used if report.cpu_used_seconds is not None else ''}"
    if report.memory_efficiency_ratio is not None:
        peak, allocated = (report.memory_peak_bytes or 0) / _GIB, (report.memory_allocated_bytes or 0) / _GIB
        yield "memory", f"{report.memory_efficiency_ratio:.1%}, {peak:.2f} of {allocated:.2f} GiB"
    if report.gpu_efficiency_ratio is not None:
        yield "GPU", f"{report.gpu_efficiency_ratio:.1%} mean load"
    if report.walltime_efficiency_ratio is not None:
        yield "time limit", f"{report.walltime_efficiency_ratio:.1%} of it taken"
    if report.energy_joules is not None:
        yield "energy", f"{report.energy_joules:.0f} J"


def _cost(told: Explanation) -> Iterator[str]:
    for one in told.bills:
        bill = one.bill
        payer = f", paid by {bill.project}" if bill.project else ""
        role = "" if one.final else " (not the published one)"
        text = f"{bill.units:.2f} {bill.kind} {bill.unit}{payer}{role}"
        yield _line("bill", text, f"{bill.source}, {age(told.now - one.at)} ago")
        if bill.source == "seff" and told.seff is not None and told.seff.billing_components:
            parts = ", ".join(f"{name} {units:.2f}" for name, units in told.seff.billing_components.items())
            yield _line("", f"of which {parts}", "seff")
    if not told.bills:
        yield _line("bill", "not known" if told.job.final else "known when the job has ended")
    yield from _beside_the_bill(told)
    if told.working is not None:
        yield from _working(told.working)
    elif told.job.partition:
        yield _line("rate", f"what {told.job.partition} costs isn't known")


def _beside_the_bill(told: Explanation) -> Iterator[str]:
    """Yields what was reckoned of its cost before the bill, and what the project's balance says of it."""
    held, estimate, mismatch, opinion = told.reserved, told.estimate, told.mismatch, told.opinion
    if held is not None:
        over = ", over what was set for it" if held.over else ""
        yield _line("priced", f"{held.units:.2f} {held.kind} {held.unit} at its time limit when it was launched{over}")
    if estimate is not None and not told.bills:
        source = f"{estimate.source}, {age(told.now - estimate.at)} ago"
        if estimate.units is not None:
            yield _line("so far", f"{estimate.units:.2f} {estimate.kind} {estimate.unit}", source)
        limit = "" if estimate.units_at_limit is None else f", {estimate.units_at_limit:.2f} at its limit"
        yield _line("pace", f"{estimate.units_per_hour:.2f} {estimate.kind} {estimate.unit} an hour{limit}", source)
    if mismatch is not None:
        yield _line(
            "estimate",
            f"was wrong: {mismatch.estimated:.2f} {mismatch.kind} {mismatch.unit}, and it was billed "
            f"{mismatch.billed:.2f} {mismatch.billed_kind} {mismatch.billed_unit}",
        )
        yield _line("", mismatch.reason)
    if opinion is not None:
        window = f"{moment(opinion.begin)} to {moment(opinion.end)}"
        unit = f"{opinion.balance.kind} {opinion.balance.unit}"
        yield _line(
            "second opinion", f"{opinion.units:.2f} {unit} by the balance, {window}: {opinion.words}", "balance"
        )


def _working(working: Working) -> Iterator[str]:
    rate = working.rate
    yield _line("rate", f"{working.rule} {rate.kind} {rate.unit} an hour", working.source)
    for attempt in working.attempts:
        amounts = attempt.amounts
        had = [
            f"{value:.6g} {what}"
            for value, what in (
                (amounts.nodes, "nodes"),
                (amounts.cores, "cores"),
                (amounts.memory, "GiB of memory"),
                (amounts.nvme or None, "GiB of storage"),
            )
            if value is not None
        ]
        had += [f"{count} GPUs {kind}".rstrip() for kind, count in (amounts.gpus or {}).items()]
        cost = "not known by it" if attempt.charge is None else f"{attempt.charge.units:.2f} {rate.kind} {rate.unit}"
        yield _line("by formula", f"{', '.join(had)} for {duration(attempt.elapsed_seconds)}: {cost}", "sacct, rate")
        parts = [f"{of} {units:.2f}" for of, units in (attempt.charge.components if attempt.charge else ()) if units]
        if len(parts) > 1:
            yield _line("", f"of which {', '.join(parts)}")


def _disagreements(told: Explanation) -> Iterator[str]:
    for one in told.disagreements:
        said = "; ".join(f"{source}: {text}" for source, text in one.said.items())
        yield _line(one.about, said)
        if one.why:
            yield _line("", one.why)


def _advice(told: Explanation) -> Iterator[str]:
    advised = told.advised
    for one in advised.advice:
        yield f"  - {one.text}."
        cheaper = f"; it would have cost {one.units_then:.2f} {advised.kind} {advised.unit}" if one.units_then else ""
        yield f"    {one.key}{cheaper}"
    if advised.units_then is not None and len(advised.advice) > 1:
        yield (
            f"  With all of it the job would have cost {advised.units_then:.2f} instead of {advised.units:.2f} "
            f"{advised.kind} {advised.unit}."
        )
    elif advised.units is not None and advised.units_then is not None:
        yield f"  It cost {advised.units:.2f} {advised.kind} {advised.unit} by the site's rate."
    if told.job.final and advised.silent:
        yield f"  none: {advised.silent}"


def _texts(told: Explanation) -> Iterator[str]:
    for text in told.texts:
        raw = text.raw
        faults = f", {len(text.warnings)} rows not understood" if text.warnings else ""
        faults = f", not understood: {text.refused}" if text.refused else faults
        yield _line(
            raw.source, f"{len(raw.text.encode())} bytes, last printed {moment(raw.last_seen, told.now)}{faults}"
        )
        for warning in text.warnings:
            yield _line("", f"| line {warning.line}: {warning.reason}: {warning.text[:80]}")
    if told.texts:
        yield "  (`--raw` shows them, `--json` has them)"
