"""What a launch sends: as it would be now, as it is kept of each launch, and how two of them differ. Pure."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from exporter.client.transport import RemoteFile
from exporter.config import Config
from exporter.job_names import SCRIPT
from exporter.launch.render import TUNNEL_KEY, Launch, project_of, run_folder_files, wanted_tunnels
from exporter.launch.spec import Spec

TOKEN = "TOKEN"  # noqa: S105 - stands for a job's token, which isn't known before it is launched
PORT = "PORT"
FOLDER = "RUN"

_SECRET = frozenset({"ray_auth_token", TUNNEL_KEY})
"""Files that never leave the run folder and this machine's own copy."""

_PLAN = "plan.json"

_BY_DIGEST = frozenset({"ray_job.py"})
"""Files that come with rayslurm: their digest says which they are."""


@dataclass(frozen=True, slots=True)
class Package:
    """What a launch would send.

    Attributes:
        folder: where it would go; relative to the home where not absolute. `TOKEN` stands for the job's token.
        command: what would be run there.
        files: what would be written, by name.
        tunnels: the ports that each tunnel may take; such stand in the files.
    """

    folder: str
    command: str
    files: Mapping[str, RemoteFile]
    tunnels: Mapping[str, range]


def package(spec: Spec, config: Config) -> Package:
    """Returns what launching a spec would send.

    Raises:
        ConfigError: the spec or the configuration lacks something.
    """
    site = config.site(spec.site)
    folder = site.run_folder(project_of(spec, site), f"{spec.name}-{TOKEN}")
    tunnels = wanted_tunnels(spec, config)
    first: dict[str, int] = {}
    for tunnel, ports in tunnels.items():
        first[tunnel] = next((port for port in ports if port not in first.values()), ports[0])
    own_key = bool(tunnels) and config.vm is not None and config.vm.identity_file is None
    launch = Launch(TOKEN, folder, first, "", tunnel_key=b"" if own_key else None)
    return Package(folder, f"sbatch --parsable {SCRIPT}", run_folder_files(spec, site, config.vm, launch), tunnels)


def kept(files: Mapping[str, RemoteFile]) -> dict[str, str]:
    """Returns what is kept of files that are sent: their texts by name, without secrets.

    The values of `ray.env` may be keys, so the first digits of their digests stand for them.
    """
    return {name: _kept(name, file.content) for name, file in files.items() if name not in _SECRET}


def _kept(name: str, content: bytes) -> str:
    if name in _BY_DIGEST:
        return f"sha256:{hashlib.sha256(content).hexdigest()}\n"
    if name == _PLAN:
        plan = json.loads(content)
        env = plan["ray"]["env"]
        env.update({key: f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:8]}" for key, value in env.items()})
        return json.dumps(plan, indent=1) + "\n"
    return content.decode()


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Returns how files differ, as lines of a unified diff; empty where they don't."""
    lines: list[str] = []
    for name in sorted({*before, *after}):
        lines += difflib.unified_diff(
            before.get(name, "").splitlines(),
            after.get(name, "").splitlines(),
            f"sent/{name}" if name in before else "/dev/null",
            f"now/{name}" if name in after else "/dev/null",
            lineterm="",
        )
    return lines


def alike(files: Mapping[str, str], *, token: str, run_dir: str) -> dict[str, str]:
    """Returns files without what differs from launch to launch: token, run folder and the ports of tunnels."""
    return {
        name: _VM_PORT.sub(PORT, text.replace(run_dir, FOLDER).replace(token, TOKEN)) for name, text in files.items()
    }


_VM_PORT = re.compile(r'(?<="vm_port": )\d+')
