"""What a site file says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SiteProfile:
    """The facts about a site that hold for everybody who works there; a user overrides any of them in rayslurm.yaml.

    Attributes:
        name: as written in rayslurm.yaml.
        title: for people.
        login_host: where to log in; None where the user must say.
        timezone: IANA name of the zone that the site's local times are in.
        environment: shell lines that a job needs before anything else.
        work_dir: where run folders go; `{project}` and `{user}` are filled in. Relative to the home where not absolute.
        temp_dir: node-local, short path for Ray's session.
        python: the interpreter that starts the job's supervisor.
        ray_command: how `ray` is called.
    """

    name: str
    title: str
    login_host: str | None = None
    timezone: str = "UTC"
    environment: tuple[str, ...] = ()
    work_dir: str = "rayslurm"
    temp_dir: str = "/tmp"  # noqa: S108 - on the compute node, where each job has or makes its own folder below it
    python: str = "python3"
    ray_command: str = "ray"
