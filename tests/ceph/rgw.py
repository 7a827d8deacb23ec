"""A real S3 service for tests: Ceph's RGW over TLS, with users that can be made, suspended and removed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.prometheus_server import free_port

SERVER = Path(__file__).with_name("server")
PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")


def why_not() -> str | None:
    """Why it cannot run here, or None where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed" if missing else None


@dataclass
class Rgw:
    """A running service.

    Attributes:
        folder: where it lives.
    """

    folder: Path
    _ceph: subprocess.Popen[str] = field(init=False)
    _gateway: subprocess.Popen[bytes] | None = field(default=None, init=False)
    port: int = field(default_factory=free_port)

    def begin(self) -> None:
        """Starts everything."""
        with (self.folder / "server.err").open("wb") as errors:
            self._ceph = subprocess.Popen(
                [str(SERVER), str(self.folder), str(free_port()), str(self.port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._ceph.stdout is not None
        said = self._ceph.stdout.readline()
        assert said.strip() == "ready", (self.folder / "server.err").read_text()
        self.start()
        self.user("test", "AKTEST", "SKTEST")

    def start(self) -> None:
        """Starts the gateway, which ends with this process, and waits until it answers."""
        with (self.folder / "log/rgw.out").open("ab") as log:
            self._gateway = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "radosgw", "-n", "client.rgw", "-f"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + 90
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._gateway.poll() is None, (self.folder / "log/rgw.out").read_text()[-2000:]
            time.sleep(0.1)
        raise TimeoutError("radosgw did not answer")

    def kill(self) -> None:
        """Ends the gateway at once."""
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway.wait()
            self._gateway = None

    def end(self) -> None:
        """Ends everything."""
        self.kill()
        assert self._ceph.stdin is not None
        self._ceph.stdin.close()
        self._ceph.wait(30)
        assert self._ceph.stdout is not None
        self._ceph.stdout.close()

    def user(self, name: str, key: str, secret: str) -> None:
        self.admin("user", "create", "--uid", name, "--display-name", name, "--access-key", key, "--secret-key", secret)

    def admin(self, *words: str) -> Any:
        done = subprocess.run(
            ["radosgw-admin", "-n", "client.rgw", *words], env=self._environment, capture_output=True, text=True,
            check=True, timeout=60,
        )  # fmt: skip
        return json.loads(done.stdout) if done.stdout.strip().startswith(("{", "[")) else done.stdout

    @property
    def endpoint(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def ca_bundle(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CEPH_CONF": str(self.folder / "ceph.conf")}
