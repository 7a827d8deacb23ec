"""The configuration: what is wrong is named with file, line, key and cure."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from exporter.config import find_config, load_config
from exporter.config_files import check_files
from exporter.errors import ConfigError

GOOD = """\
sites:
  lumi:
    profile: slurm
    ssh:
      host: lumi.example.org
      user: maija
"""


def fault_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "rayslurm.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value).replace(str(path), "FILE")


def test_a_small_file_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "rayslurm.yaml"
    path.write_text(GOOD)
    config = load_config(path)
    assert config.listen_address == ("127.0.0.1", 9810)
    assert config.site("lumi").login_host == "lumi.example.org"
    assert config.site("lumi").settings.budget.commands_per_hour == 120


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("user: maija", "usr: maija"), "FILE:4: sites.lumi.ssh.user: is missing; add it"),
        (
            ("user: maija", "usr: maija"),
            "FILE:6: sites.lumi.ssh.usr: is not a key that rayslurm knows; did you mean `user`?",
        ),
        (("      host: lumi.example.org\n", ""), "FILE: sites.lumi.ssh.host: is missing"),
        (("profile: slurm", "profile: lumo"), "no site file is named lumo; there are: "),
        (("sites:", "listen: 0.0.0.0:9810\nsites:"), "0.0.0.0 can be reached by others; write 127.0.0.1:9810"),
        (("sites:", "listen: 9810\nsites:"), "FILE:1: listen: Input should be a valid string (got 9810)"),
        (("sites:", "listen: :9810\nsites:"), "write address:port"),
        (("user: maija", "user: maija\n      port: 70000"), "FILE:7: sites.lumi.ssh.port: "),
        (("user: maija", "user: maija\n      user: other"), "FILE:7: user: stands here twice"),
        (("user: maija", "user: -oProxyCommand=x"), "FILE:6: sites.lumi.ssh.user: "),
        (
            ("user: maija", "user: maija\n      connect_deadline: soon"),
            "write a length of time with its unit, such as 90s",
        ),
        (("ssh:", "timezone: Helsinki\n    ssh:"), "FILE:4: sites.lumi.timezone: is no time zone"),
        (("ssh:", "practice_clock_factor: 60\n    ssh:"), "practice_clock_factor: only for a practice site"),
        (("ssh:", "budget: {commands_per_hour: 100000}\n    ssh:"), "FILE:4: sites.lumi.budget.commands_per_hour: "),
        (("ssh:", "budget: {commands_per_hour: 10}\n    ssh:"), "must be less than commands_per_hour"),
        (
            ("user: maija", "user: maija\nvm: {hosst: a}"),
            "FILE:7: vm.hosst: is not a key that rayslurm knows; did you mean `host`?",
        ),
        (("user: maija", "user: [maija"), "not YAML"),
        (
            ("sites:", "vm: {host: a, user: b, identity_file: c, host_keys: [ssh-ed25519 AAAA...]}\nsites:"),
            "is no host key; copy",
        ),
        ((GOOD, "- a\n- b\n"), "FILE:1: the top level must be keys with values"),
        ((GOOD, ""), "FILE:1: sites: is missing"),
        ((GOOD, "? [a]\n: b\n"), "not YAML that can be used"),
        (("user: maija", "user: 2024-02-30"), "not YAML that can be used"),
        (("sites:", "listen: &a [*a]\nsites:"), "FILE"),
        (("ssh:", "work_dir: /scratch/{account}\n    ssh:"), "work_dir: /scratch/{account}: '{' cannot stand here"),
        (("ssh:", "work_dir: my folder\n    ssh:"), "' ' cannot stand here"),
        (("user: maija", "user: maija\n      command_deadline: .inf"), "write a length of time"),
    ],
)
def test_each_fault_says_where_and_what_to_write(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    assert change[0] in GOOD
    assert fault in fault_of(tmp_path, GOOD.replace(*change))


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    fault = fault_of(tmp_path, "listn: x\nsites:\n  Bad Name:\n    ssh: {user: a}\n  b:\n    ssh: {}\n")
    assert "FILE:1: listn" in fault
    assert "FILE:3: sites.Bad Name" in fault
    assert "FILE:6: sites.b.ssh.user" in fault


def test_a_host_that_is_meant_to_be_reached_must_be_said_in_words(tmp_path: Path) -> None:
    path = tmp_path / "rayslurm.yaml"
    path.write_text(f"listen: 10.0.0.5:9810\nallow_remote: true\n{GOOD}")
    assert load_config(path).listen_address == ("10.0.0.5", 9810)


def test_paths_are_relative_to_the_file_wherever_rayslurm_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere there would be another store, with no jobs, no budget spent and no owner."""
    path = tmp_path / "etc/rayslurm.yaml"
    path.parent.mkdir()
    path.write_text("state_dir: state\n" + GOOD.replace("user: maija", "user: maija\n      key: keys/id"))
    for folder in (tmp_path, path.parent):
        monkeypatch.chdir(folder)
        config = load_config(Path(os.path.relpath(path)))
        assert config.state_dir == tmp_path / "etc/state"
        assert config.site("lumi").settings.ssh.key == tmp_path / "etc/keys/id"


