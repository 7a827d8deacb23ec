"""From a spec to the files of a job's run folder. Pure but for reading the template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from exporter.client.hostkeys import known_name
from exporter.client.transport import RemoteFile
from exporter.config import Config, Site
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
from exporter.vm_settings import VmSettings

_MIB = 1024 * 1024
_PLAN_VERSION = 1
TUNNEL_KEY = "tunnel_key"
"""The private key of the job's tunnels in its run folder."""

_LOGIN_PROFILE = "/etc/profile"


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that makes a job out of a spec.

    Attributes:
        token: the job's identity.
        run_dir: its folder at the site, absolute.
        ports: the port of each of its tunnels on this machine.
        ray_auth_token: the secret that Ray's clients show; never logged.
        continuation: how many jobs of its chain came before.
        work_dir: where the entrypoint runs; below `run_dir` where it isn't absolute.
        tunnel_key: the private key that opens its tunnels; None where it takes one that is at the site.
    """

    token: str
    run_dir: str
    ports: Mapping[str, int]
    ray_auth_token: str
    continuation: int = 0
    work_dir: str = WORK_FOLDER
    tunnel_key: bytes | None = None


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


def wanted_tunnels(spec: Spec, config: Config) -> dict[str, range]:
    """Returns the tunnels that the job is to open, each with the ports on this machine that it may take.

    They are called `dashboard`, `client`, `serve` and, one a node, `metrics-N`.

    Raises:
        ConfigError: one is wanted and the configuration doesn't say where this machine is.
        RefusedError: one may lead to a Ray without authentication, and others may have accounts here.
    """
    ray, vm = spec.ray, config.vm
    to_people = ray.dashboard_tunnel or ray.client_tunnel or bool(ray.serve_tunnel)
    if vm is None and to_people:
        raise ConfigError(
            "the job is to open a tunnel to this machine, but rayslurm.yaml doesn't say where it is; add vm: with "
            "host, user and host_keys, or write ray.dashboard_tunnel: false in the spec"
        )
    if vm is None:
        return {}  # there is nobody to send metrics to
    if ray.allow_unauthenticated_ray and vm.shared and (ray.dashboard_tunnel or ray.client_tunnel):
        raise RefusedError(
            "ray.allow_unauthenticated_ray: through the dashboard's tunnel, or the client's, whoever has an account on "
            f"this machine can run programs as you on {spec.site}. Write ray.dashboard_tunnel: false in the spec; "
            "where nobody else has an account here, vm.shared: false in rayslurm.yaml; or take a Ray that has tokens "
            "(2.52 and later) and leave the key out"
        )
    nodes = range(spec.cluster.nodes) if ray.metrics_tunnels else ()
    wanted = {
        "dashboard": vm.dashboard_ports if ray.dashboard_tunnel else None,
        "client": vm.client_ports if ray.client_tunnel else None,
        "serve": vm.serve_ports if ray.serve_tunnel else None,
        **{f"metrics-{number}": vm.metrics_ports for number in nodes},
    }
    return {name: ports for name, ports in wanted.items() if ports is not None}


def _target(tunnel: str, spec: Spec) -> str:
    """Returns where a tunnel leads, as the supervisor has it."""
    return f"127.0.0.1:{spec.ray.serve_tunnel}" if tunnel == "serve" else tunnel.replace("-", ":")


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
    tunnels = [
        {"name": name, "vm_port": port, "bind": "127.0.0.1", "target": _target(name, spec)}
        for name, port in launch.ports.items()
    ]
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
            "identity_file": vm.identity_file or TUNNEL_KEY,
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
    if launch.tunnel_key is not None:
        files[TUNNEL_KEY] = RemoteFile(launch.tunnel_key, 0o600)
    if vm is not None and launch.ports:
        name = known_name(vm.host, vm.port)
        files["known_hosts"] = RemoteFile("".join(f"{name} {line}\n" for line in vm.host_keys).encode())
    return files


def slurm_time(seconds: float) -> str:
    """Returns a length of time as Slurm writes it, `D-HH:MM:SS`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02}:{minute:02}:{second:02}"
