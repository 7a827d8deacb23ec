"""`rayslurm doctor` on what stands beside rayslurm on this machine, and as a command."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from exporter.archive.bucket import Bucket
from exporter.config import Config
from exporter.doctor import installation, services, vm
from exporter.doctor.sshd import Sshd
from exporter.tunnels.listeners import Address
from exporter.tunnels.sshd import GatewayPorts
from exporter.vm_settings import VmSettings
from tests.sshd_server import make_key, public_key
from tests.unit.answering import unused
from tests.unit.doctoring import KEY, answers, said
from tests.unit.test_cli import run

# -- this machine as jobs reach it


def an_sshd(**changes: Any) -> Sshd:
    values: dict[str, Any] = {
        "gateway_ports": GatewayPorts("no", "there"), "version": (9, 6), "version_source": "sshd", "gives_keys": True
    }  # fmt: skip
    return Sshd(**(values | changes))


def a_vm(**changes: Any) -> VmSettings:
    return VmSettings.model_validate({"host": "192.0.2.1", "user": "maija", "host_keys": [KEY]} | changes)


def test_sshd() -> None:
    listening: dict[int, frozenset[Address]] = {22: frozenset()}
    assert said(vm.check_sshd(a_vm(), an_sshd(), listening))[0] == "well"
    assert "nobody listens on port 22" in said(vm.check_sshd(a_vm(), an_sshd(), {}))[1]
    unknown = an_sshd(gateway_ports=GatewayPorts(None, "not to be seen"))
    assert said(vm.check_sshd(a_vm(), unknown, listening))[0] == "look"
    others = an_sshd(gateway_ports=GatewayPorts("yes", "there"), version=(8, 4))
    found = list(vm.check_sshd(a_vm(), others, listening))
    assert [one.level for one in found] == ["wrong", "wrong"]
    assert "GatewayPorts yes" in found[0].text


def test_the_file_for_keys_of_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".ssh/authorized_keys"
    mine = a_vm(authorized_keys=str(path))
    assert "isn't there yet" in said(vm.check_keys_file(mine))[1]
    path.parent.mkdir()
    path.touch()
    for mode, level in ((0o600, "well"), (0o644, "look"), (0o664, "wrong")):
        path.chmod(mode)
        assert said(vm.check_keys_file(mine))[0] == level
    assert said(vm.check_keys_file(a_vm(identity_file="~/.ssh/id_vm")))[0] == "well"
    monkeypatch.setattr("os.access", lambda where, _: Path(where) != path)
    assert "can't be read and written" in said(vm.check_keys_file(mine))[1]
    monkeypatch.setattr("os.access", lambda *_: False)
    level, words = said(vm.check_keys_file(mine))
    assert (level, f"{path.parent} can't be written by you" in words) == ("wrong", True)


def test_the_ports_for_tunnels(tmp_path: Path) -> None:
    ephemeral = tmp_path / "range"
    ephemeral.write_text("32768\t60999\n")
    assert said(vm.check_ports(a_vm(), {}, [], ephemeral))[0] == "well"
    someone: frozenset[Address] = frozenset()
    assert said(vm.check_ports(a_vm(), {8100: someone}, [8100], ephemeral))[0] == "well", "a tunnel of ours"
    level, words = said(vm.check_ports(a_vm(), {8100: someone, 8102: someone}, [8100], ephemeral))
    assert (level, "listens on 8102 -> no job gets these" in words) == ("look", True)
    few = a_vm(serve_ports="8301-8302")
    level, words = said(vm.check_ports(few, {8301: someone, 8302: someone}, [], ephemeral))
    assert (level, "listens on all of them" in words) == ("wrong", True)
    high = a_vm(serve_ports="32000-33000")
    level, words = said(vm.check_ports(high, {}, [], ephemeral))
    assert (level, "vm.serve_ports: 32000-33000 reaches into 32768-60999" in words) == ("look", True)
    assert said(vm.check_ports(a_vm(), None, [], tmp_path / "none"))[0] == "look"


def test_no_vm(rewrite: Callable[..., Config]) -> None:
    assert said(vm.check_no_vm(rewrite(vm=None)))[0] == "look"


# -- what stands beside it


def test_an_address_that_others_reach(config: Config, rewrite: Callable[..., Config]) -> None:
    assert said(services.check_listen(config))[0] == "well"
    level, words = said(services.check_listen(rewrite(listen="10.0.0.5:9810", allow_remote=True)))
    assert (level, "can be reached by others" in words) == ("look", True)


def test_prometheus_and_alertmanager() -> None:
    with answers("Prometheus Server is Healthy.\n") as healthy, answers("OK") as ok, answers("hello") as other:
        assert said(services.check_neighbours({"Prometheus": healthy}))[0] == "well"
        assert said(services.check_neighbours({"Alertmanager": ok}))[0] == "well"
        assert "doesn't say that it is healthy" in said(services.check_neighbours({"Prometheus": other}))[1]
    with unused() as port:
        level, words = said(services.check_neighbours({"Prometheus": port}))
    assert (level, "isn't running here" in words) == ("look", True)


def test_what_speaks_no_http_is_there_all_the_same() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]

        def hang_up() -> None:
            silent.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        assert "something listens" in said(services.check_neighbours({"Prometheus": port}))[1]
        thread.join()


def test_the_archive_is_asked_only_where_that_is_allowed(
    rewrite: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    credentials.chmod(0o600)
    with unused() as port:
        config = rewrite(
            archive={
                "endpoint": f"http://127.0.0.1:{port}", "bucket": "kept", "credentials_file": str(credentials)
            }
        )  # fmt: skip
        assert said(services.check_archive(config, offline=True))[0] == "well"
        level, words = said(services.check_archive(config, offline=False))
    assert (level, "docs/archive.md" in words) == ("wrong", True)
    monkeypatch.setattr(Bucket, "check", lambda _: None)
    assert said(services.check_archive(config, offline=False))[0] == "well"
    assert list(services.check_archive(rewrite(archive=None), offline=False)) == []
    credentials.chmod(0o644)
    assert said(installation.check_named_files(config))[0] == "wrong"


# -- the command


def test_the_command_tells_all_and_ends_with_1_where_something_is_wrong(config_path: Path, config: Config) -> None:
    done = run("doctor", "--offline", "--json", config=config_path)
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert [one["subject"] for one in told["findings"]][:3] == ["configuration", "python", "clock"]
    wrong = [one for one in told["findings"] if one["level"] == "wrong"]
    assert told["wrong"] == len(wrong) >= 1
    assert all(one["cure"] for one in wrong)
    assert "not a real key" not in done.stdout
    assert not config.state_dir.exists(), "nothing is made by looking"
    plain = run("doctor", "--offline", config=config_path)
    assert plain.returncode == 1
    assert f"well  configuration: {config_path} is valid; sites: puhti2\n" in plain.stdout
    assert "wrong puhti2: key: " in plain.stdout
    assert f"{told['wrong']} wrong" in plain.stderr


def test_the_command_ends_with_0_where_nothing_is(rewrite: Callable[..., Config], config_path: Path) -> None:
    folder = config_path.parent
    key, host = make_key(folder / "mine"), public_key(make_key(folder / "host"))
    (folder / "known_hosts").write_text(f"login.example.org {host}\n")
    with unused() as port:
        rewrite(sites__puhti2__ssh__key=key, vm=None, listen=f"127.0.0.1:{port}")
        done = run("doctor", "--offline", config=config_path)
    assert done.returncode == 0, done.stdout
    assert "wrong" not in done.stdout
    assert done.stderr.endswith(" 0 wrong\n")


def test_a_configuration_that_is_wrong_or_missing(config_path: Path, tmp_path: Path) -> None:
    config_path.write_text(config_path.read_text().replace("user: maija", "usr: maija"))
    done = run("doctor", "--json", config=config_path)
    told = json.loads(done.stdout)["findings"]
    assert done.returncode == 1
    assert [one["level"] for one in told[:2]] == ["wrong", "wrong"]
    assert "sites.puhti2.ssh.usr: is not a key" in told[1]["text"]
    done = run("doctor", config=tmp_path / "none.yaml")
    assert (done.returncode, "-> run: rayslurm init" in done.stdout) == (1, True)


def test_a_site_that_is_not_configured(config_path: Path) -> None:
    done = run("doctor", "--offline", "--site", "lumi", config=config_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "site lumi is not in the configuration" in done.stderr
