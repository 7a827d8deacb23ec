"""A busy installation to be monitored: two practice sites, `rayslurm serve` in a process of its own, an archive."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import paramiko
import yaml

from exporter.archive.bucket import Bucket
from exporter.archive_settings import ArchiveSettings
from exporter.cli.asking import ask
from exporter.config import Config, load_config
from exporter.practice.site import PROJECT, PracticeSite
from exporter.practice.slurm import USER
from exporter.practice.world import Course
from exporter.store.db import Store
from tests.ceph.rgw import Rgw
from tests.prometheus_server import wait_until

CLOCK_FACTOR = 60.0
"""How much faster the sites' clock runs: what rayslurm asks every half hour it asks twice a minute."""

BUCKET = "stack"
CERTIFIED = "roihu"
"""The site that is logged in to with a certificate."""

_FIRST_PORT = 10100
_PORTS_EACH = 100
_SHARES = 79
"""Ports below those that the kernel gives away, so that one that was given back is free when it is wanted again."""


@dataclass
class World:
    """The installation.

    Attributes:
        folder: where all of it lives.
        sites: the practice sites, which live in this process.
        config: what serve runs with.
        store: its store.
        rgw: the S3 service.
    """

    folder: Path
    sites: dict[str, PracticeSite]
    config: Config
    store: Store
    rgw: Rgw
    _serve: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """Where its metrics are."""
        return f"http://{self.config.listen}"

    @property
    def log(self) -> Path:
        """What serve says."""
        return self.folder / "serve.log"

    def serve(self) -> None:
        """Starts serve, and waits until it answers."""
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "exporter.cli.entry", "serve", "--config", str(self.folder / "rayslurm.yaml")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._serve = process

        def ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"serve ended:\n{self.log.read_text(errors='replace')[-3000:]}")
            return httpx.get(f"{self.url}/-/ready", trust_env=False).is_success

        wait_until(ready, "serve answers", 60)

    def kill_serve(self) -> None:
        """Ends serve as `kill -9` does."""
        assert self._serve is not None
        self._serve.kill()
        self._serve.wait()

    def end(self) -> None:
        """Ends serve."""
        if self._serve is None:
            return
        self._serve.terminate()
        try:
            self._serve.wait(20)
        except subprocess.TimeoutExpired:
            self._serve.kill()
            self._serve.wait()

    def let_in(self, site: str) -> None:
        """Has a site's stopped sshd listen again, as soon as its port is free."""

        def listening() -> bool:
            try:
                self.sites[site].ssh.start()
            except OSError:
                return False
            return True

        wait_until(listening, f"the sshd of {site} listens", 60)

    def page(self) -> str:
        """Returns /metrics as it is now."""
        return httpx.get(f"{self.url}/metrics", trust_env=False, timeout=30).raise_for_status().text

    def launch(self, site: str, name: str, course: Course | None, partition: str, **cluster: Any) -> str:
        """Launches a job by a request to serve, as the command line does; returns its id.

        Args:
            site: where.
            name: what it is called.
            course: how it is to go with it; None: as chance has it.
            partition: where at the site.
            **cluster: the spec's cluster, over a small one.
        """
        if course is not None:
            self.sites[site].world.courses[name] = course
        small = {"nodes": 1, "cpus_per_node": 4, "memory_per_node": "8G", "time": "15m", "partition": partition}
        spec = {"site": site, "name": name, "entrypoint": "python work.py", "cluster": {**small, **cluster}}
        if name.startswith("stay"):
            del spec["entrypoint"]
        outcome, _ = ask(
            self.config, self.store, "launch", site, {"spec": yaml.safe_dump(spec), "name": f"{name}.yaml"}
        )
        return str(outcome["job_id"])

    def track(self, site: str, name: str, course: Course) -> str:
        """Has a job followed that was submitted by hand, at the site and not by rayslurm; returns its id."""
        practice = self.sites[site].world
        practice.courses[name] = course
        folder = self.folder / f"{site}/home/{name}"
        folder.mkdir()
        job = practice.submit(
            name, PROJECT, "small", nodes=1, cpus=8, memory=16 << 30, gpus=0, limit=7200, folder=folder
        )
        ask(self.config, self.store, "track", site, {"job_id": str(job.job_id)})
        return str(job.job_id)

    def write_campaign(self, name: str, **keys: Any) -> None:
        """Writes a campaign's file, which serve finds within its half minute; the first time is 10 minutes ahead."""
        cluster = {"nodes": 1, "cpus_per_node": 8, "memory_per_node": "16G", "time": "15m", "partition": "small"}
        campaign = {
            "site": "lumi",
            "cluster": cluster,
            "entrypoint": "python work.py",
            "schedule": {"every": "10m"},
            "start": datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=10),
            **keys,
        }
        path = self.folder / f"campaigns/{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(yaml.safe_dump(campaign, sort_keys=False), encoding="utf-8")
        new.replace(path)

    def run_campaign(self, name: str, site: str = "lumi") -> list[dict[str, Any]]:
        """Runs a campaign now, as `rayslurm launch NAME` does; returns its jobs."""
        outcome, _ = ask(self.config, self.store, "run", site, {"campaign": name})
        jobs: list[dict[str, Any]] = outcome["jobs"]
        return jobs

    def certify(self, seconds: int) -> float:
        """Gives the certified site's key a new certificate by a real authority; returns when it ends, epoch seconds."""
        key, authority = self.folder / f"id_{CERTIFIED}", self.folder / "authority"
        _certify(key, authority, seconds)
        return float(datetime.now(UTC).timestamp() + seconds)


