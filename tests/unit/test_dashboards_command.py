"""`rayslurm dashboards build`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from exporter.cli.main import app
from exporter.errors import RayslurmError
from grafana import build as builder
from tests.prometheus_server import TOP


def rayslurm(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["dashboards", *arguments])


def test_the_checked_in_json_is_what_the_sources_make() -> None:
    assert builder.stale(TOP / "grafana" / "dashboards", builder.generate()) == []


def test_check_tells_what_differs_and_changes_nothing_and_build_mends_it(tmp_path: Path) -> None:
    shutil.copytree(TOP / "grafana" / "dashboards", tmp_path, dirs_exist_ok=True)
    changed, gone = tmp_path / "job.json", tmp_path / "gone.json"
    changed.write_text("{}")
    gone.write_text('{"uid": "rayslurm-gone"}')

    changed.write_text('{"uid": "rayslurm-job"}')
    told = rayslurm("build", "--check", "--output", str(tmp_path))
    assert isinstance(told.exception, RayslurmError)
    assert "2 of the dashboards differ" in str(told.exception)
    assert gone.exists()
    assert f"{changed}: is not what its source makes" in told.stdout
    assert f"{gone}: is not what its source makes" in told.stdout

    done = rayslurm("build", "--output", str(tmp_path), "--json")
    assert json.loads(done.stdout)["changed"] == ["gone.json", "job.json"]
    assert rayslurm("build", "--check", "--output", str(tmp_path)).exit_code == 0
    assert changed.read_text() == (TOP / "grafana" / "dashboards" / "job.json").read_text()
    assert not gone.exists()


def test_a_folder_that_holds_somebodys_own_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text('{"uid": "mine"}')

    told = rayslurm("build", "--output", str(tmp_path))

    assert "mine.json is no dashboard of rayslurm" in str(told.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


def test_without_grafanalib_it_says_what_to_install_and_where_the_made_ones_lie(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "grafanalib", None)
    for name in [name for name in sys.modules if name.startswith(("grafanalib.", "grafana."))]:
        monkeypatch.delitem(sys.modules, name)

    told = rayslurm("build", "--output", str(tmp_path))

    assert "rayslurm-exporter[dashboards]" in str(told.exception)
    assert str(TOP / "grafana" / "dashboards") in str(told.exception)


def test_two_with_one_uid_are_refused(tmp_path: Path) -> None:
    source = (TOP / "grafana" / "tunnels.dashboard.py").read_text()
    (tmp_path / "a.dashboard.py").write_text(source)
    (tmp_path / "b.dashboard.py").write_text(source)

    with pytest.raises(ValueError, match="one uid"):
        builder.generate(tmp_path)
