"""What a site is known to refuse, or to leave pending for ever, refused here before anything is sent. Pure.

Of a partition's limits the user's word counts first (rayslurm.yaml), then what the machine itself states, then the
site file. A limit that the machine doesn't state is still the site file's: a site may set it elsewhere than in the
partition.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from exporter.config import Site
from exporter.dates import minute
from exporter.errors import RefusedError
from exporter.launch.environment import check_environment
from exporter.launch.render import partition_of
from exporter.launch.spec import Cluster, Spec
from exporter.sites import Partition
from exporter.sites.source import YOURS, Source
from exporter.store.partitions import Listing

_GIB = 1024**3

_MEANING = {
    "down": "a job waits there until it is up again",
    "drain": "it takes no new jobs",
    "inactive": "it takes no jobs",
}


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a site beside its site file.

    Attributes:
        now: epoch seconds.
        listing: what the site itself says of its partitions; None where that isn't known.
        certificate_end: when the certificate to log in with ends, epoch seconds; None where there is none.
        no_units: why the site takes no job of the project that pays, each a sentence.
    """

    now: float
    listing: Listing | None = None
    certificate_end: float | None = None
    no_units: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Fault:
    """A limit that a spec goes over.

    Attributes:
        key: the limit's key in rayslurm.yaml.
        text: what the partition allows, and what the spec asks for.
        counted: whether it is no limit but what the machine has.
    """

    key: str
    text: str
    counted: bool = False


@dataclass(frozen=True, slots=True)
class _View:
    """A partition as all who know of it together say.

    Attributes:
        limits: what holds of it.
        stated: which of the limits the machine itself states.
        nodes: how many nodes it has, by the machine itself; None where that isn't known, or the user knows better.
        state: whether it is up, by the machine itself.
    """

    limits: Partition
    stated: frozenset[str] = frozenset()
    nodes: int | None = None
    state: str | None = None

    @property
    def has_gpus(self) -> bool:
        """Whether it may have any; site files say of each partition without."""
        return self.limits.max_gpus_per_job != 0 and self.limits.max_gpus_per_node != 0


def check(spec: Spec, site: Site, known: Known, *, campaign: bool = False, force: bool = False) -> list[str]:
    """Holds a spec against what is known of its site; what is unknown refuses nothing.

    Args:
        spec: what is to be launched.
        site: where.
        known: what is known of it beside its site file.
        campaign: whether nobody watches: partitions that are not for production are refused then.
        force: warn only of what the user may know better.

    Returns:
        What the person should know, each a sentence: what was forced, and what is no reason to refuse.

    Raises:
        RefusedError: the site is closed, its partition doesn't take such a job, Ray would be open to others, or the
            venv lies where the site wants none; says why, who says so, and what would do.
        ConfigError: neither spec nor site names a partition, or it isn't known how a container sees the site's GPUs.
    """
    _check_authentication(spec)
    check_environment(spec, site)
    partitions = _Partitions(site, known)
    names = partition_of(spec, site).split(",")
    refused = [*_closed(site, known), *known.no_units, *partitions.unknown(names)]
    # Of several partitions, separated by commas, Slurm takes one that can run the job.
    reasons = [list(partitions.refusals(name, spec.cluster, campaign=campaign)) for name in names]
    if all(reasons):
        refused += [text for texts in reasons for text in texts]
    if refused and not force:
        raise RefusedError("\n".join(refused) + "\nIf you know better: rayslurm launch --force")
    warnings = [f"forced, though {text}" for text in refused]
    return [*warnings, *partitions.warnings(names, campaign=campaign), *_certificate(spec, site, known)]


def _check_authentication(spec: Spec) -> None:
    """Refuses a Ray without a token where somebody else may be on its nodes; the user cannot know better.

    Raises:
        RefusedError: somebody may.
    """
    if not spec.ray.allow_unauthenticated_ray:
        return
    sharing = next((option for option in spec.directives if _shares(option)), None)
    if spec.cluster.exclusive and sharing is None:
        return
    way = "set cluster.exclusive: true as well" if sharing is None else f"take {sharing} out of directives"
    raise RefusedError(
        "ray.allow_unauthenticated_ray: whoever is on a node can use a Ray without a token, and read and change all "
        f"that it does, so it runs only on nodes that nobody shares: {way}, or take a Ray that has tokens (2.52 and "
        "later) and leave the key out. --force does not change this"
    )


def _shares(option: str) -> bool:
    """Tells whether an option of `sbatch` shares nodes in spite of `--exclusive`; it takes abbreviations."""
    name = option.partition("=")[0]
    return len(name) > len("--o") and any(whole.startswith(name) for whole in ("--oversubscribe", "--share"))


def _closed(site: Site, known: Known) -> Iterator[str]:
    closing = site.profile.closing
    if closing is None or datetime.fromtimestamp(known.now, site.timezone).date() < closing.compute:
        return
    instead = f"Launch on {closing.successor} instead" if closing.successor else "Launch elsewhere"
    yield (
        f"{site.name}: its compute nodes closed on {closing.compute} ({closing.source}), so a job would stay pending "
        f"for ever. {instead}; if the site is open after all, write sites.{site.name}.closed: false in rayslurm.yaml"
    )