def _certify(key: Path, authority: Path, seconds: int) -> None:
    copy = key.with_name(f"{key.name}-new.pub")
    copy.write_bytes(key.with_name(f"{key.name}.pub").read_bytes())
    command = ["ssh-keygen", "-q", "-s", str(authority), "-I", USER, "-n", USER, "-V", f"-5m:+{seconds}s", str(copy)]
    subprocess.run(command, check=True)
    # The certificate of NAME-new.pub is NAME-new-cert.pub: moved in one step, so that nobody reads half of it.
    key.with_name(f"{key.name}-new-cert.pub").replace(key.with_name(f"{key.name}-cert.pub"))
    copy.unlink()


@contextmanager
def living_world(folder: Path) -> Iterator[World]:
    """Runs the sites, serve, and Ceph for the archive."""
    folder.mkdir(parents=True)
    keys = {name: _make_key(folder / f"id_{name}") for name in ("roihu", "lumi")}
    _make_key(folder / "authority")
    _certify(folder / f"id_{CERTIFIED}", folder / "authority", 24 * 3600)
    sites = {}
    for name, key in keys.items():
        (folder / name).mkdir()
        sites[name] = PracticeSite(name, folder / name, key)
    (folder / "known_hosts").write_text(
        "".join(f"{site.ssh.known_hosts_line}\n" for site in sites.values()), encoding="utf-8"
    )
    with _bucket(folder) as rgw:
        config = _configure(folder, sites, rgw)
        for site in sites.values():
            site.start()
        with Store(config.store_path) as store:
            world = World(folder, sites, config, store, rgw)
            try:
                world.serve()
                yield world
            finally:
                world.end()
                for site in sites.values():
                    site.stop()


def _make_key(path: Path) -> paramiko.PKey:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return paramiko.Ed25519Key.from_private_key_file(str(path))


@contextmanager
def _bucket(folder: Path) -> Iterator[Rgw]:
    """Runs Ceph with a bucket; it gets ready while all else starts."""
    (folder / "ceph").mkdir()
    credentials = folder / "credentials"
    credentials.touch(0o600)
    credentials.write_text("[default]\naws_access_key_id = AKTEST\naws_secret_access_key = SKTEST\n")
    rgw = Rgw(folder / "ceph")
    faults: list[BaseException] = []

    def begin() -> None:
        try:
            rgw.begin()
            Bucket(_archive(folder, rgw))._client.create_bucket(Bucket=BUCKET)
        except BaseException as error:  # noqa: BLE001 - told by whoever waits for it
            faults.append(error)
        over.wait()  # the gateway ends with the thread that started it

    over = threading.Event()
    thread = threading.Thread(target=begin, name="ceph")
    thread.start()
    try:
        wait_until(lambda: bool(faults) or rgw.ca_bundle.exists(), "Ceph's certificate is made")
        yield rgw
    finally:
        over.set()
        thread.join()
        rgw.end()
    if faults:
        raise faults[0]


def _archive(folder: Path, rgw: Rgw) -> ArchiveSettings:
    return ArchiveSettings(
        endpoint=rgw.endpoint, bucket=BUCKET, credentials_file=folder / "credentials", ca_bundle=rgw.ca_bundle
    )


def _configure(folder: Path, sites: Mapping[str, PracticeSite], rgw: Rgw) -> Config:
    first = next(iter(sites.values())).ssh.host_key
    # Of its own, so that tests that run at the same time don't find each other's Rays behind their tunnels.
    ports = _FIRST_PORT + os.getpid() % _SHARES * _PORTS_EACH
    written: dict[str, Any] = {
        "state_dir": str(folder / "state"),
        "listen": f"127.0.0.1:{ports + 99}",
        "sites": {
            name: {
                "project": PROJECT,
                "partition": {"roihu": "medium", "lumi": "small"}[name],
                "work_dir": "rayslurm",
                "temp_dir": "/tmp",
                "environment": [],
                "certificate": name == CERTIFIED,
                "practice_clock_factor": CLOCK_FACTOR,
                "ssh": {
                    "host": "127.0.0.1", "port": site.ssh.port, "user": USER, "key": str(folder / f"id_{name}"),
                    "agent": False, "known_hosts": str(folder / "known_hosts"),
                },
            }
            for name, site in sites.items()
        },
        "vm": {
            "host": "127.0.0.1",
            "user": USER,
            "identity_file": "id_vm",
            "host_keys": [f"{first.get_name()} {first.get_base64()}"],
            "dashboard_ports": f"{ports}-{ports + 39}",
            "metrics_ports": f"{ports + 40}-{ports + 98}",
        },
    }  # fmt: skip
    written["archive"] = _archive(folder, rgw).model_dump(
        mode="json", include={"endpoint", "bucket", "credentials_file", "ca_bundle"}
    )
    path = folder / "rayslurm.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    return load_config(path)
