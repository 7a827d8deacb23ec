"""What Ray runs in: the site's modules, a venv, a container, or a venv inside a container. Pure."""

from __future__ import annotations

import re
import shlex
from typing import Any

from exporter.config import Site
from exporter.errors import ConfigError, RefusedError
from exporter.launch.spec import Spec

CONTAINER_SCRIPT = "container.sh"
"""The name of the script in the run folder that runs a command inside the container."""

_PASSED = (
    *("RAY_*", "RAYSLURM_*", "SLURM_*", "*_VISIBLE_DEVICES"),
    *("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT", "TMPDIR"),
)
"""Variables of the job, as the shell's patterns, that are the same inside the container as outside."""

_HOME = re.compile(r"/(home|users)/")
_SHOWN_ANYWAY = re.compile(r"/(var/)?tmp(/|$)")


def check_environment(spec: Spec, site: Site) -> None:
    """Holds what Ray is to run in against what is known of the site.

    Raises:
        RefusedError: the venv lies in the home, and the site wants venvs elsewhere; says where.
        ConfigError: it isn't known how a container sees the site's GPUs.
    """
    wanted = site.profile.software_dir
    if spec.venv and wanted and _HOME.match(spec.venv) and not f"{spec.venv}/".startswith(f"{wanted}/"):
        raise RefusedError(
            f"{site.name}: the venv {spec.venv} lies in the home; this site wants venvs below {wanted} "
            f"({site.profile.environment_source}), so make it there. If it wants them elsewhere, write "
            f"sites.{site.name}.software_dir in rayslurm.yaml"
        )
    if spec.container is not None:
        _options(spec, site)


def venv_of(spec: Spec, site: Site, project: str) -> str | None:
    """Returns the path of the venv at the site; None where there is none."""
    return None if spec.venv is None else site.filled(spec.venv, project)


def ray_command(spec: Spec, site: Site, project: str, run_dir: str) -> str:
    """Returns the words that call Ray on a node.

    In a venv its own interpreter calls it, since Ray's workers get the interpreter that Ray was called with: a `ray`
    from below the venv would give them one that doesn't see what is installed there.
    """
    venv = venv_of(spec, site, project)
    command = f"{venv}/bin/python -m ray.scripts.scripts" if venv else "ray" if spec.container else site.ray_command
    words = container_words(spec, run_dir)
    return f"{words} {command}" if words else command


def container_words(spec: Spec, run_dir: str) -> str | None:
    """Returns the words before a command that run it inside the container; None where there is none."""
    return None if spec.container is None else f"bash {shlex.quote(f'{run_dir}/{CONTAINER_SCRIPT}')}"


def container_values(spec: Spec, site: Site, project: str, run_dir: str) -> dict[str, Any]:
    """Returns what the template of the container's script wants to know.

    Raises:
        ConfigError: it isn't known how a container sees the site's GPUs.
    """
    container = spec.container
    assert container is not None  # noqa: S101 - only called where there is one
    command = container.command or site.container_command
    venv = venv_of(spec, site, project)
    # Run folders lie side by side: a job that follows another works in the other's.
    shown = [run_dir.rpartition("/")[0] or "/"]
    shown += [] if _SHOWN_ANYWAY.match(site.temp_dir) else [site.temp_dir]
    return {
        "program": command.split()[0],
        "command": command,
        "options": [shlex.quote(word) for word in _options(spec, site)],
        "binds": [site.filled(bind, project) for bind in container.bind],
        "shown": shown,
        "image": None if container.image is None else site.filled(container.image, project),
        "venv": venv,
        "passed": [*_PASSED, *sorted(spec.ray.env)],
    }


def _options(spec: Spec, site: Site) -> tuple[str, ...]:
    """Returns the options of the container's command, with those that show it the GPUs where the job has any."""
    assert spec.container is not None  # noqa: S101 - only called where there is one
    options = spec.container.options
    if not spec.cluster.gpus_per_node:
        return options
    for_gpus = site.profile.container_gpu_options
    if for_gpus is None and not options:
        raise ConfigError(
            f"container.options: it isn't known whose GPUs {site.name} has, so neither is the option that shows them "
            f"inside; write [--nv] for NVIDIA or [--rocm] for AMD, or sites.{site.name}.container_gpu_options in "
            "rayslurm.yaml ([] where none is needed)"
        )
    return (*(option for option in for_gpus or () if option not in options), *options)