class _Partitions:
    """The partitions of a site, from all sources together."""

    def __init__(self, site: Site, known: Known) -> None:
        self.site = site
        self.known = known
        self.machine = "" if known.listing is None else f"the site's own `sinfo`, read {_ago(known)}"
        """Where what the machine states was read."""

    def view(self, name: str) -> _View | None:
        """Returns a partition; None where nobody knows of it."""
        written = self.site.profile.partition(name)
        listing = self.known.listing
        record = None if listing is None else listing.partitions.get(name)
        if record is None:
            return None if written is None else _View(written)
        base = Partition(name, Source(self.machine, None)) if written is None else written
        stated: Mapping[str, Any] = {
            "max_time": record.max_time_seconds,
            "min_nodes": record.min_nodes,
            "max_nodes": record.max_nodes,
            "max_cpus_per_node": record.max_cpus_per_node,
            "max_memory_per_node": record.max_memory_bytes_per_node,
            "max_gpus_per_node": record.max_gpus_per_node,
        }
        new = {key: value for key, value in stated.items() if value is not None and key not in base.overridden}
        keys = frozenset(new)
        if record.max_gpus_per_node and base.max_gpus_per_job == 0 and "max_gpus_per_job" not in base.overridden:
            new["max_gpus_per_job"] = None  # it has some, whatever was written
        nodes = None if "max_nodes" in base.overridden else record.nodes
        return _View(replace(base, **new), keys, nodes, record.state)

    def unknown(self, names: list[str]) -> Iterator[str]:
        """Yields which of these the site says that it doesn't have: one of them fails the whole launch."""
        there = self._names()
        if self.known.listing is None:
            return
        for name in names:
            if name in there:
                continue
            near = difflib.get_close_matches(name, there, n=3)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"It has: {', '.join(there)}."
            yield (
                f"{self.site.name}: there is no partition {name} ({self.machine}). {hint} If there is one after all, "
                f"write sites.{self.site.name}.partitions.{name}: {{}} in rayslurm.yaml"
            )

    def refusals(self, name: str, cluster: Cluster, *, campaign: bool) -> Iterator[str]:
        """Yields why a partition doesn't take a job, each with its source and what would do."""
        view = self.view(name)
        if view is None:
            return
        yield from self._foreign(view)
        faults = list(_faults(view, cluster, campaign=campaign))
        if faults:
            by_source: dict[str, list[str]] = {}
            for fault in faults:
                by_source.setdefault(self._source(view, fault.key, fault.counted), []).append(fault.text)
            told = ", and ".join(f"{' and '.join(texts)} ({source})" for source, texts in by_source.items())
            keys = " and ".join(f"sites.{self.site.name}.partitions.{name}.{fault.key}" for fault in faults)
            would = self._would_do(view, cluster, campaign=campaign)
            yield (
                f"{self.site.name}: partition {name} {told}. {would}. If that has changed, write {keys} in "
                "rayslurm.yaml"
            )

    def warnings(self, names: list[str], *, campaign: bool) -> Iterator[str]:
        """Yields what to know of the partitions that is no reason to refuse."""
        for name in names:
            view = self.view(name)
            if view is None:
                continue
            if view.limits.production is False and not campaign:
                yield f"{self.site.name}: partition {name} is for tests ({self._source(view, 'production')})"
            if view.state in _MEANING:
                yield f"{self.site.name}: partition {name} is {view.state} ({self.machine}): {_MEANING[view.state]}"

    def _foreign(self, view: _View) -> Iterator[str]:
        """Yields that a partition is submitted to from another login host, where that is known."""
        site, wanted = self.site, view.limits.architecture
        here = next((login for login in site.profile.login_hosts if login.host == site.login_host), None)
        if wanted is None or here is None or here.architecture in {None, wanted}:
            return
        there = self._login_host(wanted)
        way = (
            f"a login host for {wanted}: write it as sites.{site.name}.ssh.host in rayslurm.yaml"
            if there is None
            else f"{there}: write sites.{site.name}.ssh.host: {there} in rayslurm.yaml, or a second site there with "
            f"profile: {site.profile.name} and this host"
        )
        yield (
            f"{site.name}: partition {view.limits.name} has {wanted} nodes, and {here.host} is the login host for "
            f"{here.architecture} ({here.source}). Submit from {way}"
        )

    def _login_host(self, architecture: str) -> str | None:
        logins = self.site.profile.login_hosts
        return next((login.host for login in logins if login.architecture in {None, architecture}), None)

    def _source(self, view: _View, key: str, counted: bool = False) -> str:
        if key in view.limits.overridden:
            return str(YOURS)
        return self.machine if counted or key in view.stated else str(view.limits.source)

    def _would_do(self, asked: _View, cluster: Cluster, *, campaign: bool) -> str:
        """Tells the partitions that take such a job; those whose limits are not all known are said to be possible."""
        gpus = _gpus_per_node(cluster) > 0
        sure: list[str] = []
        possible: list[str] = []
        for name in self._names():
            view = self.view(name)
            if view is None or view.state in _MEANING or any(_faults(view, cluster, campaign=campaign)):
                continue
            if view.has_gpus is not gpus and (gpus or not asked.has_gpus):
                continue
            told = name
            if any(self._foreign(view)) and (host := self._login_host(view.limits.architecture or "")):
                told = f"{name} (from {host})"
            limits = view.limits
            known = (limits.max_nodes or view.nodes) is not None and limits.max_time is not None
            (sure if known and (not gpus or limits.max_gpus_per_job is not None) else possible).append(told)
        if sure:
            return f"{' or '.join(sure)} would do"
        if possible:
            return f"{' or '.join(possible)} may do: not all limits are known"
        return "No partition that rayslurm knows takes such a job"

    def _names(self) -> list[str]:
        """Returns the partitions that there are: by the site's own list and the user's word, else by the site file."""
        written = [partition.name for partition in self.site.profile.partitions]
        listing = self.known.listing
        if listing is None:
            return written
        yours = self.site.settings.partitions
        there = [name for name in written if name in listing.partitions or name in yours]
        return [*there, *(name for name in listing.partitions if name not in there)]