def test_a_home_that_is_none_is_told_with_its_key(tmp_path: Path) -> None:
    fault = fault_of(tmp_path, f"state_dir: ~nouser-here/state\n{GOOD}")
    assert "FILE:1: state_dir: ~nouser-here is no home that this machine knows" in fault


def test_files_that_others_can_read_are_named(config_path: Path) -> None:
    config = load_config(config_path)
    assert check_files(config) == []
    key = config.site("puhti2").settings.ssh.key
    assert key is not None
    key.chmod(0o644)
    config.site("puhti2").settings.ssh.known_hosts.unlink()
    first, second = check_files(config)
    assert f"chmod 600 {key}" in first
    assert "known_hosts" in second
    assert "compar" in second


def test_the_file_is_found_by_option_then_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option, variable = tmp_path / "a.yaml", tmp_path / "b.yaml"
    option.write_text(GOOD)
    variable.write_text(GOOD)
    monkeypatch.setenv("RAYSLURM_CONFIG", str(variable))
    assert find_config(option) == option
    assert find_config(None) == variable
    monkeypatch.setenv("RAYSLURM_CONFIG", str(tmp_path / "gone.yaml"))
    with pytest.raises(ConfigError, match=r"gone\.yaml: no such file"):
        find_config(None)


VM = """\
vm:
  host: 192.0.2.10
  user: {user}
  host_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtra2tra2tra2tra2tra2tra2tra2tra2tra2tra2tr"]
"""


def test_where_the_keys_of_jobs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "rayslurm.yaml"
    path.write_text(VM.format(user="tunnel") + GOOD)
    config = load_config(path)
    assert config.vm is not None
    assert config.vm.keys_file == tmp_path / ".ssh/authorized_keys"
    faults = check_files(config)
    assert "vm.user: tunnel is another account than" in faults[0]
    assert "vm.authorized_keys" in faults[0]
    for line in (
        f"  authorized_keys: {tmp_path}/other\n",
        "  identity_file: /home/maija/.ssh/id_vm\n",
    ):
        path.write_text(VM.format(user="tunnel") + line + GOOD)
        assert not any("vm.user" in fault for fault in check_files(load_config(path))), "somebody said where"
    path.write_text(VM.format(user=pwd.getpwuid(os.geteuid()).pw_name) + GOOD)
    assert not any("vm.user" in fault for fault in check_files(load_config(path))), "it is one's own account"
    monkeypatch.setattr(os, "geteuid", lambda: 987654)
    assert "is another account than uid 987654" in check_files(load_config(path))[0], "a number that nobody has here"


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (
            "authorized_keys: /a\n  identity_file: /b",
            "authorized_keys: is where each job gets a key of its own, identity_file one that you manage; leave one",
        ),
        ("client_ports: 8150-8160", "dashboard_ports and client_ports overlap; give each purpose ports of its own"),
        ("serve_ports: 8000-9000", "dashboard_ports and serve_ports overlap"),
        ("metrics_ports: 80-90", "FILE:5: vm.metrics_ports: write a range of unprivileged ports such as 8100-8150"),
        ("metrics_ports: 8300-8201", "write a range of unprivileged ports"),
        ("serve_ports: 9000", "write a range of unprivileged ports"),
        ("serve_ports: 65000-65536", "write a range of unprivileged ports"),
    ],
)
def test_faults_of_the_vm(tmp_path: Path, keys: str, fault: str) -> None:
    assert fault in fault_of(tmp_path, f"{VM.format(user='maija')}  {keys}\n{GOOD}")


def test_ranges_that_touch_are_apart(tmp_path: Path) -> None:
    path = tmp_path / "rayslurm.yaml"
    path.write_text(VM.format(user="maija") + "  dashboard_ports: 8000-8150\n  serve_ports: 8301-8301\n" + GOOD)
    vm = load_config(path).vm
    assert vm is not None
    assert (len(vm.dashboard_ports), list(vm.serve_ports)) == (151, [8301])
