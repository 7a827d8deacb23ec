"""`rayslurm connect` and `rayslurm tunnels`: what is told of a job's tunnels; no site is asked for it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config import Config
from exporter.practice.ray import PYTHON_VERSION, Dashboard, Node
from exporter.store import jobs, leases, runs, submissions, tunnels
from exporter.store.db import Store
from exporter.store.runs import Run
from exporter.store.tunnels import Health
from exporter.tunnels.authorized_keys import make_key
from exporter.tunnels.secrets import keep_secret, secret_path
from tests.unit.test_cli import run

SITE = "puhti2"
TOKEN = "abcdefghjkmn"
ALL = {"dashboard": 8100, "client": 8151, "metrics-0": 8201, "metrics-1": 8202, "serve": 8301}


def launched(
    store: Store,
    ports: Mapping[str, int],
    *,
    job_id: str = "77",
    token: str = TOKEN,
    state: str | None = "running",
    spec: dict[str, Any] | None = None,
) -> None:
    def change(connection: sqlite3.Connection) -> None:
        submissions.intend(
            connection, token=token, site=SITE, campaign="", name="train", run_dir="x", now=time.time() - 120,
            spec=spec or {}, tunnels={tunnel: [port] for tunnel, port in ports.items()},
        )  # fmt: skip
        submissions.submitted(connection, token, job_id, now=time.time())
        if state is not None:
            connection.execute("UPDATE jobs SET state = ? WHERE job_id = ?", (state, job_id))

    store.write(change)


def probed(store: Store, tunnel: str, state: str, *, job_id: str = "77") -> None:
    now = time.time()
    health = Health(SITE, job_id, tunnel, state, now, 0.1, now + 600)
    store.write(lambda connection: tunnels.keep(connection, [health]))


def told(*arguments: str, config: Path) -> Any:
    done = run(*arguments, "--json", config=config)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- connect ----------------------------------------------------------------------------------------------------------


def test_all_that_is_needed_to_reach_a_ray(config_path: Path, config: Config, store: Store) -> None:
    launched(store, ALL)
    probed(store, "dashboard", "up")
    ready = Run(SITE, "77", phase="driver", ready_time=5.0, ray_version="2.60.0")
    store.write(lambda connection: runs.keep(connection, ready, now=6.0))
    keep_secret(config.state_dir, TOKEN, "5ecret" * 10)
    secret = str(secret_path(config.state_dir, TOKEN))

    found = told("connect", f"{SITE}/77", config=config_path)
    assert found["dashboard_url"] == "http://127.0.0.1:8100"
    assert found["client_address"] == "ray://127.0.0.1:8151"
    assert found["serve_url"] == "http://127.0.0.1:8301"
    assert found["metrics_ports"] == {"0": 8201, "1": 8202}
    assert found["token_file"] == secret
    assert found["ssh"] == (
        "ssh -N -L 8100:127.0.0.1:8100 -L 8151:127.0.0.1:8151 -L 8301:127.0.0.1:8301 tunnel@192.0.2.10"
    )
    assert found["ray_job_submit"] == (
        f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={secret} "
        "ray job submit --address http://127.0.0.1:8100 -- python my_script.py"
    )
    assert (found["ray_version"], found["python_version"], found["ready_time"]) == ("2.60.0", None, 5.0)
    states = {one["tunnel"]: one["health"] and one["health"]["state"] for one in found["tunnels"]}
    assert states == {**dict.fromkeys(ALL), "dashboard": "up"}

    done = run("connect", "77", config=config_path)
    assert done.returncode == 0
    for text in (found["ssh"], found["ray_job_submit"], "ray://127.0.0.1:8151", "2.60.0", "node 1: 127.0.0.1:8202"):
        assert text in done.stdout
    assert "dashboard up" in done.stdout
    assert "Python" in done.stdout
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert f"log in from the laptop as {me}" in done.stderr, "the tunnels' account may take nobody else"
    assert "5ecret" not in done.stdout + done.stderr + json.dumps(found), "where the token is, never the token"


def test_the_way_to_the_vm_is_the_configured_one(config_path: Path, store: Store) -> None:
    written = yaml.safe_load(config_path.read_text())
    written["vm"] |= {"port": 2222, "user": pwd.getpwuid(os.geteuid()).pw_name}
    config_path.write_text(yaml.safe_dump(written))
    launched(store, {"client": 8151})
    found = told("connect", "77", config=config_path)
    assert found["ssh"] == f"ssh -N -p 2222 -L 8151:127.0.0.1:8151 {written['vm']['user']}@192.0.2.10"
    assert (found["dashboard_url"], found["ray_job_submit"]) == (None, None)
    done = run("connect", "77", config=config_path)
    assert "log in from the laptop" not in done.stderr
    assert "it isn't known to be ready yet" in done.stderr
    assert "secrets/abcdefghjkmn.ray is missing" in done.stderr


def test_the_python_that_must_match_is_asked_of_ray_through_its_tunnel(
    config_path: Path, config: Config, store: Store
) -> None:
    secret = "5ecret" * 10
    dashboard = Dashboard(0, nodes=1, node=Node(1), session="session_1", token=secret)
    try:
        launched(store, {"dashboard": dashboard.port, "client": 8151})
        keep_secret(config.state_dir, TOKEN, secret)
        assert told("connect", "77", config=config_path)["python_version"] is None, "not known to be our Ray"
        probed(store, "dashboard", "up")
        assert told("connect", "77", config=config_path)["python_version"] == PYTHON_VERSION
        done = run("connect", "77", config=config_path)
        assert PYTHON_VERSION in done.stdout
        assert "the same Ray and the same Python" in done.stderr
        secret_path(config.state_dir, TOKEN).write_text("another")
        assert told("connect", "77", config=config_path)["python_version"] is None
    finally:
        dashboard.stop()
    assert told("connect", "77", config=config_path)["python_version"] is None, "its tunnel has just died"


def test_a_ray_that_may_be_open_is_named(config_path: Path, store: Store) -> None:
    launched(store, {"dashboard": 8100}, spec={"ray": {"allow_unauthenticated_ray": True}})
    assert told("connect", "77", config=config_path)["unauthenticated_ray_allowed"] is True
    assert "asks for no token" in run("connect", "77", config=config_path).stderr


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("pending", "puhti2/77: hasn't started, it is pending (Priority); `rayslurm status` shows when it runs"),
        ("completed", "puhti2/77: has ended, completed"),
        ("timeout", "puhti2/77: has ended, timeout: it reached its time limit"),
        ("unknown", "puhti2/77: doesn't run as far as is known, it is unknown"),
        ("suspended", "puhti2/77: doesn't run as far as is known, it is suspended"),
    ],
)
def test_a_job_that_does_not_run(config_path: Path, store: Store, state: str, said: str) -> None:
    launched(store, ALL)
    final = int(state not in {"pending", "unknown", "suspended"})
    store.write(
        lambda connection: connection.execute(
            "UPDATE jobs SET state = ?, final = ?, pending_reason = 'Priority'", (state, final)
        )
    )
    done = run("connect", f"{SITE}/77", config=config_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert said in done.stderr


def test_a_job_that_another_one_follows_names_it(config_path: Path, store: Store) -> None:
    spec = {"continue_on_timeout": {"times": 2}}
    launched(store, {"dashboard": 8100}, spec=spec, state="timeout")
    launched(store, {"dashboard": 8101}, spec=spec, job_id="78", token="nextnextnext")

    def chain(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE submissions SET chain = ?, link = 1 WHERE token = 'nextnextnext'", (TOKEN,))
        connection.execute("UPDATE jobs SET final = 1 WHERE job_id = '77'")

    store.write(chain)
    assert "it goes on as puhti2/78" in run("connect", "77", config=config_path).stderr
    assert told("connect", "78", config=config_path)["dashboard_url"] == "http://127.0.0.1:8101"


def test_a_job_without_a_way_to_it(config_path: Path, store: Store) -> None:
    launched(store, {})
    store.write(lambda connection: jobs.track(connection, SITE, "80", now=1.0))
    for job, said in (
        ("77", "this job opens no tunnel; write ray.dashboard_tunnel: true"),
        ("79", "puhti2/79: rayslurm doesn't know this job"),
        ("80", "rayslurm follows this job but didn't launch it"),
        ("abc", "is no job id"),
    ):
        done = run("connect", job, config=config_path)
        assert (done.returncode, done.stdout) == (3, ""), job
        assert said in done.stderr


def test_before_anything_was_launched(config_path: Path, config: Config) -> None:
    done = run("connect", "77", config=config_path)
    assert done.returncode == 3
    assert "nothing has been launched yet" in done.stderr
    assert not config.state_dir.exists()


# --- tunnels list -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listener(address: str) -> Iterator[int]:
    with socket.socket() as server:
        server.bind((address, 0))
        server.listen()
        yield server.getsockname()[1]


def test_leases_with_their_holders_and_who_listens(config_path: Path, store: Store) -> None:
    with listener("127.0.0.1") as inside, listener("0.0.0.0") as outside, socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        silent = holder.getsockname()[1]
        launched(store, {"dashboard": inside, "client": outside})
        launched(store, {"dashboard": silent}, job_id="78", token="endedendeden")
        store.write(lambda connection: connection.execute("UPDATE tracked SET done = 1 WHERE root_id = '78'"))
        probed(store, "dashboard", "target_down")

        found = {one["port"]: one for one in told("tunnels", "list", config=config_path)}
        assert set(found) == {inside, outside, silent}
        assert {port: (one["site"], one["job_id"], one["job_name"]) for port, one in found.items()} == {
            inside: (SITE, "77", "train"), outside: (SITE, "77", "train"), silent: (SITE, "78", "train"),
        }  # fmt: skip
        assert {port: one["listening"] for port, one in found.items()} == {
            inside: ["127.0.0.1"], outside: ["0.0.0.0"], silent: [],
        }  # fmt: skip
        assert {port for port, one in found.items() if one["exposed"]} == {outside}
        assert {port for port, one in found.items() if one["open"]} == {inside, outside}
        assert found[inside]["health"]["state"] == "target_down"
        assert found[outside]["health"] is None

        done = run("tunnels", "list", config=config_path)
        lines = {line.split()[0]: line for line in done.stdout.splitlines()}
        assert lines[str(inside)].split()[1:5] == ["dashboard", "puhti2/77", "train", "target_down"]
        assert lines[str(inside)].endswith("2m   loopback")
        assert lines[str(outside)].endswith("EXPOSED 0.0.0.0")
        assert lines[str(silent)].endswith("nobody")
        assert "no: it has ended" in lines[str(silent)]
        assert "is free again when nobody listens" in done.stderr


def test_no_leases_and_no_store(config_path: Path, config: Config) -> None:
    assert told("tunnels", "list", config=config_path) == []
    assert run("tunnels", "list", config=config_path).stdout.split()[:2] == ["PORT", "TUNNEL"]
    assert not config.state_dir.exists()


def test_a_launch_without_a_job_yet_holds_its_ports(config_path: Path, store: Store) -> None:
    store.write(
        lambda connection: submissions.intend(
            connection, token=TOKEN, site=SITE, campaign="", name="train", run_dir="x", now=1.0, spec={},
            tunnels={"dashboard": [8100]},
        )
    )  # fmt: skip
    (found,) = told("tunnels", "list", config=config_path)
    assert (found["job_id"], found["open"], found["port"]) == (None, True, 8100)
    assert "puhti2/?" in run("tunnels", "list", config=config_path).stdout


# --- tunnels authorize ------------------------------------------------------------------------------------------------


@pytest.fixture
def public_key(tmp_path: Path) -> Path:
    path = tmp_path / "id_vm.pub"
    path.write_text(f"{make_key().public} maija@lumi\n")
    return path


def test_the_line_for_a_key_of_ones_own(config_path: Path, public_key: Path) -> None:
    done = run("tunnels", "authorize", str(public_key), config=config_path)
    assert done.returncode == 0, done.stderr
    (line,) = [one for one in done.stdout.splitlines() if not one.startswith("#")]
    options, _, rest = line.partition(" ")
    assert rest == public_key.read_text().strip()
    assert options.startswith('restrict,port-forwarding,permitlisten="127.0.0.1:8100",')
    assert options.endswith('permitopen="127.0.0.1:1",command="/bin/false"')
    allowed = [word.partition(":")[2].strip('"') for word in options.split(",") if word.startswith("permitlisten")]
    assert allowed == [str(port) for port in range(8100, 8401)]
    for setting in ("AllowTcpForwarding yes", "GatewayPorts no", "AllowStreamLocalForwarding no", "Match User tunnel"):
        assert setting in done.stdout
    assert "puhti2: unknown; ask the site" in done.stdout
    assert done.stderr == "", "vm.identity_file is set"
    appended = public_key.with_name("authorized_keys")
    appended.write_text(done.stdout)
    listed = subprocess.run(["ssh-keygen", "-l", "-f", appended], capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == 1, "all of it may be appended: what isn't the key is a comment"


def test_the_ports_that_are_asked_for(config_path: Path, public_key: Path, tmp_path: Path) -> None:
    def ports(*options: str) -> list[int]:
        found: list[int] = told("tunnels", "authorize", str(public_key), *options, config=config_path)["ports"]
        return found

    assert ports("--ports", "9000-9001", "--ports", "9005-9005") == [9000, 9001, 9005]
    spec = tmp_path / "spec.yaml"
    cluster = "cluster: {nodes: 2, cpus_per_node: 4, memory_per_node: 16G, time: 1h}\n"
    spec.write_text(f"site: puhti2\n{cluster}ray: {{metrics_tunnels: false, client_tunnel: true}}\n")
    assert ports("--spec", str(spec)) == [*range(8100, 8151), *range(8151, 8201)]
    spec.write_text(f"site: puhti2\n{cluster}ray: {{metrics_tunnels: false, dashboard_tunnel: false}}\n")
    done = run("tunnels", "authorize", str(public_key), "--spec", str(spec), config=config_path)
    assert done.returncode == 3
    assert "wants no tunnel" in done.stderr
    done = run("tunnels", "authorize", str(public_key), "--ports", "22-23", config=config_path)
    assert done.returncode == 2
    assert "unprivileged ports" in done.stderr


def test_where_the_sites_connections_come_from(config_path: Path, public_key: Path) -> None:
    written = yaml.safe_load(config_path.read_text())
    written["sites"]["lumi"] = {"ssh": written["sites"]["puhti2"]["ssh"]}
    written["vm"]["port"] = 2222
    config_path.write_text(yaml.safe_dump(written))
    found = told("tunnels", "authorize", str(public_key), config=config_path)
    assert found["firewall"] == {"lumi": ["193.167.209.128/26"], "puhti2": None}
    assert found["port"] == 2222
    assert found["sshd"]["GatewayPorts"] == "no"
    shown = run("tunnels", "authorize", str(public_key), config=config_path).stdout
    assert "TCP port 2222" in shown
    assert "lumi: 193.167.209.128/26" in shown


def test_where_each_job_has_a_key_of_its_own_no_line_is_needed(config_path: Path, public_key: Path) -> None:
    written = yaml.safe_load(config_path.read_text())
    del written["vm"]["identity_file"]
    config_path.write_text(yaml.safe_dump(written))
    assert "no such line is needed" in run("tunnels", "authorize", str(public_key), config=config_path).stderr
    del written["vm"]
    config_path.write_text(yaml.safe_dump(written))
    done = run("tunnels", "authorize", str(public_key), config=config_path)
    assert (done.returncode, done.stdout) == (2, "")


def test_what_is_no_public_key(config_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "id"
    path.write_bytes(make_key().private)
    for content, said in (
        (None, "is a private key, which stays where it is; name its public half"),
        (b"hello\n", "is no public key: 'hello'"),
        (b"ssh-ed25519 AAAA a\nssh-ed25519 BBBB b\n", "is no public key"),
        (b'from="*" ssh-ed25519 AAAA a\n', "is no public key"),
        (b"\xff\xfe", "is no text"),
    ):
        if content is not None:
            path.write_bytes(content)
        done = run("tunnels", "authorize", str(path), config=config_path)
        assert (done.returncode, done.stdout) == (3, "")
        assert said in done.stderr
    done = run("tunnels", "authorize", str(tmp_path / "nowhere.pub"), config=config_path)
    assert done.returncode == 3
    assert "No such file" in done.stderr


def test_leases_are_given_back_by_nobody_who_only_looks(config_path: Path, store: Store) -> None:
    launched(store, {"dashboard": 8100})
    store.write(lambda connection: connection.execute("UPDATE tracked SET done = 1"))
    told("tunnels", "list", config=config_path)
    with store.snapshot() as connection:
        assert [lease.port for lease in leases.all_leases(connection)] == [8100]
