"""From a spec to the files of a job's run folder. Pure but for reading the template."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import jinja2

from exporter.client.hostkeys import known_name
from exporter.client.transport import RemoteFile
from exporter.config import Config, Site, VmSettings
from exporter.data import data_path
from exporter.errors import ConfigError, RefusedError
from exporter.job_names import OUTPUT, SCRIPT, slurm_name
from exporter.launch.bring import WORK_FOLDER
from exporter.launch.environment import (
    CONTAINER_SCRIPT,
    container_values,
    container_words,
    ray_command,
    venv_of,
)
from exporter.launch.spec import Spec

_MIB = 1024 * 1024
_PLAN_VERSION = 1
_LOGIN_PROFILE = "/etc/profile"


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that makes a job out of a spec.

    Attributes:
        token: the job's identity.
        run_dir: its folder at the site, absolute.
        dashboard_port: the port of its dashboard on this machine; None without a tunnel.
        ray_auth_token: the secret that Ray's clients show; never logged.
        continuation: how many jobs of its chain came before.
        work_dir: where the entrypoint runs; below `run_dir` where it isn't absolute.
    """

    token: str
    run_dir: str
    dashboard_port: int | None
    ray_auth_token: str
    continuation: int = 0
    work_dir: str = WORK_FOLDER


def project_of(spec: Spec, site: Site) -> str:
    """Returns the project that pays.

    Raises:
        ConfigError: neither spec nor site names one.
    """
    project = spec.cluster.project or site.settings.project
    if project is None:
        raise ConfigError(
            f"no project to pay: write cluster.project in the spec, or sites.{site.name}.project in rayslurm.yaml"
        )
    return project


def partition_of(spec: Spec, site: Site) -> str:
    """Returns the partition.

    Raises:
        ConfigError: neither spec nor site names one.
    """
    partition = spec.cluster.partition or site.settings.partition
    if partition is None:
        raise ConfigError(
            f"no partition: write cluster.partition in the spec, or sites.{site.name}.partition in rayslurm.yaml"
        )
    return partition


def tunnel_ports(spec: Spec, config: Config) -> range:
    """Returns the ports on this machine that the job's dashboard tunnel may take; empty where it has none.

    Raises:
        ConfigError: a tunnel is wanted and the configuration doesn't say where this machine is.
        RefusedError: the tunnel may lead to a Ray without authentication, and others may have accounts here.
    """
    if not spec.ray.dashboard_tunnel:
        return range(0)
    if config.vm is None:
        raise ConfigError(
            "the job is to open a tunnel to this machine, but rayslurm.yaml doesn't say where it is; add vm: with "
            "host, user, identity_file and host_keys, or write ray.dashboard_tunnel: false in the spec"
        )
    if spec.ray.allow_unauthenticated_ray and config.vm.shared:
        raise RefusedError(
            "ray.allow_unauthenticated_ray: through the dashboard's tunnel whoever has an account on this machine can "
            f"run programs as you on {spec.site}. Write ray.dashboard_tunnel: false in the spec; where nobody else has "
            "an account here, vm.shared: false in rayslurm.yaml; or take a Ray that has tokens (2.52 and later) and "
            "leave the key out"
        )
    return config.vm.dashboard_ports


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_path("jobs", "templates")),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - a shell script; what goes in is checked line by line in Spec and Config
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render_script(spec: Spec, site: Site, launch: Launch) -> str:
    """Returns the batch script."""
    cluster = spec.cluster
    project = project_of(spec, site)
    return _template("ray-cluster.sbatch.j2").render(
        job_name=slurm_name(spec.name, launch.token),
        account=project,
        partition=partition_of(spec, site),
        nodes=cluster.nodes,
        cpus_per_node=cluster.cpus_per_node,
        gpus_per_node=cluster.gpus_per_node,
        gres=cluster.gres,
        memory_mib_per_node=cluster.memory_per_node // _MIB,
        time_limit=slurm_time(cluster.time),
        run_dir=launch.run_dir,
        token=launch.token,
        output=OUTPUT.format(job_id="%j"),
        warn_seconds=spec.warn_seconds,
        requeue=False,
        exclusive=cluster.exclusive,
        environment=(*site.environment, *spec.environment),
        login_profile=_LOGIN_PROFILE,
        venv=None if spec.container else venv_of(spec, site, project),
        extra_directives=spec.directives,
        python=site.python,
    )


def render_container(spec: Spec, site: Site, launch: Launch) -> str:
    """Returns the script that runs a command inside the container.

    Raises:
        ConfigError: it isn't known how a container sees the site's GPUs.
    """
    values = container_values(spec, site, project_of(spec, site), launch.run_dir)
    return _template("container.sh.j2").render(values)


def render_plan(spec: Spec, site: Site, vm: VmSettings | None, launch: Launch) -> dict[str, Any]:
    """Returns what the job's supervisor is told, `plan.json`; its fields are described in jobs/ray_job.py."""
    cluster = spec.cluster
    tunnels = []
    if launch.dashboard_port is not None:
        tunnels.append(
            {"name": "dashboard", "vm_port": launch.dashboard_port, "bind": "127.0.0.1", "target": "dashboard"}
        )
    return {
        "version": _PLAN_VERSION,
        "token": launch.token,
        "job_name": spec.name,
        "nodes": cluster.nodes,
        "cpus_per_node": cluster.cpus_per_node,
        "gpus_per_node": cluster.gpus_per_node,
        "memory_bytes_per_node": cluster.memory_per_node,
        "object_store_bytes_per_node": cluster.object_store_per_node,
        "ray": {
            "command": ray_command(spec, site, project_of(spec, site), launch.run_dir),
            "temp_dir": site.temp_dir,
            "allow_unauthenticated": spec.ray.allow_unauthenticated_ray,
            "auth_token_file": "ray_auth_token",
            "ready_timeout_seconds": spec.ray.ready_timeout,
            "env": spec.ray.env,
        },
        "container": container_words(spec, launch.run_dir),
        "entrypoint": spec.entrypoint,
        "grace_seconds": spec.grace_seconds,
        "work_dir": launch.work_dir,
        "results": list(spec.results),
        "continuation": launch.continuation,
        "vm": {
            "host": vm.host,
            "port": vm.port,
            "user": vm.user,
            "identity_file": vm.identity_file,
            "known_hosts": "known_hosts",
        }
        if vm is not None and tunnels
        else None,
        "tunnels": tunnels,
    }


def run_folder_files(spec: Spec, site: Site, vm: VmSettings | None, launch: Launch) -> dict[str, RemoteFile]:
    """Returns the files of the run folder by name."""
    plan = json.dumps(render_plan(spec, site, vm, launch), indent=1) + "\n"
    files = {
        SCRIPT: RemoteFile(render_script(spec, site, launch).encode()),
        "ray_job.py": RemoteFile(data_path("jobs", "ray_job.py").read_bytes()),
        "plan.json": RemoteFile(plan.encode(), 0o600),  # ray.env may hold keys
        "ray_auth_token": RemoteFile(launch.ray_auth_token.encode(), 0o600),
    }
    if spec.container is not None:
        files[CONTAINER_SCRIPT] = RemoteFile(render_container(spec, site, launch).encode())
    if vm is not None and launch.dashboard_port is not None:
        name = known_name(vm.host, vm.port)
        files["known_hosts"] = RemoteFile("".join(f"{name} {line}\n" for line in vm.host_keys).encode())
    return files


def slurm_time(seconds: float) -> str:
    """Returns a length of time as Slurm writes it, `D-HH:MM:SS`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02}:{minute:02}:{second:02}"
