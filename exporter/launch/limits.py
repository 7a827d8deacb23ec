"""What a site is known to refuse, or to leave pending for ever, refused here before anything is sent. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from exporter.config import Site
from exporter.errors import RefusedError
from exporter.launch.environment import check_environment
from exporter.launch.render import partition_of
from exporter.launch.spec import Cluster, Spec
from exporter.sites import Partition


@dataclass(frozen=True, slots=True)
class _Fault:
    """A limit that a spec goes over.

    Attributes:
        key: the limit's key in rayslurm.yaml.
        text: what the partition allows, and what the spec asks for.
    """

    key: str
    text: str


def check(spec: Spec, site: Site, *, today: date, campaign: bool = False, even_if_closed: bool = False) -> None:
    """Holds a spec against what is known of its site; what is unknown refuses nothing.

    Args:
        spec: what is to be launched.
        site: where.
        today: the day at the site.
        campaign: whether nobody watches: partitions that are not for production are refused then.
        even_if_closed: launch on a closed site all the same.

    Raises:
        RefusedError: the site is closed, or the partition doesn't take such a job; says the limit, the page that names
            it, and what would do. Or the venv lies where the site wants none.
        ConfigError: neither spec nor site names a partition, or it isn't known how a container sees the site's GPUs.
    """
    check_environment(spec, site)
    if not even_if_closed:
        _check_open(site, today)
    # Of several partitions, separated by commas, Slurm takes one that can run the job.
    names = partition_of(spec, site).split(",")
    refused: list[str] = []
    for name in names:
        partition = site.profile.partition(name)
        fault = next(_faults(partition, spec.cluster, campaign=campaign), None) if partition else None
        if partition is None or fault is None:
            return
        refused.append(_message(site, partition, fault, spec.cluster, campaign=campaign))
    raise RefusedError("\n".join(refused))


def _check_open(site: Site, today: date) -> None:
    closing = site.profile.closing
    if closing is None or today < closing.compute:
        return
    instead = f"launch on {closing.successor} instead" if closing.successor else "launch elsewhere"
    raise RefusedError(
        f"{site.name}: its compute nodes closed on {closing.compute} ({closing.source}), so a job would stay pending "
        f"for ever; {instead}, or use --even-if-closed. If the site is open after all, write sites.{site.name}.closed: "
        "false in rayslurm.yaml"
    )


def _faults(partition: Partition, cluster: Cluster, *, campaign: bool) -> Iterator[_Fault]:
    """Yields the limits that a cluster goes over in a partition."""
    if campaign and partition.production is False:
        yield _Fault("production", "is not for production, so no campaign runs there")
    if partition.max_nodes is not None and cluster.nodes > partition.max_nodes:
        yield _Fault("max_nodes", f"takes at most {_count(partition.max_nodes, 'node')} a job, not {cluster.nodes}")
    if partition.min_nodes is not None and cluster.nodes < partition.min_nodes:
        yield _Fault("min_nodes", f"takes jobs of at least {_count(partition.min_nodes, 'node')}, not {cluster.nodes}")
    if partition.max_time is not None and cluster.time > partition.max_time:
        yield _Fault("max_time", f"takes jobs of at most {_length(partition.max_time)}, not {_length(cluster.time)}")
    per_node = _gpus_per_node(cluster)
    gpus = per_node * cluster.nodes
    if partition.max_gpus_per_job == 0 and gpus:
        yield _Fault("max_gpus_per_job", "has no GPUs")
    elif partition.max_gpus_per_job is not None and gpus > partition.max_gpus_per_job:
        yield _Fault("max_gpus_per_job", f"takes at most {_count(partition.max_gpus_per_job, 'GPU')} a job, not {gpus}")
    if partition.max_gpus_per_node is not None and per_node > partition.max_gpus_per_node:
        limit = _count(partition.max_gpus_per_node, "GPU")
        yield _Fault("max_gpus_per_node", f"takes at most {limit} a node, not {per_node}")


def _message(site: Site, partition: Partition, fault: _Fault, cluster: Cluster, *, campaign: bool) -> str:
    would = _would_do(site, cluster, campaign=campaign)
    return (
        f"{site.name}: partition {partition.name} {fault.text} ({partition.source}). {would}. If the limit has "
        f"changed, write sites.{site.name}.partitions.{partition.name}.{fault.key} in rayslurm.yaml"
    )


def _would_do(site: Site, cluster: Cluster, *, campaign: bool) -> str:
    """Tells the partitions that take such a job; those whose limits are not all known are only said to be possible."""
    gpus = _gpus_per_node(cluster) > 0
    sure: list[str] = []
    possible: list[str] = []
    for partition in site.profile.partitions:
        if (partition.max_gpus_per_job == 0) is gpus or any(_faults(partition, cluster, campaign=campaign)):
            continue
        known = partition.max_nodes is not None and partition.max_time is not None
        (sure if known and (not gpus or partition.max_gpus_per_job is not None) else possible).append(partition.name)
    if sure:
        return f"{' or '.join(sure)} would do"
    if possible:
        return f"{' or '.join(possible)} may do: not all limits are known"
    return "No partition that rayslurm knows takes such a job"


def _gpus_per_node(cluster: Cluster) -> int:
    """Returns the GPUs on each node, also where only the site's own words for them say so (`gpu:a100:4`)."""
    entries = [entry.split(":") for entry in (cluster.gres or "").split(",")]
    counts = [words[-1] for words in entries if words[0] == "gpu"]
    return max(cluster.gpus_per_node, sum(int(count) if count.isdecimal() else 1 for count in counts))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _length(seconds: float) -> str:
    """Returns a length of time in words: `15 min`, `36 h`, `1 d 12:00:00`."""
    if seconds % 3600 == 0:
        return f"{seconds / 3600:.0f} h"
    if seconds % 60 == 0 and seconds < 7200:  # noqa: PLR2004 - up to two hours minutes read well
        return f"{seconds / 60:.0f} min"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours:02}:{rest // 60:02}:{rest % 60:02}"
