"""What is seen of this machine's sshd: whether it opens tunnels to others, and whether it knows when keys end."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from exporter.config import Config, load_config
from exporter.doctor.sshd import Sshd
from exporter.errors import RefusedError
from exporter.launch import reach
from exporter.launch.reach import check_reach
from exporter.launch.spec import load_spec
from exporter.store import exposure, tunnels
from exporter.store.db import Store
from exporter.store.exposure import Exposure
from exporter.store.tunnels import Health
from exporter.tunnels import openssh, sshd
from exporter.tunnels.openssh import openssh_version
from exporter.tunnels.sshd import GatewayPorts, gateway_ports
from tests.unit.test_cli import run
from tests.unit.test_exposure import launched

SPEC = "site: puhti2\nname: x\ncluster: {nodes: 1, cpus_per_node: 1, memory_per_node: 1G, time: 10m}\n"

CONFIGS = [
    ("", "no"),
    ("GatewayPorts yes", "yes"),
    ("gatewayports = YES # why not", "yes"),
    ('GatewayPorts "clientspecified"', "clientspecified"),
    ("#GatewayPorts yes", "no"),
    ("GatewayPorts no\nGatewayPorts yes", "no"),
    ("Match User tunnel\n GatewayPorts yes", "yes"),
    ("Match User other,!tunnel,t*\n GatewayPorts yes", "no"),
    ("Match User t*nel,other\n GatewayPorts yes\nMatch all\n GatewayPorts no", "yes"),
    ("GatewayPorts yes\nMatch User tunnel\n GatewayPorts no", "no"),
    ("Match User other\n GatewayPorts yes\nMatch all\n GatewayPorts clientspecified", "clientspecified"),
    ("Include {folder}/more/*.conf\nGatewayPorts no", "yes"),
    ("GatewayPorts no\nInclude {folder}/more/*.conf", "no"),
    ("Match User other\nInclude {folder}/more/*.conf", "no"),
    ("Match User tunnel\nInclude {folder}/more/*.conf", "yes"),
    ("Include {folder}/nothing/*.conf", "no"),
]
UNKNOWN = [
    "Match Address 10.0.0.0/8\n GatewayPorts yes",
    "Match User tunnel Address 10.0.0.0/8\n GatewayPorts yes",
    "Match Address 10.0.0.0/8\nInclude {folder}/more/*.conf",
    "Match Group staff\n GatewayPorts no\nMatch User tunnel\n GatewayPorts yes",
    "GatewayPorts perhaps",
]


def written(folder: Path, text: str) -> Path:
    (folder / "more").mkdir()
    (folder / "more/10.conf").write_text("Match User other\n GatewayPorts no\n")
    (folder / "more/20.conf").write_text("GatewayPorts yes\n")
    (folder / "more/readme").write_text("GatewayPorts no\n")
    file = folder / "sshd_config"
    file.write_text(text.format(folder=folder))
    return file


def processes(folder: Path, *lines: str, net: str = "net:[1]") -> Path:
    """A /proc with these command lines in it, as the kernel has them."""
    proc = folder / "proc"
    for number, line in enumerate(["", *lines]):
        entry = proc / (str(number) if number else "self")
        (entry / "ns").mkdir(parents=True)
        (entry / "ns/net").symlink_to(net if number else "net:[1]")
        (entry / "ns/mnt").symlink_to("mnt:[1]")
        (entry / "cmdline").write_bytes(line.encode() + b"\0")
    return proc


def seen(folder: Path, *lines: str, file: Path | None = None, net: str = "net:[1]") -> GatewayPorts:
    proc = processes(folder, *lines, net=net)
    return gateway_ports("tunnel", 1, proc=proc, file=str(file or folder / "none"))


LISTENER = "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"


@pytest.mark.parametrize(("text", "value"), CONFIGS)
def test_the_file_of_the_sshd_that_runs_is_read_as_sshd_reads_it(tmp_path: Path, text: str, value: str) -> None:
    file = written(tmp_path, text)
    assert seen(tmp_path, LISTENER, "sshd: tunnel [priv]", "sshd: tunnel", file=file).value == value


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("sshd") is None, reason="only root may ask sshd itself")
@pytest.mark.parametrize(("text", "value"), CONFIGS)
def test_sshd_itself_says_the_same(tmp_path: Path, text: str, value: str) -> None:
    file, key = written(tmp_path, text), tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    asked = ["sshd", "-T", "-f", str(file), "-h", str(key), "-C", "user=tunnel,host=x,addr=192.0.2.7"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert f"\ngatewayports {value}\n" in told


@pytest.mark.parametrize("text", UNKNOWN)
def test_what_hangs_on_more_than_is_known_here_is_unknown(tmp_path: Path, text: str) -> None:
    found = seen(tmp_path, LISTENER, file=written(tmp_path, text))
    assert found.value is None
    assert "sshd_config" in found.source or "20.conf" in found.source


def test_the_command_line_names_another_file_or_the_value_itself(tmp_path: Path) -> None:
    file = written(tmp_path, "Port 22\nGatewayPorts yes")
    named = seen(tmp_path, f"/usr/sbin/sshd -De -f {file}")
    assert named == GatewayPorts("yes", f"{file}, line 2")
    shutil.rmtree(tmp_path / "proc")
    assert seen(tmp_path, f"/usr/sbin/sshd -f {file} -o GatewayPorts=no").value == "no"


def test_where_it_cannot_be_seen_it_is_unknown(tmp_path: Path) -> None:
    file = written(tmp_path, "GatewayPorts yes")
    assert seen(tmp_path, "python3 sshd.py", file=file) == GatewayPorts(None, "no sshd is to be seen here")
    shutil.rmtree(tmp_path / "proc")
    assert seen(tmp_path, LISTENER, file=file, net="net:[2]").value is None, "that of another network"
    shutil.rmtree(tmp_path / "proc")
    other = tmp_path / "other"
    other.write_text("GatewayPorts no\n")
    found = seen(tmp_path, LISTENER, f"/usr/sbin/sshd -f {other}", file=file)
    assert found == GatewayPorts(None, "2 sshd run here, which differ")
    shutil.rmtree(tmp_path / "proc")
    found = seen(tmp_path, "/usr/sbin/sshd -f /nowhere/sshd_config")
    assert found == GatewayPorts(None, "/nowhere/sshd_config: No such file or directory")


def test_an_sshd_that_hides_its_processes_is_judged_by_its_usual_file(tmp_path: Path) -> None:
    file = written(tmp_path, "GatewayPorts yes")
    proc = processes(tmp_path)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        assert gateway_ports("tunnel", port, proc=proc, file=str(file)).value == "yes"
    assert gateway_ports("tunnel", port, proc=proc, file=str(file)).value is None, "nobody listens on its port"


# --- launches ---------------------------------------------------------------------------------------------------------


def spec_file(folder: Path) -> Path:
    file = folder / "spec.yaml"
    file.write_text(SPEC)
    return file


@pytest.mark.parametrize(
    ("value", "refused"), [("yes", True), ("no", False), ("clientspecified", False), (None, False)]
)
def test_a_launch_whose_tunnels_others_would_reach_is_refused(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, refused: bool
) -> None:
    monkeypatch.setattr(reach, "gateway_ports", lambda user, port: GatewayPorts(value, f"{user} {port}"))
    spec = load_spec(spec_file(tmp_path))
    if refused:
        with pytest.raises(RefusedError, match=r"GatewayPorts yes \(tunnel 22\).*Set it to no, reload sshd"):
            check_reach(spec, config, None)
        (tmp_path / "spec.yaml").write_text(SPEC + "ray: {dashboard_tunnel: false, metrics_tunnels: false}\n")
        check_reach(load_spec(tmp_path / "spec.yaml"), config, None)
    else:
        check_reach(spec, config, None)


def test_practice_sites_on_this_machine_come_by_no_sshd(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "gateway_ports", lambda _user, _port: GatewayPorts("yes", "here"))
    config_path.write_text(config_path.read_text().replace("192.0.2.10", "127.0.0.1"))
    check_reach(load_spec(spec_file(tmp_path)), load_config(config_path), None)


@pytest.mark.parametrize(
    ("exposed", "state", "later", "refused"),
    [(True, "up", 0, True), (False, "up", 0, False), (True, "foreign", 0, False), (True, "up", 100, False)],
)
def test_an_exposed_tunnel_of_another_job_tells_of_the_next(
    config: Config,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    exposed: bool,
    state: str,
    later: float,
    refused: bool,
) -> None:
    monkeypatch.setattr(reach, "gateway_ports", lambda _user, _port: GatewayPorts(None, "not known"))
    launched(store, {"dashboard": 8100})

    def change(connection: sqlite3.Connection) -> None:
        tunnels.keep(connection, [Health("puhti2", "77", "dashboard", state, 100.0, 0.1, 150.0)])
        exposure.replace(connection, "puhti2", [Exposure("puhti2", "77", "dashboard", exposed, "0.0.0.0", 150.0)])

    store.write(change)
    spec = load_spec(spec_file(tmp_path))
    if refused:
        with pytest.raises(
            RefusedError, match=r"they reach dashboard of puhti2/77, which is listened on at 0\.0\.0\.0"
        ):
            check_reach(spec, config, store, now=101.0)
    else:
        check_reach(spec, config, store, now=101.0 + later)


# --- config check -----------------------------------------------------------------------------------------------------


@contextmanager
def greeting(words: bytes) -> Iterator[int]:
    with closing(socket.create_server(("0.0.0.0", 0))) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(words)

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join()


@pytest.mark.parametrize(
    ("words", "version"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", (9, 2)),
        (b"SSH-2.0-OpenSSH_10.0\r\n", (10, 0)),
        (b"SSH-2.0-dropbear_2022.83\r\n", None),
    ],
)
def test_the_version_is_what_sshd_says(words: bytes, version: tuple[int, int] | None) -> None:
    with greeting(words) as port:
        assert openssh_version(port) == (version, "sshd")


def test_where_no_sshd_answers_the_client_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssh, "listeners", dict)
    client = tmp_path / "ssh"
    client.write_text("#!/bin/sh\necho OpenSSH_8.9p1 Ubuntu-3, OpenSSL 3.0.2 >&2\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert openssh_version(22) == ((8, 9), "ssh -V")
    client.unlink()
    assert openssh_version(22) == (None, "nobody")


@pytest.mark.parametrize(
    ("version", "value", "gives_keys", "words"),
    [
        ((9, 1), "no", True, []),
        ((8, 9), "no", True, ["OpenSSH 8.9 refuses the keys of jobs"]),
        ((8, 9), "no", False, []),
        (None, None, True, []),
        ((10, 0), "yes", True, ["launches with tunnels are refused"]),
    ],
)
def test_what_is_warned_of(
    version: tuple[int, int] | None, value: str | None, gives_keys: bool, words: list[str]
) -> None:
    told = list(Sshd(GatewayPorts(value, "there"), version, "sshd", gives_keys).warnings())
    assert len(told) == len(words)
    assert all(word in text for word, text in zip(words, told, strict=True))


def test_config_check_says_what_it_found(config_path: Path) -> None:
    done = run("config", "check", config=config_path)
    assert done.returncode == 0, done.stderr
    assert "this machine's sshd: " in done.stderr
    found = json.loads(run("config", "check", "--json", config=config_path).stdout)["sshd"]
    assert found["gateway_ports"] in {None, "no", "yes", "clientspecified"}
    assert found["gateway_ports_source"] in done.stderr
    assert sshd.FILE == "/etc/ssh/sshd_config"
