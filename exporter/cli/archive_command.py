"""`rayslurm archive`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from exporter.archive import reading
from exporter.archive.bucket import Bucket
from exporter.archive.layout import named_by
from exporter.archive.spool import spooled_jobs
from exporter.archive.uploading import settings_of
from exporter.cli.context import ConfigOption, JsonOption, open_store, peek_store, print_json, read_config, say
from exporter.cli.job_argument import JobArgument
from exporter.cli.table import print_table
from exporter.config import Config
from exporter.errors import InputError
from exporter.store import archive
from exporter.store.archive import Entry

app = typer.Typer(help="What ended jobs left behind, kept in an S3 bucket.", no_args_is_help=True)


def register(top: typer.Typer) -> None:
    """Adds the commands."""
    top.add_typer(app, name="archive")


@app.command("list")
def list_jobs(
    site: Annotated[str | None, typer.Option("--site", help="Only this site's jobs.", show_default=False)] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the jobs in the bucket, and those that are on their way there.

    Raises:
        ArchiveError: the bucket cannot be read.
    """
    settings, bucket = _open(config)
    waiting = [entry for entry in _unfinished(settings) if site in {None, entry.site}]
    kept = [{**(named_by(one.key) or {}), "manifest": one.key} for one in reading.manifests(bucket, site)]
    if as_json:
        print_json({"kept": kept, "waiting": [asdict(entry) for entry in waiting]})
        return
    rows = [(f"{one['site']}/{one['job']}", one["project"], one["day"], "kept", "") for one in kept]
    rows += [
        (
            f"{one.site}/{one.job_id}",
            "",
            f"{datetime.fromtimestamp(one.end_time, UTC):%Y/%m/%d}",
            one.state,
            one.error or "",
        )
        for one in waiting
    ]
    print_table(("JOB", "PROJECT", "ENDED", "STATE", "ERROR"), rows)


@app.command()
def show(job: JobArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what is kept of a job, what isn't, and why.

    Raises:
        InputError: the archive has no such job.
    """
    _, bucket = _open(config)
    key, manifest = reading.manifest_of(bucket, *_job(bucket, job))
    if as_json:
        print_json({"manifest": key, **manifest})
        return
    typer.echo(f"{key}, written {datetime.fromtimestamp(manifest['written'], UTC):%Y-%m-%d %H:%M} UTC")
    print_table(
        ("FILE", "BYTES", "LEFT OUT", "SECRETS TAKEN OUT", "FROM"),
        [
            (one["name"], str(one["size"]), str(one["left_out"] or ""), str(one["redactions"] or ""), one["source"])
            for one in manifest["files"]
        ],
    )
    for one in manifest["left_out"]:
        typer.echo(f"not kept: {one['name'] or one['source']}: {one['reason']}")


@app.command()
def get(
    job: JobArgument,
    folder: Annotated[Path, typer.Argument(help="Where the files go; the job's number where left out.")] = Path(),
    *,
    file: Annotated[
        list[str] | None, typer.Option("--file", metavar="NAME", help="Only this one; may be repeated.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Get what is kept of a job; each file is compared with what was written.

    Raises:
        InputError: the archive has no such job, or not that file.
        ArchiveError: a file is damaged.
    """
    _, bucket = _open(config)
    site, job_id = _job(bucket, job)
    _, manifest = reading.manifest_of(bucket, site, job_id)
    wanted = [one for one in manifest["files"] if not file or one["name"] in file]
    if missing := sorted(set(file or ()) - {one["name"] for one in wanted}):
        raise InputError(f"the archive has no {' and no '.join(missing)} of job {job_id}; see `rayslurm archive show`")
    target = folder if folder != Path() else Path(job_id)
    paths = [str(reading.get(bucket, one, target)) for one in wanted]
    if as_json:
        print_json(paths)
        return
    for path in paths:
        typer.echo(path)


@app.command()
def verify(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Only this one.", show_default=False)] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read all that is kept, and compare it with what was written; ends with 1 where something isn't so.

    Raises:
        ArchiveError: the bucket cannot be read.
    """
    _, bucket = _open(config)
    site, job_id = _job(bucket, job) if job is not None else (None, None)
    found = reading.verify(bucket, site, job_id)
    if as_json:
        print_json(asdict(found))
    else:
        for fault in found.faults:
            typer.echo(fault)
        typer.echo(f"{found.jobs} jobs, {found.objects} objects, {found.sound} of them as they were written")
        if found.loose:
            say(f"{found.loose} objects belong to no manifest: of jobs on their way, or of manifests that are gone")
    if found.faults:
        raise typer.Exit(1)


@app.command()
def retry(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Only this one.", show_default=False)] = None,
    config: ConfigOption = None,
) -> None:
    """Have `serve` try at once what waits or was given up.

    Raises:
        InputError: no such job waits.
    """
    _, settings = read_config(config)
    settings_of(settings)
    with open_store(settings) as store:
        site, job_id = None, None
        if job is not None:
            with store.snapshot() as connection:
                found = [one for one in archive.entries(connection, unfinished=True) if _is_named(one, job)]
            if not found:
                raise InputError(f"no job {job} waits for the archive; `rayslurm archive list` shows what does")
            site, job_id = found[0].site, found[0].job_id
        spooled = spooled_jobs(settings.state_dir)
        count = store.write(lambda connection: archive.retry(connection, site, job_id, spooled=spooled))
    typer.echo(f"{count} jobs are tried again")


@app.command()
def check(
    expire_days: Annotated[
        int | None,
        typer.Option("--expire-days", min=1, help="Have the service remove what is older.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look whether the bucket can be used and is private; set how long the service keeps what is there.

    Raises:
        ArchiveError: the bucket cannot be used, or others can.
    """
    settings, bucket = _open(config)
    bucket.check()
    if expire_days is not None:
        bucket.expire(expire_days)
    days = bucket.expiry_days()
    with_store = _unfinished(settings)
    if as_json:
        print_json({"bucket": bucket.name, "private": True, "expire_days": days, "waiting": len(with_store)})
        return
    typer.echo(f"bucket {bucket.name} can be used, and nothing says that others can")
    typer.echo(f"what is there is removed after {days} days" if days else "nothing is removed by itself")


def _open(path: Path | None) -> tuple[Config, Bucket]:
    _, settings = read_config(path)
    return settings, Bucket(settings_of(settings))


def _unfinished(settings: Config) -> list[Entry]:
    with peek_store(settings) as store:
        if store is None:
            return []
        with store.snapshot() as connection:
            return archive.entries(connection, unfinished=True)


def _day(epoch: float) -> str:
    return f"{datetime.fromtimestamp(epoch, UTC):%Y/%m/%d}"


def _is_named(entry: Entry, job: str) -> bool:
    return job in {entry.job_id, f"{entry.site}/{entry.job_id}"}


def _job(bucket: Bucket, job: str) -> tuple[str, str]:
    """Returns site and id of a job as it was named; it need not be in the store any more.

    Raises:
        InputError: there is none, or one at several sites.
    """
    site, _, job_id = job.rpartition("/")
    if site:
        return site, job_id
    found: list[dict[str, Any]] = [named_by(one.key) or {} for one in reading.manifests(bucket, None, job_id)]
    sites = sorted({one["site"] for one in found})
    if not sites:
        raise InputError(f"the archive has no job {job_id}; `rayslurm archive list` shows what it has")
    if len(sites) > 1:
        raise InputError(f"job {job_id} is one of {' and of '.join(sites)}; write {sites[0]}/{job_id}")
    return sites[0], job_id
