"""`rayslurm launch`, `track`, `cancel`, `logs` and `status`."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from exporter.cli.asking import ask
from exporter.cli.balances_shown import show_balances
from exporter.cli.bringing import staged
from exporter.cli.campaign_launch import campaign_file, run_campaign
from exporter.cli.context import (
    ConfigOption,
    JsonOption,
    add_command,
    open_store,
    print_json,
    read_config,
    say,
    warn,
)
from exporter.cli.costing import cost_text
from exporter.cli.dry_run import show_dry_run
from exporter.cli.job_argument import JobArgument, find_job, split_job
from exporter.cli.maintenance import show_maintenance
from exporter.cli.table import age, duration, print_table
from exporter.efficiency import combined
from exporter.errors import RayslurmError
from exporter.funds.projects import funds
from exporter.launch.bundle import MANIFEST, SpecFile
from exporter.launch.guards import held
from exporter.launch.known import look
from exporter.launch.launcher import Launcher
from exporter.launch.reach import check_reach
from exporter.launch.render import project_of, wanted_tunnels
from exporter.launch.selection import files_text
from exporter.launch.spec import load_spec
from exporter.records import EfficiencyReport
from exporter.store import (
    bills,
    chains,
    clusters,
    consequences,
    estimates,
    exposure,
    jobs,
    reports,
    reservations,
    runs,
    submissions,
    supervised,
    tunnels,
    waste,
)
from exporter.store.chains import Chain
from exporter.store.clusters import RayCluster
from exporter.store.consequences import Consequence
from exporter.store.exposure import Exposure
from exporter.store.jobs import JobRow
from exporter.store.runs import Run
from exporter.store.submissions import Submission
from exporter.store.tunnels import Health

_REASON_WIDTH = 120


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (launch, track, cancel, logs, status):
        add_command(app, command)


def launch(
    spec_file: Annotated[
        Path,
        typer.Argument(metavar="SPEC|CAMPAIGN", help="The spec, YAML with `site` and `cluster`, or a campaign's name."),
    ],
    *,
    config: ConfigOption = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what would be submitted, what it costs at its limit, and why it would be refused; ask nobody.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Launch in spite of what rayslurm knows of the site, if you know better."),
    ] = False,
    over_budget: Annotated[
        bool,
        typer.Option("--over-budget", help="Launch though it may cost more than `max_units` or `floors` allow."),
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="NAME",
            help="A name of your own for this launch: asked once more with it, the job isn't submitted again.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start a Ray cluster as a Slurm job, or run a campaign now.

    Raises:
        ConfigError: the spec is wrong.
        RefusedError: the site takes no such job, or others would reach its tunnels, as far as rayslurm knows; nothing
            was sent.
        RayslurmError: it was not submitted, or it isn't known whether it was.
    """
    if key is not None and not key.strip():
        raise typer.BadParameter("is empty; leave it out, or give the launch a name", param_hint="--key")
    _, settings = read_config(config)
    if (campaign := campaign_file(spec_file, settings)) is not None:
        run_campaign(campaign, settings, plain=not (dry_run or force or over_budget or key), as_json=as_json)
        return
    spec = load_spec(spec_file)
    site = settings.site(spec.site)
    project_of(spec, site)
    wanted_tunnels(spec, settings)
    if dry_run:
        show_dry_run(spec, settings, force=force, over_budget=over_budget, as_json=as_json)
        return
    text = spec_file.read_text(encoding="utf-8")
    payload = {
        "spec": text,
        "name": str(spec_file),
        "folder": str(spec_file.absolute().parent),
        "force": force,
        "over_budget": over_budget,
        "key": key,
    }
    with open_store(settings) as store:
        if Launcher(settings, store).earlier(spec, key) is None:  # else the job is there: nothing is to be checked
            warn(look(spec, site, store, force=force))
            warn(held(spec, settings, store, over_budget=over_budget))
            check_reach(spec, settings, store)
            payload["bundle"] = staged(spec, SpecFile.of(spec_file, text), settings)
        outcome, served = ask(settings, store, "launch", spec.site, payload)
    if as_json:
        print_json(outcome)
    if outcome["job_id"] is None:
        raise RayslurmError(f"{outcome['site']}: {outcome['error']}")
    if not as_json:
        _tell_launched(outcome)
    if not served:
        say("no `rayslurm serve` is running: nobody follows this job until one does")


