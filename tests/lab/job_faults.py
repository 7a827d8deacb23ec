"""What is done to jobs so that they end: another Ray, another user on their ports, too little room, no power."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.lab import HERE, Lab

COLLEAGUE = "20002"

# Listens on the first port of every slot that a job may choose; and when told the ports that a head has chosen, also on
# the first of them, the next time on the second, and then on none. Ends with its standard input.
_TAKER = """
import itertools, os, socket, sys, threading
def listen(port, address=""):
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen()
    return server
held = [listen(port) for port in range(10000, 32000, 1000)]
asked = listen(int(sys.argv[1]), "127.0.0.1")
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print("listening", flush=True)
for turn in itertools.count():
    peer, _ = asked.accept()
    ports = peer.makefile().readline().split()
    held += [listen(int(port)) for port in ports[turn : turn + 1]]
    peer.sendall(b"taken\\n")
    peer.close()
"""


def script(path: Path, text: str) -> Path:
    """Writes a program that all nodes see."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@contextmanager
def taken_ports(lab: Lab, node: str, control: int) -> Iterator[None]:
    """Has a colleague take ports on a node; who asks at `control` has the next of those that it names taken too."""
    command = [HERE / "on", node, "setpriv", f"--reuid={COLLEAGUE}", f"--regid={COLLEAGUE}", "--clear-groups"]
    taker = subprocess.Popen(
        [*map(str, command), "/usr/bin/python3", "-c", _TAKER, str(control)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert taker.stdin is not None
    assert taker.stdout is not None
    try:
        assert taker.stdout.readline() == "listening\n"
        yield
    finally:
        taker.stdin.close()
        taker.stdout.close()
        taker.wait(10)


def asking_ray(path: Path, ray: Path, control: int) -> Path:
    """A `ray` that has its ports taken after they were chosen and before it starts as a head."""
    return script(
        path,
        f"""#!/bin/bash
for word in "$@"; do
  case $word in
  --port=*) gcs=${{word#*=}} ;;
  --dashboard-port=*) dashboard=${{word#*=}} ;;
  esac
done
if [ -n "$gcs" ]; then
  exec 3<>/dev/tcp/127.0.0.1/{control} && echo "$gcs $dashboard" >&3 && read -r _ <&3
  exec 3>&-
fi
exec {ray}/bin/ray "$@"
""",
    )


def older_ray(folder: Path, seen_as: str, ray: Path, node: str) -> Path:
    """A `ray` that on one node is of another version; `seen_as` is what nodes call the folder."""
    (package,) = ray.glob("lib/python3*/site-packages/ray")
    overlay = folder / "older/ray"
    overlay.mkdir(parents=True, exist_ok=True)
    for path in package.iterdir():
        if path.name not in {"_version.py", "__pycache__"}:
            (overlay / path.name).symlink_to(path)
    (overlay / "_version.py").write_text('version = "2.59.0"\ncommit = "older"\n')
    return script(
        folder / "ray",
        f"""#!/bin/bash
[ "$(hostname)" != {node} ] || export PYTHONPATH={seen_as}/older
exec {ray}/bin/ray "$@"
""",
    )


@contextmanager
def small_disk(lab: Lab, node: str, path: str, mib: int) -> Iterator[None]:
    """Gives a node a small disk."""
    lab.on(node, "mkdir", "-p", path)
    lab.on(node, "mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=1777", "tmpfs", path)
    try:
        yield
    finally:
        lab.on(node, "umount", "-l", path)


def fill(lab: Lab, node: str, path: str) -> None:
    """Fills a disk to the last byte, as somebody else."""
    colleague = ("setpriv", f"--reuid={COLLEAGUE}", "--clear-groups")
    done = lab.on(node, *colleague, "dd", "if=/dev/zero", f"of={path}/others", "bs=1M", check=False)
    assert "No space left" in done.stderr, done.stderr


# Starts Ray as one does by hand, and notes twice a second which worker has worked.
_NEIGHBOUR = """#!/bin/bash
export PATH={ray}/bin:$PATH
ray start --head --num-cpus=1 --include-dashboard=false --object-store-memory=100000000 --disable-usage-stats
exec python3 - <<'WORK'
import os, time, ray
ray.init(address="auto")
@ray.remote
def work(): return os.getpid()
while True:
    with open("{folder}/beats", "a") as beats: print(ray.get(work.remote()), file=beats)
    time.sleep(0.5)
WORK
"""  # it ends with the first task that fails


class Neighbour:
    """Another Ray of the same user on a node, started by hand in a Slurm job of its own."""

    def __init__(self, lab: Lab, node: str, folder: Path, seen_as: str, ray: Path) -> None:
        self._lab, self._node, self._beats = lab, node, folder / "beats"
        script(folder / "start", _NEIGHBOUR.format(ray=ray, folder=seen_as))
        folder.chmod(0o777)
        options = ("-p", "small", "-w", node, "-c", "2", "--mem=1900", "-t", "20")
        self.job_id = lab.sbatch(*options, wrap=f"{seen_as}/start")
        self._output = lab.researcher_home / f"out-{self.job_id}"

    def await_beat(self) -> set[str]:
        """Waits until it has worked once more; returns the workers that ever have."""
        before = len(self._workers())

        def worked() -> bool:
            assert self._lab.state(self.job_id) in {"", "PENDING", "RUNNING"}, self._told()
            return len(self._workers()) > before + 1

        try:
            self._lab.wait(worked, 120, "another Ray works", every=0.5)
        except TimeoutError as error:
            raise AssertionError(self._told()) from error
        return set(self._workers())

    def _told(self) -> str:
        logs = "tail -n 30 /tmp/ray/session_latest/logs/gcs_server.out /tmp/ray/session_latest/logs/raylet.out"
        return self._output.read_text() + self._lab.on(self._node, "sh", "-c", logs, check=False).stdout

    def _workers(self) -> list[str]:
        return self._beats.read_text().splitlines() if self._beats.exists() else []
