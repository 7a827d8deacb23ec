"""What a site file says. Data only: what is done with it is told where it is done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

from exporter.sites.rates import Rate
from exporter.sites.source import Source

Architecture = Literal["x86", "arm"]
Seff = Literal["csc", "slurm", "none"]


@dataclass(frozen=True, slots=True)
class LoginHost:
    """Where to log in.

    Attributes:
        host: its name.
        architecture: the partitions that are submitted to from there; None: all.
        source: where it was read.
    """

    host: str
    architecture: Architecture | None
    source: Source


@dataclass(frozen=True, slots=True)
class HostKey:
    """The fingerprint of a host key, as the site publishes it.

    Attributes:
        type: the key's type.
        sha256: the fingerprint, base64 without padding, as after `SHA256:`.
        source: the page that publishes it.
    """

    type: Literal["ed25519", "ecdsa", "rsa"]
    sha256: str
    source: Source


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that must lie beside the key.

    Attributes:
        signed_by: who signs it.
        lifetime_seconds: how long it is valid.
        source: where it was read.
    """

    signed_by: str
    lifetime_seconds: int
    source: Source


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition and its limits; None is unknown, and nothing is refused for what is unknown.

    Attributes:
        name: as Slurm has it.
        source: where its figures were read.
        architecture: which login host it is submitted to from.
        max_time: seconds that a job may take.
        min_nodes: nodes that a job must have.
        max_nodes: nodes that a job may have.
        max_gpus_per_job: GPUs that a job may have; 0 where there are none.
        max_gpus_per_node: GPUs that it may have on a node.
        max_cpus_per_node: CPUs that it may have on a node, as the site's Slurm counts them.
        max_memory_per_node: bytes of memory that it may have on a node.
        whole_nodes: whether jobs get, and pay for, whole nodes.
        production: whether campaigns may run there.
        max_jobs: jobs that a user may have there.
        max_running: how many of them may run at once.
        overridden: which of these the user wrote, by name; they come from rayslurm.yaml, not from `source`.
    """

    name: str
    source: Source
    architecture: Architecture | None = None
    max_time: float | None = None
    min_nodes: int | None = None
    max_nodes: int | None = None
    max_gpus_per_job: int | None = None
    max_gpus_per_node: int | None = None
    max_cpus_per_node: int | None = None
    max_memory_per_node: int | None = None
    whole_nodes: bool | None = None
    production: bool | None = None
    max_jobs: int | None = None
    max_running: int | None = None
    overridden: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Balance:
    """Where a project's balance is read.

    Attributes:
        provider: in whose words it is told.
        command: what prints it; `{project}` is filled in.
        json_path: a file that has it, cheaper and more exact, to be preferred; `{project}` is filled in.
        source: where it was read.
    """

    provider: Literal["csc", "lumi"]
    command: tuple[str, ...]
    json_path: str | None
    source: Source


@dataclass(frozen=True, slots=True)
class Workspaces:
    """Where disk areas and their quotas are read.

    Attributes:
        command: what prints them; its first word also names the way it prints.
        source: where it was read.
    """

    command: tuple[str, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class Accounting:
    """How the site accounts for jobs.

    Attributes:
        seff: whose `seff` the site has: `csc`, which prints the bill too, or `slurm`; `none` where it is absent or
            wrong, None where unknown.
        threads_per_core: hardware threads that accounting counts for a core.
        source: where it was read; None: what Slurm does by itself.
    """

    seff: Seff | None = None
    threads_per_core: int = 1
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What the site asks of those who ask it.

    Attributes:
        source: where it was read.
        accounting_window: seconds that one `sacct` may look back over; None: no figure is given.
        balance_refresh: seconds between two refreshes of the balances; asking more often gains nothing.
        rules: what else, in words.
    """

    source: Source
    accounting_window: float | None = None
    balance_refresh: float | None = None
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Closing:
    """When a site closes.

    Attributes:
        compute: the day from which no job runs.
        source: where it was read.
        storage: the day planned for its disks.
        successor: the site file of what comes after it.
    """

    compute: date
    source: Source
    storage: date | None = None
    successor: str | None = None


@dataclass(frozen=True, slots=True)
class Firewall:
    """Where the site's connections to a VM come from.

    Attributes:
        networks: to be let in by the VM's firewall.
        source: where it was read.
        note: what else is known of them.
    """

    networks: tuple[str, ...]
    source: Source
    note: str = ""


@dataclass(frozen=True, slots=True)
class SiteProfile:
    """The facts about a site that hold for everybody who works there; a user overrides any of them in rayslurm.yaml.

    Attributes:
        name: as written in rayslurm.yaml.
        title: for people.
        login_hosts: where to log in; empty where the user must say.
        host_keys: fingerprints that a page of the site names; empty where none was read.
        certificate: what must lie beside the key.
        timezone: IANA name of the zone that the site's local times are in.
        environment: shell lines that a job needs before anything else.
        work_dir: where run folders go; `{project}` and `{user}` are filled in. Relative to the home where not absolute.
        temp_dir: node-local, short path for Ray's session; may name a variable of the job, such as $TMPDIR.
        environment_source: where time zone, environment and folders were read; None: what holds everywhere.
        python: the interpreter that starts the job's supervisor.
        ray_command: how `ray` is called.
        software_dir: where venvs belong; `{project}` and `{user}` are filled in. None: the site says nothing of it.
        container_command: the words that run something in a container, before their options and the image.
        container_gpu_options: options of theirs that show it the GPUs; empty where the environment sees to that, None
            where unknown.
        partitions: those that matter to Ray.
        rates: what they cost.
        balance: where balances are read.
        workspaces: where disk areas are read.
        accounting: how the site accounts for jobs.
        policy: what it asks of those who ask it.
        closing: when it closes; None: it is in service.
        firewall: where its connections to a VM come from.
    """

    name: str
    title: str
    login_hosts: tuple[LoginHost, ...] = ()
    host_keys: tuple[HostKey, ...] = ()
    certificate: Certificate | None = None
    timezone: str = "UTC"
    environment: tuple[str, ...] = ()
    work_dir: str = "rayslurm"
    temp_dir: str = "/tmp"  # noqa: S108 - on the compute node, where each job has or makes its own folder below it
    environment_source: Source | None = None
    python: str = "python3"
    ray_command: str = "ray"
    software_dir: str | None = None
    container_command: str = "apptainer exec"
    container_gpu_options: tuple[str, ...] | None = None
    partitions: tuple[Partition, ...] = ()
    rates: tuple[Rate, ...] = ()
    balance: Balance | None = None
    workspaces: Workspaces | None = None
    accounting: Accounting = Accounting()
    policy: Policy | None = None
    closing: Closing | None = None
    firewall: Firewall | None = None

    @property
    def login_host(self) -> str | None:
        """The first login host; None where the user must say."""
        return self.login_hosts[0].host if self.login_hosts else None

    def partition(self, name: str) -> Partition | None:
        """Returns what is known of a partition; None where nothing is."""
        return next((partition for partition in self.partitions if partition.name == name), None)

    def rate(self, partition: str) -> Rate | None:
        """Returns what a partition costs; None where that is unknown."""
        return next((rate for rate in self.rates if partition in rate.partitions), None)