def _tell_launched(outcome: dict[str, Any]) -> None:
    """Says which job it is, and whether it is a new one."""
    typer.echo(f"{outcome['site']}/{outcome['job_id']}")
    if outcome["existing"]:
        say(
            f"nothing was submitted: with this key job {outcome['job_id']} on {outcome['site']} was, "
            f"{age(time.time() - outcome['created'])} ago; `rayslurm status` shows what became of it"
        )
        return
    say(f"submitted as job {outcome['job_id']} on {outcome['site']}; its folder is {outcome['run_dir']}")
    if (brought := outcome["brought"]) and brought["files"]:
        say(f"it brings along {files_text(brought['files'], brought['bytes'])}, listed in {MANIFEST} there")
    if outcome["dashboard_port"]:
        say(f"its dashboard will be at http://127.0.0.1:{outcome['dashboard_port']} when Ray is ready")


def track(job: JobArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Follow a job that was submitted by hand; of an array, all its tasks."""
    _, settings = read_config(config)
    site, job_id = split_job(job, settings)
    with open_store(settings) as store:
        outcome, served = ask(settings, store, "track", site, {"job_id": job_id})
    if as_json:
        print_json(outcome)
    else:
        name = f"{outcome['site']}/{outcome['job_id']}"
        typer.echo(f"{name} is followed" + ("" if outcome["new"] else " already"))
    if not served:
        say("no `rayslurm serve` is running: nothing is read from the site until one does")


def cancel(
    job: JobArgument,
    config: ConfigOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Cancel a job."""
    _, settings = read_config(config)
    with open_store(settings) as store:
        site, job_id = find_job(job, settings, store)
        if not yes:
            typer.confirm(f"Cancel job {job_id} on {site}?", abort=True, err=True)
        outcome, _ = ask(settings, store, "cancel", site, {"job_id": job_id})
    if as_json:
        print_json(outcome)
    else:
        shown = "; `rayslurm status` shows when it has ended" if outcome["followed"] else ""
        typer.echo(f"{site} was told to cancel {job_id}{shown}")


def logs(
    job: JobArgument,
    config: ConfigOption = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000, help="How many lines from the end.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Show the end of what a job has printed."""
    _, settings = read_config(config)
    with open_store(settings) as store:
        site, job_id = find_job(job, settings, store)
        outcome, _ = ask(settings, store, "logs", site, {"job_id": job_id}, keep=False)
    shown = outcome["text"].splitlines()
    text = "".join(f"{line}\n" for line in shown[-lines:])
    if as_json:
        print_json({"site": site, "job_id": job_id, "path": outcome["path"], "size": outcome["size"], "text": text})
        return
    whole = len(outcome["text"].encode()) >= outcome["size"] and len(shown) <= lines
    say(f"{outcome['path']}, {outcome['size']} bytes" + ("" if whole else "; its end:"))
    typer.echo(text, nl=False)


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the jobs that are followed, as they were last seen."""
    _, settings = read_config(config)
    with open_store(settings) as store, store.snapshot() as connection:
        shown, omitted = jobs.visible(
            connection,
            now=time.time(),
            keep_finished=settings.metrics.keep_finished,
            max_finished=settings.metrics.max_jobs,
        )
        doubtful = submissions.unsettled(connection)
        troubled = submissions.troubled(connection)
        absent = submissions.became_nothing(connection, since=time.time() - settings.metrics.keep_finished)
        ports = {(row.site, row.job_id): row.dashboard_port for row in submissions.settled(connection)}
        opened = tunnels.by_job(connection, now=time.time())
        reached = exposure.of_jobs(connection, now=time.time())
        rays = clusters.current(connection, now=time.time())
        expected = clusters.expected(connection)
        costs = {job: bills.of_job(connection, job.site, job.job_id) for job in shown if job.final}
        guesses = {job: estimates.of_job(connection, job.site, job.job_id) for job in shown if not job.final}
        used = {job: combined(reports.of_job(connection, job.site, job.job_id)) for job in shown if job.final}
        said = {(job.site, job.job_id): runs.of_job(connection, job.site, job.job_id) for job in shown}
        followed = {(job.site, job.job_id): consequences.of_job(connection, job.site, job.job_id) for job in shown}
        wasted = {(job.site, job.job_id): waste.of_job(connection, job) for job in shown}
        chained = chains.of_jobs(connection, shown)
        left = funds(connection, settings, now=time.time())
        near = {site: reservations.maintenance(connection, site, now=time.time()) for site in settings.sites}
    shown = [job for job in shown if _is_newest(job, chained.get((job.site, job.job_id)))]
    if as_json:
        print_json(
            {
                "jobs": [
                    {
                        **_job_json(job),
                        "bill": asdict(cost) if (cost := costs.get(job)) else None,
                        "estimate": guess.as_json() if (guess := guesses.get(job)) else None,
                        "tunnel": asdict(found) if (found := _dashboard(opened.get(identity, ()))) else None,
                        "tunnels": [asdict(one) for one in opened.get(identity, ())],
                        "exposed": [asdict(one) for one in reached.get(identity, ())],
                        "ray": ray.as_json(expected.get(identity)) if (ray := rays.get(identity)) else None,
                        "efficiency": [asdict(report) for report in used.get(job, ())],
                        "run": asdict(run) if (run := said.get((job.site, job.job_id))) else None,
                        "consequences": [asdict(one) for one in followed[job.site, job.job_id]],
                        "waste": [asdict(one) for one in wasted[job.site, job.job_id]],
                        "chain": chain.as_json() if (chain := chained.get((job.site, job.job_id))) else None,
                    }
                    for job in shown
                    for identity in [(job.site, job.job_id)]
                ],
                "maintenance": {site: [asdict(one) for one in found] for site, found in near.items()},
                "omitted": omitted,
                "unsettled": [_submission_json(row) for row in doubtful],
                "troubled": [_submission_json(row) for row in troubled],
                "absent": [_submission_json(row) for row in absent],
                "balances": [fund.as_json() for fund in left],
            }
        )
        return
    now = time.time()
    print_table(
        ("JOB", "NAME", "STATE", "REASON", "NODES", "ELAPSED", "LIMIT", "CPU", "COST", "DASHBOARD", "TUNNEL", "SEEN"),
        [
            (
                f"{job.site}/{job.job_id}",
                _name(job, chained.get((job.site, job.job_id))),
                job.state,
                _reason(job, said.get((job.site, job.job_id)), followed[job.site, job.job_id]),
                _nodes(job, rays.get(identity), expected.get(identity)),
                duration(job.elapsed_seconds),
                duration(job.time_limit_seconds),
                _cpu_percent(used.get(job, ())),
                cost_text(costs.get(job), guesses.get(job), chained.get(identity)),
                f"127.0.0.1:{ports[job.site, job.job_id]}" if ports.get((job.site, job.job_id)) else "",
                _tunnels(opened.get(identity, ()), now),
                f"{age(now - job.seen)} ago",
            )
            for job in shown
            for identity in [(job.site, job.job_id)]
        ],
    )
    show_balances(left, now)
    for job in shown:
        for words in _open(reached.get((job.site, job.job_id), ()), None if job.final else said[job.site, job.job_id]):
            say(f"{job.site}/{job.job_id}: {words}")
    show_maintenance(near, now)
    if omitted:
        say(f"{omitted} more finished jobs (metrics.max_jobs)")
    for chain in {chain.token: chain for chain in chained.values() if chain.end}.values():
        newest = chain.last.submission
        say(f"{newest.site}/{newest.job_id}: {newest.name}: no further job follows: {chain.end}")
    for row in doubtful:
        told = row.error or "under way"
        say(f"{row.site}: {row.name} ({row.token}, {age(now - row.created)} ago) is {row.state}: {told}")
    for row in troubled:
        say(f"{row.site}/{row.job_id}: {row.name} ({row.token}): {row.error}")
    for row in absent:
        say(f"{row.site}: {row.name} ({row.token}, {age(now - row.created)} ago) became no job: {row.error}")


def _open(exposed: Iterable[Exposure], run: Run | None) -> Iterator[str]:
    """Yields what of a job others can reach, on this machine and at the site, a sentence each."""
    for one in exposed:
        yield f"others can reach its tunnel {one.tunnel}: it is listened on at {one.addresses}"
    yield from supervised.warnings(run.open_listeners if run else None)


def _is_newest(job: JobRow, chain: Chain | None) -> bool:
    """Tells whether a job stands for its chain, which is one entry."""
    ids = [] if chain is None else [link.submission.job_id for link in chain.links if link.submission.job_id]
    return not ids or job.job_id == ids[-1]


def _name(job: JobRow, chain: Chain | None) -> str:
    name = job.job_name or "?"
    return name if chain is None else f"{name} ({chain.last.submission.link + 1} of {chain.times + 1})"


def _reason(job: JobRow, run: Run | None, followed: Collection[Consequence]) -> str:
    """Returns why a job waits, how far it is and what there is to say of it, or why it ended, in a line."""
    acted = consequences.in_words(job, followed)
    if job.final:
        first = runs.ending(job, run, acted).partition("\n")[0]
        return first if len(first) <= _REASON_WIDTH else first[: _REASON_WIDTH - 1] + "…"
    if run is None or run.phase is None or job.state == "pending":
        return acted or job.pending_reason or ""
    phase = f"Ray is ready, phase {run.phase}" if run.ready_time else f"phase {run.phase}"
    return f"{phase}; {acted}" if acted else phase


def _nodes(job: JobRow, ray: RayCluster | None, expected: int | None) -> str:
    """Returns how many nodes a job has, and how many of them Ray calls alive where these are fewer."""
    if ray is not None and ray.alive is not None and expected is not None and ray.alive < expected:
        return f"{ray.alive}/{expected} alive"
    return "" if job.nodes is None else str(job.nodes)


def _dashboard(opened: Iterable[Health]) -> Health | None:
    return next((health for health in opened if health.tunnel == tunnels.DASHBOARD), None)


def _tunnels(opened: Iterable[Health], now: float) -> str:
    """Returns how the dashboard's tunnel is, and which others aren't well though it is."""
    dashboard = _dashboard(opened)
    told = [_tunnel(dashboard, now)] if dashboard else []
    if dashboard is None or dashboard.up:
        told += [f"{one.tunnel} {_tunnel(one, now)}" for one in opened if one != dashboard and not one.up]
    return ", ".join(told)


def _tunnel(health: Health, now: float) -> str:
    if health.up:
        return health.state
    last = health.last_success
    return f"{health.state} (" + ("never up)" if last is None else f"up {age(now - last)} ago)")


def _cpu_percent(found: Iterable[EfficiencyReport]) -> str:
    ratios = [report.cpu_efficiency_ratio for report in found if report.cpu_efficiency_ratio is not None]
    return f"{ratios[0]:.1%}" if ratios else ""


def _job_json(job: JobRow) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__dataclass_fields__ if name != "counted"}


def _submission_json(row: Submission) -> dict[str, Any]:
    return {
        name: getattr(row, name) for name in ("token", "key", "site", "name", "job_id", "state", "error", "created")
    }