def _faults(view: _View, cluster: Cluster, *, campaign: bool) -> Iterator[_Fault]:
    """Yields the limits that a cluster goes over in a partition."""
    limits = view.limits
    if campaign and limits.production is False:
        yield _Fault("production", "is not for production, so no campaign runs there")
    if limits.max_nodes is not None and cluster.nodes > limits.max_nodes:
        yield _Fault("max_nodes", f"takes at most {_count(limits.max_nodes, 'node')} a job, not {cluster.nodes}")
    elif view.nodes is not None and cluster.nodes > view.nodes:
        yield _Fault("max_nodes", f"has {_count(view.nodes, 'node')}, not {cluster.nodes}", counted=True)
    if limits.min_nodes is not None and cluster.nodes < limits.min_nodes:
        yield _Fault("min_nodes", f"takes jobs of at least {_count(limits.min_nodes, 'node')}, not {cluster.nodes}")
    if limits.max_time is not None and cluster.time > limits.max_time:
        yield _Fault("max_time", f"takes jobs of at most {_length(limits.max_time)}, not {_length(cluster.time)}")
    if limits.max_cpus_per_node is not None and cluster.cpus_per_node > limits.max_cpus_per_node:
        most = _count(limits.max_cpus_per_node, "CPU")
        yield _Fault("max_cpus_per_node", f"gives a job at most {most} on a node, not {cluster.cpus_per_node}")
    if limits.max_memory_per_node is not None and cluster.memory_per_node > limits.max_memory_per_node:
        most, wanted = _amount(limits.max_memory_per_node), _amount(cluster.memory_per_node)
        yield _Fault("max_memory_per_node", f"gives a job at most {most} of memory on a node, not {wanted}")
    yield from _gpu_faults(view, cluster)


def _gpu_faults(view: _View, cluster: Cluster) -> Iterator[_Fault]:
    limits, per_node = view.limits, _gpus_per_node(cluster)
    gpus = per_node * cluster.nodes
    if gpus and not view.has_gpus:
        yield _Fault("max_gpus_per_job" if limits.max_gpus_per_job == 0 else "max_gpus_per_node", "has no GPUs")
        return
    if limits.max_gpus_per_job is not None and gpus > limits.max_gpus_per_job:
        yield _Fault("max_gpus_per_job", f"takes at most {_count(limits.max_gpus_per_job, 'GPU')} a job, not {gpus}")
    if limits.max_gpus_per_node is not None and per_node > limits.max_gpus_per_node:
        most = _count(limits.max_gpus_per_node, "GPU")
        yield _Fault("max_gpus_per_node", f"gives a job at most {most} on a node, not {per_node}")


def _certificate(spec: Spec, site: Site, known: Known) -> Iterator[str]:
    """Yields that the certificate to log in with ends before the job could."""
    end, job_end = known.certificate_end, known.now + spec.cluster.time
    if end is None or end >= job_end:
        return
    signer = site.profile.certificate
    where = f" from {signer.signed_by}" if signer else ""
    yield (
        f"{site.name}: the certificate beside {site.settings.ssh.key} ends {minute(end)}, and the job not before "
        f"{minute(job_end)} unless it ends early: fetch a new one{where} in time, or rayslurm can neither follow nor "
        "cancel it"
    )


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


def _amount(size: int) -> str:
    """Returns an amount of memory as specs have it: `16G`, or `8000M` where it is no whole number of GiB."""
    return f"{size // _GIB}G" if size % _GIB == 0 else f"{size // 1024**2}M"


def _ago(known: Known) -> str:
    """Returns how long ago the site was asked."""
    assert known.listing is not None  # noqa: S101 - of a site that was
    seconds = max(0.0, known.now - known.listing.read)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return "just now"
