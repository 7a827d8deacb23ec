"""The spec: what a person wants to run, as YAML with `site` and `cluster`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from exporter.budgets import Units
from exporter.errors import ConfigError
from exporter.launch.bring import BringItem, BringLimits, Inside
from exporter.sites.overrides import Words
from exporter.store.conditions import Condition
from exporter.yamlfile import JOURNAL, Duration, FileModel, Name, OneLine, Port, Size, load_model

Memory = Annotated[Size, Field(ge=64 * 1024**2)]
"""An amount of memory that Ray can do with."""

JobName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,47}$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,:/+-]*$")]

_USUAL_SECONDS = 1800.0
_BEYOND_READY_SECONDS = 600.0

_PLACE = r"/(?:[A-Za-z0-9._+@/-]|\{project\}|\{user\})+"
SitePath = Annotated[str, Field(pattern=rf"^{_PLACE}$")]
"""An absolute path at the site without anything that a shell takes for more; {project} and {user} are filled in."""


class Cluster(FileModel):
    """The nodes of a Ray cluster and how long they are held.

    Attributes:
        nodes: the head among them.
        cpus_per_node: CPUs that the job gets, and Ray is told of, on each.
        gpus_per_node: GPUs likewise.
        gres: the site's words for the GPUs, such as `gpu:a100:4`, where `--gpus-per-node` isn't what it wants.
        memory_per_node: bytes.
        object_store_per_node: bytes of the memory for Ray's object store; Ray's share where left out.
        time: seconds that the job may take.
        exclusive: whether nobody else may be on the nodes.
    """

    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    cpus_per_node: Annotated[int, Field(ge=1, le=1024)]
    gpus_per_node: Annotated[int, Field(ge=0, le=16)] = 0
    gres: Word | None = None
    memory_per_node: Memory
    object_store_per_node: Memory | None = None
    time: Annotated[Duration, Field(ge=60, le=30 * 86400)]
    partition: Word | None = None
    project: Word | None = None
    exclusive: bool = False

    @model_validator(mode="after")
    def _store_fits(self) -> Self:
        if self.object_store_per_node is not None and self.object_store_per_node >= self.memory_per_node:
            raise ValueError("object_store_per_node: is part of memory_per_node, so it must be less")
        return self


class Container(FileModel):
    """Where Ray and the entrypoint run instead of on the node itself.

    Attributes:
        image: a file or folder at the site; left out where `command` knows it.
        command: the words that run something in a container, before their options; the site's where left out.
        bind: what is seen inside besides what always is, `OUTSIDE` or `OUTSIDE:INSIDE`.
        options: further options of `command`, a word each.
    """

    image: SitePath | None = None
    command: Words | None = None
    bind: tuple[Annotated[str, Field(pattern=rf"^{_PLACE}(:{_PLACE}(:r[ow])?)?$")], ...] = ()
    options: tuple[Annotated[OneLine, Field(min_length=1)], ...] = ()

    @model_validator(mode="after")
    def _image_or_command(self) -> Self:
        if self.image is None and self.command is None:
            raise ValueError(
                "image: is missing; write its path at the site, or as command a wrapper that knows its image"
            )
        return self


class RaySettings(FileModel):
    """What the job does with Ray.

    Attributes:
        ready_timeout: seconds until every node must be in the cluster.
        allow_unauthenticated: run a Ray that is too old for token authentication, open to whoever reaches its ports.
        dashboard_tunnel: open a reverse tunnel to this machine for the dashboard.
        client_tunnel: the same for Ray's clients (`ray://`).
        metrics_tunnels: the same for Ray's own metrics, one a node.
        serve_tunnel: the same for Ray Serve: its port on the head's node.
        env: variables for Ray and the entrypoint.
    """

    ready_timeout: Duration = 300
    allow_unauthenticated_ray: bool = False
    dashboard_tunnel: bool = True
    client_tunnel: bool = False
    metrics_tunnels: bool = True
    serve_tunnel: Port | None = None
    env: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], OneLine] = Field(default_factory=dict)


class Continuation(FileModel):
    """A job that meets its time limit is followed by another one that goes on in the same working folder.

    Attributes:
        times: how many may follow the first.
        total_units: what all of them may cost together, in the unit that the partition is paid in: where another one
            might go over that, none follows.
    """

    times: Annotated[int, Field(ge=1, le=1000)]
    total_units: Annotated[float, Field(gt=0)] | None = None


class Consequence(FileModel):
    """What follows when a job goes on without being of use; written as a word where its time is the usual one.

    Attributes:
        action: say so, or cancel the job.
        after: for how many seconds without a break it must have been seen; the usual time where left out.
    """

    action: Literal["report", "cancel"] = "report"
    after: Annotated[Duration, Field(ge=10)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _word(cls, written: object) -> object:
        return {"action": written} if isinstance(written, str) else written


class Spec(FileModel):
    """A Ray cluster as a Slurm job.

    Attributes:
        site: the site's name in rayslurm.yaml.
        name: what the job is called.
        environment: shell lines after the site's own, such as `module load python-pytorch`.
        venv: a virtual environment at the site for Ray and the entrypoint; inside the container if there is one.
        container: what they run in.
        entrypoint: a shell command that runs as driver when the cluster is ready; its exit code becomes the job's.
            Left out: the cluster stays up for its time.
        warn_before_end: seconds before the time limit at which the job begins to end by itself; `warn_seconds`.
        grace: seconds that the entrypoint may take to end, and to save its state, after TERM; `grace_seconds`.
        continue_on_timeout: what follows a job that met its limit; nothing where left out.
        on_tunnel_loss: what follows when Ray was ready and its dashboard isn't reached any more.
        on_idle: what follows when no CPU and no GPU of Ray is in use.
        on_never_ready: what follows when the job runs and its Ray isn't ready.
        max_units: what the job may cost, in the unit that its partition is paid in; refused where it may cost more.
        on_max_units: what follows when it runs and has cost more all the same: its limit was raised, or it ran again.
        directives: further `#SBATCH` options, such as `--constraint=...`.
        bring: files and folders of this machine that are copied into the working folder.
        bring_limits: how much they may be.
        results: patterns of the files in the working folder that the job makes, `**` for any folders.
    """

    site: Name
    name: JobName = "ray"
    cluster: Cluster
    environment: tuple[OneLine, ...] = ()
    venv: SitePath | None = None
    container: Container | None = None
    entrypoint: OneLine | None = None
    ray: RaySettings = RaySettings()
    warn_before_end: Annotated[Duration, Field(ge=10)] | None = None
    grace: Annotated[Duration, Field(ge=0)] | None = None
    continue_on_timeout: Continuation | None = None
    on_tunnel_loss: Consequence = Consequence()
    on_idle: Consequence = Consequence()
    on_never_ready: Consequence = Consequence()
    max_units: Units | None = None
    on_max_units: Literal["report", "cancel"] = "report"
    directives: tuple[Annotated[str, Field(pattern=r"^--[a-z][a-z-]*(=[^\x00-\x1f\x7f]+)?$")], ...] = ()
    bring: Annotated[tuple[BringItem, ...], Field(max_length=100)] = ()
    bring_limits: BringLimits = BringLimits()
    results: Annotated[tuple[Inside, ...], Field(max_length=100)] = ()

    @model_validator(mode="after")
    def _can_be_seen(self) -> Self:
        for name in ("on_tunnel_loss", "on_idle"):
            if getattr(self, name).action == "cancel" and not self.ray.dashboard_tunnel:
                raise ValueError(f"{name}: is only seen through the dashboard's tunnel; set ray.dashboard_tunnel: true")
        return self

    @model_validator(mode="after")
    def _ours(self) -> Self:
        for directive in self.directives:
            option = directive.partition("=")[0]
            if taken := [name for name in sorted(_OURS) if name.startswith(option)]:  # sbatch takes abbreviations
                raise ValueError(
                    f"directives: {taken[0]} is rayslurm's own business, or would keep it from following the job; "
                    "remove it"
                )
        if self.warn_before_end is not None and self.warn_before_end > self.cluster.time / 2:
            raise ValueError("warn_before_end: leaves the job less than half of cluster.time; make it shorter")
        if self.grace is not None and self.grace > self.warn_seconds:
            raise ValueError(
                f"grace: is longer than the {self.warn_seconds} s between the warning and the limit; make it shorter, "
                "or warn_before_end longer"
            )
        return self

    def at(self, folder: Path) -> Self:
        """Returns the same spec with the paths of this machine in full.

        Args:
            folder: the folder of its file, where relative paths start; absolute.
        """
        return self.model_copy(update={"bring": tuple(item.at(folder) for item in self.bring)})

    def consequence(self, condition: Condition) -> tuple[Literal["report", "cancel"], float]:
        """Returns what follows when a condition holds, and after how many seconds.

        A Ray that doesn't become ready is first left to its own `ray.ready_timeout`.
        """
        named = {"tunnel_down": self.on_tunnel_loss, "idle": self.on_idle, "never_ready": self.on_never_ready}
        usual = self.ray.ready_timeout + _BEYOND_READY_SECONDS if condition == "never_ready" else _USUAL_SECONDS
        return named[condition].action, named[condition].after or usual

    @property
    def warn_seconds(self) -> int:
        """Seconds before the limit at which the job is warned: unless said a tenth of its time, at most two minutes."""
        return int(self.warn_before_end or min(120.0, self.cluster.time / 10))

    @property
    def grace_seconds(self) -> float:
        """Seconds between TERM and KILL for the entrypoint: unless said 20, and at most half of the warning's time."""
        return min(20.0, self.warn_seconds / 2) if self.grace is None else self.grace


