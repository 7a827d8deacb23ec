"""The job that a command is about, as people name it."""

from __future__ import annotations

from typing import Annotated

import typer

from exporter.config import Config
from exporter.errors import ConfigError, InputError
from exporter.store import jobs
from exporter.store.db import Store

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="SITE/ID, or the ID where that is unique.")]


def split_job(job: str, config: Config) -> tuple[str, str]:
    """Returns the site and id that a job is named by.

    Raises:
        ConfigError: there is no such site.
        InputError: it is no job's name, or doesn't say at which of several sites.
    """
    site, slash, job_id = job.rpartition("/")
    if not slash and len(config.sites) == 1:
        site = next(iter(config.sites))
    if not site:
        raise InputError(f"{job}: write SITE/ID, with one of the sites {', '.join(sorted(config.sites))}")
    config.site(site)
    try:
        jobs.root_of(job_id)
    except ValueError as error:
        raise InputError(str(error)) from None
    return site, job_id


def find_job(job: str, config: Config, store: Store) -> tuple[str, str]:
    """Returns the site and id of a job; an id alone must be unique among the followed ones.

    Raises:
        ConfigError: there is no such site, or no followed job has that id and there are several sites.
        InputError: it is no job's name, or several sites have a job of that id.
    """
    if "/" in job:
        return split_job(job, config)
    with store.snapshot() as connection:
        sites = [row.site for row in jobs.find(connection, job)]
    if len(sites) == 1:
        return sites[0], job
    if sites:
        raise InputError(
            f"{job}: is a job on {', '.join(sites)}; write one of them before it, such as {sites[0]}/{job}"
        )
    if len(config.sites) == 1:
        return split_job(job, config)
    raise ConfigError(f"{job}: no followed job has that id; write SITE/{job}")
