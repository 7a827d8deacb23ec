"""`rayslurm` on the lab's cloud VM: its configuration, its commands, a running `serve` and what it shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.lab.lab import COMPUTE, Completed, Lab
from tests.prometheus_server import free_port

RAYSLURM = str(Path(sys.executable).parent / "rayslurm")
SITE = "lab"

Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


@dataclass(frozen=True)
class Rayslurm:
    """A configuration of rayslurm for the lab, and its commands.

    Attributes:
        folder: where configuration and state are.
        port: where `serve` listens.
        extra: environment variables of its own.
    """

    folder: Path
    port: int
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def run(self, *arguments: str, check: bool = True, stdin: str = "", cwd: Path | None = None) -> Completed:
        """Runs a command as a person would."""
        done = subprocess.run(
            [RAYSLURM, *arguments], env=self._environment(), input=stdin, capture_output=True, text=True,
            timeout=120, check=False, cwd=cwd,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise RuntimeError(f"rayslurm {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def json(self, *arguments: str) -> Any:
        """Runs a command with --json and returns what it printed."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def start(self) -> subprocess.Popen[bytes]:
        """Starts `serve`; its log is serve.log in the folder."""
        with (self.folder / "serve.log").open("ab") as log:
            return subprocess.Popen([RAYSLURM, "serve"], env=self._environment(), stdout=log, stderr=log)

    @contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """Runs `serve` meanwhile."""
        process = self.start()
        try:
            self.await_ready(process)
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"serve did not end:\n{self.log()}") from None

    def log(self) -> str:
        return (self.folder / "serve.log").read_text(errors="replace")

    def page(self) -> str:
        return httpx.get(f"{self.url}/metrics", trust_env=False, timeout=10).raise_for_status().text

    def samples(self) -> Samples:
        """What /metrics shows: by name, by labels."""
        found: Samples = {}
        for family in text_string_to_metric_families(self.page()):
            for sample in family.samples:
                found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return found

    def value(self, name: str, /, **labels: str) -> float | None:
        """Returns the one sample of a name that has these labels; None where there is none."""
        wanted = set(labels.items())
        values = [value for own, value in self.samples().get(f"rayslurm_{name}", {}).items() if wanted <= own]
        assert len(values) <= 1, f"{name} {labels}: {values}"
        return values[0] if values else None

    def states(self) -> dict[str, str]:
        """Returns the state of each job on /metrics."""
        shown = self.samples().get("rayslurm_job_state", {})
        assert set(shown.values()) <= {1.0}
        pairs = [dict(labels) for labels in shown]
        states = {pair["job_id"]: pair["state"] for pair in pairs}
        assert len(states) == len(pairs), "a job has one state"
        return states

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, "RAYSLURM_CONFIG": str(self.folder / "rayslurm.yaml"), **self.extra}

    def await_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Waits until `serve` answers."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            assert process.poll() is None, f"serve ended:\n{self.log()}"
            try:
                if httpx.get(f"{self.url}/-/ready", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"serve is not ready:\n{self.log()}")


@contextmanager
def own_site(lab: Lab) -> Iterator[None]:
    """Gives a site without other jobs, and leaves one: none runs on, and every node has power."""
    _make_usual(lab)
    try:
        yield
    finally:
        _make_usual(lab)


def _make_usual(lab: Lab) -> None:
    for node in COMPUTE:
        if not lab.fact(f"PID_{node.upper()}"):
            lab.start_node(node)
    lab.sh("scancel --me", check=True)
    lab.wait(lambda: not lab.sh("squeue --me -h", check=True).stdout.strip(), 60, "an empty queue")


def configure(lab: Lab, folder: Path, *, ray: Path | None = None, **site: Any) -> Rayslurm:
    """Writes a configuration for the lab, on whose clock an hour is a minute unless `site` says otherwise.

    Args:
        lab: the lab.
        folder: where it goes.
        ray: the venv with Ray on the nodes.
        **site: keys of the site that differ; `ssh` is joined with the usual one.
    """
    return _write(lab, folder, {SITE: _site(lab, "login", ray, {"partition": "test", **site})})


_PLAYED: dict[str, dict[str, Any]] = {
    "roihu": {"certificate": False},
    "lumi": {},
    "mahti": {"closed": False},
    "puhti": {"closed": False},
    SITE: {},
}


def configure_sites(
    lab: Lab, folder: Path, sites: Mapping[str, Mapping[str, Any]], *, ray: Path | None = None
) -> Rayslurm:
    """Writes a configuration for sites that the lab's login node plays; each has its own site file.

    Args:
        lab: the lab.
        folder: where it goes.
        sites: of `roihu`, `lumi`, `mahti`, `puhti` and `lab`, which plays nobody, with the keys that differ.
        ray: the venv with Ray on the nodes.
    """
    usual = {"environment": [], "work_dir": "rayslurm", "temp_dir": "/tmp"}
    return _write(
        lab,
        folder,
        {
            name: _site(lab, "login" if name == SITE else name, ray, {**usual, **_PLAYED[name], **keys})
            for name, keys in sites.items()
        },
    )


def _site(lab: Lab, address: str, ray: Path | None, keys: dict[str, Any]) -> dict[str, Any]:
    ssh = {
        "host": lab.address(address),
        "user": "researcher",
        "key": str(lab.client_key),
        "known_hosts": str(lab.known_hosts),
        "connect_deadline": "5s",
        "command_deadline": "10s",
    } | keys.pop("ssh", {})
    return {
        "project": lab.fact("PROJECT"),
        "practice_clock_factor": 60,
        "ssh": ssh,
        **({"ray_command": f"{ray}/bin/ray"} if ray else {}),
        **keys,
    }


def _write(lab: Lab, folder: Path, sites: dict[str, dict[str, Any]]) -> Rayslurm:
    host_key = next(
        " ".join(line.split()[1:3]) for line in lab.known_hosts.read_text().splitlines() if line.startswith("cloud")
    )
    rayslurm = Rayslurm(folder, free_port())
    config = {
        "state_dir": str(rayslurm.state_dir),
        "listen": f"127.0.0.1:{rayslurm.port}",
        "sites": sites,
        "vm": {
            "host": lab.address("cloud"),
            "user": lab.fact("USER_CLOUD"),
            "authorized_keys": str(lab.cloud_home / ".ssh/authorized_keys"),
            "host_keys": [host_key],
        },
    }
    (folder / "rayslurm.yaml").write_text(yaml.safe_dump(config))
    return rayslurm
