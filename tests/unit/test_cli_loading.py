"""`rayslurm --help` loads no command, and says of each what that says of itself."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest
import typer

import exporter.cli
from exporter.cli.main import COMMANDS, load

HEAVY = ("apscheduler", "boto3", "jinja2", "paramiko", "prometheus_client", "pydantic", "starlette", "uvicorn", "yaml")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_its_own_help_begins_with(name: str) -> None:
    assert (load(name).help or "").splitlines()[0] == COMMANDS[name][1]


def test_no_command_is_missing_in_the_list() -> None:
    found = set()
    for info in pkgutil.iter_modules(exporter.cli.__path__):
        register = getattr(importlib.import_module(f"exporter.cli.{info.name}"), "register", None)
        if register is not None:
            part = typer.Typer()
            register(part)
            part.command("no-other")(lambda: None)  # of a single command typer makes no group
            found |= {(name, info.name) for name in typer.main.get_group(part).commands} - {("no-other", info.name)}
    assert found == {(name, module) for name, (module, _) in COMMANDS.items()}


def test_help_loads_nothing_that_only_commands_need() -> None:
    script = (
        "import sys\nfrom exporter.cli.main import run\nsys.argv = ['rayslurm', '--help']\n"
        f"try:\n    run()\nfinally:\n    print(*(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    for name, (_, line) in COMMANDS.items():
        assert f"│ {name} " in done.stdout
        assert line[:40] in done.stdout
