"""Services of docker-compose.yml without a container engine: what that would do to a process, done with namespaces.

A service runs with its own command line, user, environment and mounts, on a root file system that it can't write where
the file says so, without capabilities, in a network of its own whose loopback all services of a `Machine` share, so
that ports are those of the file. What it runs is this machine's: Debian's binaries, and rayslurm of this checkout.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from tests.prometheus_server import wait_until

TOP = Path(__file__).resolve().parent.parent
NEWER = TOP / "build" / "prometheus3" / "bin"
COMPOSE = Path(sys.executable).parent / "docker-compose"

_PROGRAMS = {
    "rayslurm": [sys.executable, "-m", "exporter.cli.entry"],
    "prom/prometheus": ["prometheus"],
    "prom/alertmanager": ["prometheus-alertmanager"],
}
"""What stands for an image's entry point."""

_TOOLS = {"/bin/promtool": "promtool", "/bin/amtool": "amtool", "python": sys.executable}
_SEEN = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", str(TOP), sys.prefix, sys.base_prefix)
_ETC = ("passwd", "group", "hosts", "nsswitch.conf", "localtime", "ssl", "ld.so.cache", "mime.types", "alternatives")


def compose(*arguments: str, home: str = "/home/somebody", **environment: str) -> str:
    """Returns what docker-compose says of the project's file.

    Raises:
        AssertionError: it finds something wrong.
    """
    done = subprocess.run(
        [COMPOSE, "--project-directory", TOP, "--file", TOP / "docker-compose.yml", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": home, **environment},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def services(*profiles: str, home: str = "/home/somebody", **environment: str) -> dict[str, Any]:
    """Returns the services that are started, each as docker-compose reads it; by default those without a word."""
    words = [word for profile in profiles for word in ("--profile", profile)]
    said = compose(*words, "config", "--format", "json", home=home, **environment)
    return json.loads(said)["services"]  # type: ignore[no-any-return]


def needs_namespaces() -> None:
    """Skips the test where no namespaces can be made; in CI, which is root, that fails."""
    done = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False)
    if done.returncode != 0:
        assert os.environ.get("CI") != "true", done.stderr
        pytest.skip("NOT CHECKED: no namespaces without root")


def _start(service: dict[str, Any], words: Sequence[str]) -> list[str]:
    """Returns what starts a command with the service's environment, and no other program to be found beside it."""
    newer = NEWER / words[0]
    found = str(newer) if newer.exists() else words[0] if words[0].startswith("/") else f"/usr/bin/{words[0]}"
    variables = {"PATH": f"{sys.prefix}/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    variables |= service.get("environment") or {}
    return ["/usr/bin/env", "-i", *(f"{key}={value}" for key, value in variables.items()), found, *words[1:]]


def _network(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


class Machine:
    """A network with nothing but a loopback, and folders for what the services keep.

    Args:
        folder: that is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o755)

    def __enter__(self) -> Self:
        self._holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up && exec sleep infinity"])
        try:
            wait_until(lambda: _network(self._holder.pid) != _network(os.getpid()), "it has a network of its own")
            self.until(["sh", "-c", "ip address show dev lo up | grep -q 'inet 127.0.0.1'"], "its loopback is up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.kill()
        self._holder.wait()

    def inside(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Runs a command in that network, as root and with all of this machine's files."""
        return subprocess.run([*self._enter(), *command], capture_output=True, text=True, check=False, timeout=60)

    def shows(self, url: str, text: str) -> None:
        """Waits until a text stands at an address in that network.

        Raises:
            TimeoutError: it did not in time.
        """
        code = "import sys, urllib.request as u; sys.exit(sys.argv[2] not in u.urlopen(sys.argv[1]).read().decode())"
        self.until([sys.executable, "-c", code, url, text], f"{text} at {url}", seconds=90)

    def until(self, command: Sequence[str], what: str, seconds: float = 60) -> None:
        """Waits until a command in that network ends with 0.

        Raises:
            TimeoutError: it did not in time.
        """
        ends = time.monotonic() + seconds
        while (done := self.inside(command)).returncode != 0:
            if time.monotonic() > ends:
                raise TimeoutError(f"waited {seconds:g} s in vain: {what}\n{done.stdout}{done.stderr}")
            time.sleep(0.2)

    def _enter(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--"]

    @contextmanager
    def running(self, name: str, service: dict[str, Any]) -> Iterator[Running]:
        """Runs a service; ends it afterwards as `docker stop` does, if it still runs."""
        image = service["image"].partition(":")[0]
        root = self.folder / f"{name}.root"
        root.mkdir()
        words = [*_PROGRAMS[image], *(service.get("command") or ["serve"])]
        script = self.folder / f"{name}.sh"
        script.write_text(self._script(name, service, root, words))
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self._enter(), "unshare", "--mount", "bash", str(script)], stdout=output, stderr=subprocess.STDOUT
            )
        running = Running(self, name, service, process, log)
        try:
            yield running
        finally:
            running.stop()

    def _script(self, name: str, service: dict[str, Any], root: Path, words: Sequence[str]) -> str:
        """Returns what builds the root file system, gives up what the service may not have, and becomes it."""
        lines = ["set -eu", "mount --make-rprivate /", f"R={root}", 'mount -t tmpfs -o mode=755 root "$R"']

        def folder(path: str) -> None:
            lines.append(f'mkdir -p "$R"{shlex.quote(path)}')

        for path in dict.fromkeys(_SEEN):
            if Path(path).is_symlink():
                lines.append(f'ln -s {shlex.quote(str(Path(path).readlink()))} "$R"{path}')
            elif Path(path).is_dir():
                folder(path)
                lines.append(f'mount --bind {path} "$R"{path}; mount -o remount,bind,ro "$R"{path}')
        folder("/etc")
        lines += [f'[ ! -e /etc/{one} ] || cp -a /etc/{one} "$R"/etc/' for one in _ETC]
        for path in ("/proc", "/dev"):
            folder(path)
            lines.append(f'mount --rbind {path} "$R"{path}')
        for mount in service.get("volumes", ()):
            source, target = mount["source"], mount["target"]
            if mount["type"] == "volume":
                kept = self.folder / f"{name}.{source}"
                kept.mkdir(exist_ok=True)
                user, group = map(int, service["user"].split(":"))
                os.chown(kept, user, group)
                source = str(kept)
            if Path(source).is_dir():
                folder(target)
            else:
                folder(str(Path(target).parent))
                lines.append(f': > "$R"{target}')
            lines.append(f'mount --bind {shlex.quote(source)} "$R"{target}')
            if mount.get("read_only"):
                lines.append(f'mount -o remount,bind,ro "$R"{target}')
        for entry in service.get("tmpfs", ()):
            target, _, options = entry.partition(":")
            folder(target)
            lines.append(f'mount -t tmpfs -o noexec,nosuid,nodev{"," * bool(options)}{options} tmpfs "$R"{target}')
        if service.get("read_only"):
            lines.append('mount -o remount,bind,ro "$R"')
        user, group = service["user"].split(":")
        bounds = "--bounding-set=-all --inh-caps=-all" if service.get("cap_drop") == ["ALL"] else ""
        privileges = "--no-new-privs" if "no-new-privileges:true" in service.get("security_opt", ()) else ""
        become = f"/usr/bin/setpriv --reuid={user} --regid={group} --clear-groups {bounds} {privileges}"
        lines.append(f'exec chroot "$R" {become} {shlex.join(_start(service, words))}')
        return "\n".join(lines) + "\n"


class Running:
    """A service that was started.

    Attributes:
        process: its own, with its own number: nothing stands between.
        log: what it wrote.
    """

    def __init__(
        self, machine: Machine, name: str, service: dict[str, Any], process: subprocess.Popen[bytes], log: Path
    ) -> None:
        self.process = process
        self.log = log
        self._machine = machine
        self._name = name
        self._service = service

    def healthy(self, test: Sequence[str], seconds: float = 60) -> None:
        """Waits until the service's health check passes in it.

        Args:
            test: as the file or the image has it: CMD and its words.
            seconds: how long.

        Raises:
            TimeoutError: it did not.
        """
        assert test[0] == "CMD"
        ends = time.monotonic() + seconds
        while (done := self.execute(test[1:])).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > ends:
                raise TimeoutError(f"{self._name} is not healthy: {done.stdout}{done.stderr}\n{self.log.read_text()}")
            time.sleep(0.2)

    def execute(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Runs a command as `docker compose exec` does: in the service, as its user."""
        user, group = self._service["user"].split(":")
        tool = _TOOLS.get(words[0], words[0])
        newer = NEWER / tool
        program = _PROGRAMS.get(words[0], [str(newer) if newer.exists() else tool])
        enter = ["nsenter", f"--target={self.process.pid}", "--mount", "--net", f"--root=/proc/{self.process.pid}/root"]
        become = ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--bounding-set=-all"]
        return subprocess.run(
            [*enter, "--wd=/", "--", *become, *_start(self._service, [*program, *words[1:]])],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def stop(self) -> int:
        """Ends it as `docker stop` does, and returns its exit status; -9 where it didn't end in time."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
