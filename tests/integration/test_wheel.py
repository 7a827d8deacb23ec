"""The wheel alone is enough: an installed rayslurm needs no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

TOP = Path(__file__).parents[2]

SPEC = (
    "site: any\nname: w\ncluster: {nodes: 1, cpus_per_node: 1, memory_per_node: 1G, time: 1h}\n"
    "ray: {dashboard_tunnel: false}\n"
)
CONFIG = "sites:\n  any:\n    project: p\n    partition: small\n    ssh: {host: login.example.org, user: maija}\n"


def test_an_installed_wheel_renders_a_job(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, TOP], check=True, timeout=120)
    (wheel,) = tmp_path.glob("rayslurm_exporter-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in ("jobs/ray_job.py", "jobs/templates/ray-cluster.sbatch.j2", "prometheus/prometheus.yml"):
        assert f"exporter/_data/{name}" in names
    assert "exporter/py.typed" in names
    for name in ("web/templates/front.html", "web/templates/style.css", "practice/site.py"):
        assert f"exporter/{name}" in names
    assert not any(name.startswith("tests/") or "__pycache__" in name for name in names)

    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True, timeout=120)
    (tmp_path / "rayslurm.yaml").write_text(CONFIG)
    (tmp_path / "spec.yaml").write_text(SPEC)
    rendered = subprocess.run(
        [sys.executable, "-m", "exporter.cli.entry", "launch", "spec.yaml", "--dry-run"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rendered.returncode == 0, rendered.stderr
    assert "#SBATCH --job-name=w.rs" in rendered.stdout
    where = subprocess.run(
        [sys.executable, "-c", "import exporter; print(exporter.__file__)"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(site)), "the wheel was run, not the checkout"