_OURS = frozenset(
    {
        "--account", "--array", "--chdir", "--clusters", "--cpus-per-task", "--error", "--exclusive", "--gid",
        "--gpus-per-node", "--gres", "--job-name", "--mem", "--no-requeue", "--nodes", "--ntasks", "--ntasks-per-node",
        "--output", "--parsable", "--partition", "--requeue", "--signal", "--test-only", "--time", "--uid", "--wait",
        "--wrap",
    }
)  # fmt: skip
"""What the spec's other keys say, and what would make it another job than the one that is followed."""


def spec_of_journal(kept: Mapping[str, Any]) -> Spec:
    """Returns the spec of an earlier launch, with the project and the partition that it had.

    Args:
        kept: the spec as `submissions.spec` has it.

    Raises:
        ConfigError: it is no spec any more.
    """
    try:
        cluster = {**kept["cluster"], "project": kept["project"], "partition": kept["partition"]}
        written = {name: value for name, value in kept.items() if name in Spec.model_fields}
        return Spec.model_validate({**written, "cluster": cluster}, context=JOURNAL)
    except (KeyError, TypeError, ValidationError) as error:
        raise ConfigError(f"the spec of the earlier job can't be used any more: {error}") from None


def load_spec(path: Path) -> Spec:
    """Reads a spec; what it brings along is relative to its folder.

    Raises:
        ConfigError: with every fault, each with file, line, key and cure.
    """
    return load_model(path, Spec).at(path.absolute().parent)
