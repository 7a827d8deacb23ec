"""`rayslurm init`: whatever is said to it, what it writes is read back as it was said."""

from __future__ import annotations

import itertools
import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from exporter.cli.first_config import Chosen, Vm, first_config, guess_key, read_host_keys
from exporter.config import Config, load_config
from exporter.sites import profiles
from exporter.yamlfile import load_model_text

RAYSLURM = [sys.executable, "-m", "exporter.cli.entry"]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtra2tra2tra2tra2tra2tra2tra2tra2tra2tra2tr"
SITES = sorted(profiles())


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAYSLURM")}
    return kept | {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}


def init(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RAYSLURM, "init", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        env=environment(home) | variables, check=False, cwd=home,
    )  # fmt: skip


def asked_on_a_terminal(home: Path, *arguments: str, typed: str) -> tuple[int, str]:
    """Runs it with a terminal on which somebody types; returns its exit status and what stood there in the end."""
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    with subprocess.Popen(
        [*RAYSLURM, "init", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(home), cwd=home
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # how Linux says that nobody holds the other side any more
            pass
        os.close(ours)
        return process.wait(60), shown.decode()


def chosen(name: str, **changes: Any) -> Chosen:
    profile = profiles()[name]
    host = None if profile.login_host else "login.example.org"
    values = {"user": "maija", "host": host, "project": None, "key": None} | changes
    return Chosen(profile, **values)


@pytest.mark.parametrize(
    "names", [names for length in range(1, len(SITES) + 1) for names in itertools.combinations(SITES, length)]
)
def test_the_file_is_a_configuration_for_any_of_the_known_sites(names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "rayslurm.yaml"
    path.write_text(first_config([chosen(name) for name in names], Vm(None, None, ())))
    config = load_config(path)
    assert sorted(config.resolved_sites) == sorted(names)
    assert config.vm is None
    assert all(site.settings.project is None for site in config.resolved_sites.values())


@given(
    user=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]*", fullmatch=True),
    project=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
    host=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]*", fullmatch=True),
)
def test_what_was_said_is_read_back_as_it_was_said(user: str, project: str, host: str) -> None:
    text = first_config([chosen("slurm", user=user, project=project, host=host)], Vm(host, user, [KEY]))
    read = yaml.safe_load(text)
    assert read["sites"]["slurm"] == {"project": project, "ssh": {"user": user, "host": host}}
    assert read["vm"] == {"host": host, "user": user, "host_keys": [KEY]}


@pytest.mark.parametrize("vm", [Vm("192.0.2.1", "maija", [KEY]), Vm("192.0.2.1", None, ()), Vm(None, "maija", [KEY])])
def test_this_machine_stands_there_as_a_whole_or_as_a_comment_to_be_completed(vm: Vm, tmp_path: Path) -> None:
    path = tmp_path / "rayslurm.yaml"
    text = first_config([chosen("lumi")], vm)
    path.write_text(text)
    assert (load_config(path).vm is None) == bool(vm.missing)
    start = text.index("# vm:") if vm.missing else text.index("vm:")
    end = text.index("  # Whether others")
    completed = "\n".join(line.removeprefix("# ") for line in text[start:end].splitlines())
    completed = completed.replace("ADDRESS", "192.0.2.1").replace("ACCOUNT", "maija")
    path.write_text(text[:start] + completed.replace("ssh-ed25519 BASE64", KEY) + "\n" + text[end:])
    read = load_config(path).vm
    assert read is not None
    assert (read.host, read.user, read.host_keys) == ("192.0.2.1", "maija", (KEY,))


def test_the_defaults_that_are_shown_are_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "rayslurm.yaml"
    text = first_config([chosen("lumi")], Vm("192.0.2.1", "maija", [KEY]))
    path.write_text(text)
    as_written = load_config(path)
    shown = [
        line.replace("# ", "", 1)
        if line.strip().removeprefix("# ").partition(":")[0]
        in {"state_dir", "listen", "budget", "host", "known_hosts", "shared", "dashboard_ports", "client_ports",
            "metrics_ports", "serve_ports"}
        and line.strip().startswith("# ")
        else line
        for line in text.splitlines()
    ]  # fmt: skip
    path.write_text("\n".join(shown) + "\n")
    spelled_out = load_config(path)
    assert sum(one != other for one, other in zip(shown, text.splitlines(), strict=True)) == 10
    assert spelled_out.site("lumi").login_host == as_written.site("lumi").login_host
    assert spelled_out.vm == as_written.vm
    assert spelled_out.listen_address == as_written.listen_address
    assert spelled_out.state_dir == as_written.state_dir
    assert spelled_out.site("lumi").settings.ssh.known_hosts == as_written.site("lumi").settings.ssh.known_hosts
    assert spelled_out.site("lumi").settings.budget == as_written.site("lumi").settings.budget


def test_the_example_of_an_archive_fits_the_model() -> None:
    text = first_config([chosen("lumi")], Vm(None, None, ()))
    example = "\n".join(line.removeprefix("# ") for line in text[text.index("# archive:") :].splitlines())
    named = example.replace("SERVICE", "a3s.fi").replace("NAME", "bucket")
    config = load_model_text(f"sites: {{lumi: {{ssh: {{user: maija}}}}}}\n{named}\n", Config, name="x")
    assert config.archive is not None


# -- what is guessed


def test_the_key_that_is_guessed(tmp_path: Path) -> None:
    folder = tmp_path / ".ssh"
    folder.mkdir()
    assert guess_key(tmp_path, certificate=False) is None
    for name in ("id_rsa", "id_ed25519", "id_rsa-cert.pub"):
        (folder / name).touch()
    assert guess_key(tmp_path, certificate=False) == "~/.ssh/id_ed25519"
    assert guess_key(tmp_path, certificate=True) == "~/.ssh/id_rsa"


def test_the_host_keys_that_are_found(tmp_path: Path) -> None:
    (tmp_path / "ssh_host_rsa_key.pub").write_text("ssh-rsa AAAAB3NzaC1yc2E= root@vm\n")
    (tmp_path / "ssh_host_ed25519_key.pub").write_text(f"{KEY} root@vm\n")
    (tmp_path / "ssh_host_ecdsa_key.pub").write_bytes(b"\xff no key")
    assert read_host_keys(tmp_path) == [KEY, "ssh-rsa AAAAB3NzaC1yc2E="]
    assert read_host_keys(tmp_path / "none") == []


# -- the command


def test_a_file_for_its_owner_alone_that_is_found_and_says_what_comes_next(tmp_path: Path) -> None:
    done = init(tmp_path, "--site", "lumi", "--site", "puhti", "--user", "maija", "--project", "project_1")
    path = tmp_path / ".config/rayslurm/rayslurm.yaml"
    assert (done.returncode, done.stdout) == (0, f"{path}: written; sites: lumi, puhti\n"), done.stderr
    assert "no job runs at puhti" in done.stderr
    assert done.stderr.endswith("next:\n  rayslurm config check\n  rayslurm doctor\n  rayslurm serve\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["rayslurm.yaml"]
    assert load_config(path).site("lumi").settings.project == "project_1"


def test_a_file_that_is_there_stays_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("precious\n")
    arguments = ("--site", "lumi", "--user", "maija", "--path", str(path))
    done = init(tmp_path, *arguments)
    assert (done.returncode, path.read_text()) == (1, "precious\n")
    assert "is there already" in done.stderr
    done = init(tmp_path, *arguments, "--force")
    assert done.returncode == 0, done.stderr
    assert f"rayslurm doctor --config {path}" in done.stderr
    assert load_config(path).sites
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["mine.yaml"]


def test_where_the_variable_says(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/named.yaml"
    done = init(tmp_path, "--site", "lumi", "--user", "maija", "--json", RAYSLURM_CONFIG=str(path))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["file"] == str(path)
    assert said["sites"] == ["lumi"]
    assert {"sites.lumi.project", "vm.host"} <= set(said["missing"])
    assert load_config(path).sites


def test_printing_writes_nothing(tmp_path: Path) -> None:
    done = init(tmp_path, "--site", "roihu", "--user", "maija", "--print")
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout)["sites"]["roihu"]["ssh"]["user"] == "maija"
    assert list(tmp_path.iterdir()) == []
    as_json = json.loads(init(tmp_path, "--site", "roihu", "--user", "maija", "--print", "--json").stdout)
    assert (as_json["file"], as_json["text"]) == (None, done.stdout)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = init(tmp_path, "--site", "lumi", "--user", "maija", "--path", str(tmp_path / "file/rayslurm.yaml"))
    assert done.returncode == 1
    assert "file/rayslurm.yaml: cannot be written: File exists" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ((), "--site"),
        (("--site", "lumo", "--user", "maija"), "lumo is none of: lumi"),
        (("--site", "lumi"), "--user"),
        (("--site", "lumi", "--user", "-oProxyCommand=x"), "is not an account's name"),
        (("--site", "lumi", "--user", "maija\nlisten: 0.0.0.0:1"), "is not an account's name"),
        (("--site", "lumi", "--user", "ma ija"), "is not an account's name"),
        (("--site", "lumi", "--user", "maija", "--project", "a\nb"), "is not a Slurm account"),
        (("--site", "lumi", "--user", "maija", "--project", "a\udcffb"), "--project"),
        (("--site", "slurm", "--user", "maija"), "--host"),
        (("--site", "slurm", "--user", "maija", "--host", "a b"), "is not a host's name"),
        (("--site", "lumi", "--user", "maija", "--vm-host", "#"), "is not a host's name"),
    ],
)
def test_what_is_missing_or_odd_is_named_and_nothing_is_written(
    arguments: tuple[str, ...], option: str, tmp_path: Path
) -> None:
    done = init(tmp_path, *arguments, "--path", str(tmp_path / "rayslurm.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert option in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_the_person_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "rayslurm.yaml"
    typed = "slurm lumi\nlogin.example.org\nmaija\n\nmkorhone\nproject_465000001\n192.0.2.10\n"
    status, shown = asked_on_a_terminal(tmp_path, "--path", str(path), typed=typed)
    assert status == 0, shown
    config = load_config(path)
    assert config.site("slurm").login_host == "login.example.org"
    assert [config.site(name).settings.ssh.user for name in ("slurm", "lumi")] == ["maija", "mkorhone"]
    assert [config.site(name).settings.project for name in ("slurm", "lumi")] == [None, "project_465000001"]
    status, shown = asked_on_a_terminal(tmp_path, "--path", str(path), typed="")
    assert (status, "is there already" in shown) == (1, True), "nobody is asked in vain"
