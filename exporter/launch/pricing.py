"""What a spec costs at its time limit, and what the jobs cost that are queued or running: before anything is paid.

Slurm ends a job a bit after its limit; what it takes longer is not in these prices. Of a job that Slurm started again,
only the attempt that waits or runs is.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from exporter.billing.charge import Amounts, amounts_of_tres
from exporter.billing.price import WHOLE_GPU, NoPrice, Price, dearest, price, price_by_billing
from exporter.config import Site
from exporter.errors import ConfigError
from exporter.launch.render import partition_of
from exporter.launch.spec import Cluster, Spec, spec_of_journal
from exporter.sites.rates import rule
from exporter.store import bills, partitions, unpaid
from exporter.store.jobs import JobRow
from exporter.store.partitions import Listing

_GIB = Decimal(1 << 30)
_MINUTE = 60

_CHANGE_AMOUNTS = (
    *("--gpus", "--gpus-per-task", "--gpus-per-socket", "--cpus-per-gpu", "--mem-per-cpu", "--mem-per-gpu"),
    *("--tres-per-task", "--threads-per-core", "--core-spec", "--thread-spec"),
)
"""Options of `sbatch` that change what a job gets."""

_TASKS = re.compile(r"\d+_\[([\d,-]+)(?:%\d+)?\]")


@dataclass(frozen=True, slots=True)
class Commitment:
    """A job that isn't paid yet: it waits, runs, may be about to, or has ended and its bill isn't there.

    Attributes:
        site: where.
        token: of its submission; None where it was submitted by hand.
        job_id: its number; None while it has none, or it isn't known.
        name: what it is called.
        project: who pays; None where that isn't known.
        campaign: whose it is; empty for none.
        price: what it costs at its time limit; of one that has ended what the formula says, where that is known.
    """

    site: str
    token: str | None
    job_id: str | None
    name: str
    project: str | None
    campaign: str
    price: Price | NoPrice


def price_of_spec(spec: Spec, site: Site, listing: Listing | None = None) -> Price | NoPrice:
    """Returns what a spec costs when its job takes all of its time.

    Args:
        spec: what is to be launched.
        site: where.
        listing: what the site itself says of its partitions: how much a whole node has.

    Raises:
        ConfigError: neither spec nor site names a partition.
    """
    for directive in spec.directives:
        option = directive.partition("=")[0]
        if any(whole.startswith(option) for whole in _CHANGE_AMOUNTS):
            return NoPrice(f"its directive {directive} changes what it gets")
    seconds = math.ceil(spec.cluster.time / _MINUTE) * _MINUTE  # Slurm counts time limits in minutes, rounded up
    names = partition_of(spec, site).split(",")
    return dearest(price(site.profile, name, amounts_of_spec(spec, site, name, listing), seconds) for name in names)


def amounts_of_spec(spec: Spec, site: Site, partition: str, listing: Listing | None = None) -> Amounts:
    """Returns what a spec's job gets in a partition, in all.

    Its CPUs are taken for cores: where accounting counts hardware threads, a request still counts cores. A whole node
    gives all its CPUs and GPUs, but only the memory that is asked for.

    Args:
        spec: what is to be launched.
        site: where.
        partition: one of its partitions.
        listing: what the site itself says of its partitions.
    """
    cluster = spec.cluster
    gpus, nvme = _gres(cluster)
    asked = Amounts(
        nodes=cluster.nodes,
        cores=Decimal(cluster.cpus_per_node * cluster.nodes),
        memory=Decimal(cluster.memory_per_node) * cluster.nodes / _GIB,
        nvme=nvme,
        gpus=gpus,
    )
    written = site.profile.partition(partition)
    record = None if listing is None else listing.partitions.get(partition)
    if not (cluster.exclusive or (written and written.whole_nodes) or (record and record.whole_nodes)):
        return asked
    cpus = _of_node(partition, site, listing, "max_cpus_per_node")
    there = 0 if written and written.max_gpus_per_job == 0 else _of_node(partition, site, listing, "max_gpus_per_node")
    threads = site.profile.accounting.threads_per_core
    all_gpus: dict[str, int] | None = gpus
    if there is None:
        all_gpus = None
    elif there * cluster.nodes > sum(gpus.values()):
        all_gpus = {next(iter(gpus), WHOLE_GPU): there * cluster.nodes}
    return replace(asked, cores=None if cpus is None else Decimal(cpus * cluster.nodes) / threads, gpus=all_gpus)


def price_of_job(connection: sqlite3.Connection, job: JobRow, site: Site) -> Price | NoPrice:
    """Returns what a job that waits or runs costs when it takes all of its time.

    By what it is allocated as the queue tells it; while it waits, or where the queue doesn't tell enough, by its spec.

    Args:
        connection: of a snapshot or a transaction.
        job: the job; of an array's tasks that have not begun, all of them together.
        site: where it is.
    """
    return _price_of_job(connection, job, site, job.time_limit_seconds)


def hourly_price_of_job(connection: sqlite3.Connection, job: JobRow, site: Site) -> Price | NoPrice:
    """Returns what an hour of a job that waits or runs costs; see `price_of_job`."""
    return _price_of_job(connection, job, site, 3600.0)


def committed(connection: sqlite3.Connection, sites: Mapping[str, Site]) -> list[Commitment]:
    """Returns all that will have to be paid beside the bills that are there: each job once, with its whole price.

    Args:
        connection: of a snapshot or a transaction.
        sites: the configured sites by name; what is at others is left out.
    """
    found = []
    for row in unpaid.without_job(connection):
        if row.site in sites:
            cost = _price_of_journal(connection, row.spec, sites[row.site], None)
            project = row.spec.get("project")
            found.append(Commitment(row.site, row.token, None, row.name, project, row.campaign, cost))
    for job in unpaid.unpaid(connection):
        if job.site in sites:
            submission = unpaid.submission_of(connection, job.site, job.job_id)
            token = None if submission is None else submission.token
            cost = _price_of_unpaid(connection, job, sites[job.site])
            name = job.job_name or job.job_id
            found.append(Commitment(job.site, token, job.job_id, name, job.project, job.campaign, cost))
    return found


def _price_of_job(connection: sqlite3.Connection, job: JobRow, site: Site, seconds: float | None) -> Price | NoPrice:
    by_queue = _price_by_tres(job, site, seconds)
    submission = unpaid.submission_of(connection, job.site, job.job_id)
    if submission is None:
        return by_queue
    by_spec = _price_of_journal(connection, submission.spec, site, seconds)
    first, second = (by_spec, by_queue) if job.state == "pending" else (by_queue, by_spec)
    return second if isinstance(first, NoPrice) and not isinstance(second, NoPrice) else first


def _price_of_unpaid(connection: sqlite3.Connection, job: JobRow, site: Site) -> Price | NoPrice:
    bill = bills.by_source(connection, job.site, job.job_id, "formula") if job.final else None
    if bill is None:
        return price_of_job(connection, job, site)
    rate = site.profile.rate(job.partition or "")
    units = Decimal(str(bill.units))
    hours = Decimal(str(job.elapsed_seconds or 0)) / 3600
    told, source = ("", "formula") if rate is None else (rule(rate), str(rate.source))
    return Price(units, bill.kind, bill.unit, told, source, units / hours if hours else Decimal(0))


def _price_of_journal(
    connection: sqlite3.Connection, kept: Mapping[str, Any], site: Site, seconds: float | None
) -> Price | NoPrice:
    """Returns the price of a spec as the journal has it, for so many seconds, or for all of its time."""
    try:
        spec = spec_of_journal(kept)
        if seconds is not None:
            spec = spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"time": seconds})})
        return price_of_spec(spec, site, partitions.listing(connection, site.name))
    except ConfigError:
        return NoPrice("its spec can't be read any more")


def _price_by_tres(job: JobRow, site: Site, seconds: float | None) -> Price | NoPrice:
    """Returns the price of a job by what the queue says that it is allocated."""
    tres = job.tres_by_name
    if tres is None or seconds is None:
        return NoPrice(f"the queue doesn't tell {'what it has' if tres is None else 'its time limit'}")
    if not site.profile.rates and "billing" in tres:
        one: Price | NoPrice = price_by_billing(tres["billing"], seconds)
    else:
        threads = site.profile.accounting.threads_per_core
        amounts = amounts_of_tres(tres, nodes=job.nodes, threads_per_core=threads)
        one = price(site.profile, job.partition or "", amounts, seconds)
    tasks = _tasks(job.job_id)
    return one if isinstance(one, NoPrice) or tasks == 1 else one.times(tasks)


def _tasks(job_id: str) -> int:
    """Returns how many tasks an id stands for, such as `123_[5-9,12%2]`."""
    match = _TASKS.match(job_id)
    if match is None:
        return 1
    ranges = [part.split("-") for part in match[1].split(",")]
    return sum(int(bounds[-1]) - int(bounds[0]) + 1 for bounds in ranges)


def _gres(cluster: Cluster) -> tuple[dict[str, int], Decimal | None]:
    """Returns the GPUs of all nodes by type, and the GiB of storage that is reserved on them; None where unknown."""
    gpus: dict[str, int] = {}
    nvme: Decimal | None = Decimal(0)
    for entry in (cluster.gres or "").split(","):
        words = entry.split(":")
        count = int(words[-1]) if words[-1].isdecimal() else 1
        if words[0] == "gpu":
            kind = words[1] if len(words) > 1 and not words[1].isdecimal() else WHOLE_GPU
            gpus[kind] = gpus.get(kind, 0) + count * cluster.nodes
        elif words[0] == "nvme" and words[-1].isdecimal() and nvme is not None:
            nvme += count * cluster.nodes
        elif words[0]:
            nvme = None
    if not gpus and cluster.gpus_per_node:
        gpus[WHOLE_GPU] = cluster.gpus_per_node * cluster.nodes
    return gpus, nvme


def _of_node(
    partition: str, site: Site, listing: Listing | None, key: Literal["max_cpus_per_node", "max_gpus_per_node"]
) -> int | None:
    """Returns what a whole node has: by the user's word, what the machine states, or the site file."""
    written = site.profile.partition(partition)
    record = None if listing is None else listing.partitions.get(partition)
    own: int | None = None if written is None else getattr(written, key)
    if written is not None and key in written.overridden:
        return own
    stated: int | None = None if record is None else getattr(record, key)
    return own if stated is None else stated
