"""A job that brings its code along, runs it in its working folder and writes a result there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from exporter.store import submissions
from exporter.store.db import Store
from tests.lab.lab import Lab
from tests.lab.serving import SITE, Rayslurm, configure, own_site

SPEC = """\
site: lab
name: bring
cluster:
  nodes: 1
  cpus_per_node: 2
  memory_per_node: 3000M
  object_store_per_node: 200M
  time: "00:10:00"
ray: {dashboard_tunnel: false}
entrypoint: ./run.sh 7
bring:
  - {path: code, to: ., exclude: [notes]}
  - inputs.json
results: ["out/*.json"]
"""

FILES = {
    "code/run.sh": '#!/bin/sh\nexec python3 train.py "$1"\n',
    "code/train.py": (
        "import json, pathlib, sys\n"
        "from lib.helper import squared\n"
        "numbers = json.load(open('inputs.json'))\n"
        "out = pathlib.Path('out'); out.mkdir()\n"
        "result = squared(int(sys.argv[1])) + sum(numbers)\n"
        "(out / 'result.json').write_text(json.dumps({'result': result}))\n"
        "print('the result is', result)\n"
    ),
    "code/lib/__init__.py": "",
    "code/lib/helper.py": "def squared(number):\n    return number * number\n",
    "code/__pycache__/old.pyc": "left out",
    "code/notes": "left out",
    "inputs.json": "[1, 2, 3]",
}


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=Maija", "-c", "user.email=maija@example.org")
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip


def work(lab: Lab, rayslurm: Rayslurm, spec: Path) -> None:
    launched = rayslurm.json("launch", str(spec))
    run, job_id = launched["run_dir"], launched["job_id"]
    assert launched["brought"] == {"files": 5, "bytes": sum(len(FILES[f]) for f in FILES if "left out" not in FILES[f])}
    # Who launched goes on working meanwhile.
    (spec.parent / "code/train.py").write_text("raise SystemExit('not what was launched')\n")

    lab.wait(lambda: lab.state(job_id) in {"COMPLETED", "FAILED"}, 90, "its end")
    printed = rayslurm.run("logs", f"{SITE}/{job_id}").stdout
    assert lab.state(job_id) == "COMPLETED", printed
    assert "the result is 55\n" in printed
    assert json.loads(lab.sh(f"cat {run}/work/out/result.json", check=True).stdout) == {"result": 55}

    manifest = json.loads(lab.sh(f"cat {run}/manifest.json", check=True).stdout)
    listed = {file["path"]: file["sha256"] for file in manifest["files"]}
    assert set(listed) == {"run.sh", "train.py", "lib/__init__.py", "lib/helper.py", "inputs.json"}
    names = " ".join(f"'{name}'" for name in listed)
    sums = lab.sh(f"cd {run}/work && sha256sum {names}", check=True).stdout.splitlines()
    assert {line.split("  ")[1]: line.split("  ")[0] for line in sums} == listed
    code, inputs = manifest["sources"]
    assert (code["git"]["commit"], code["git"]["dirty"]) == (git(spec.parent, "rev-parse", "HEAD"), False)
    assert inputs["git"]["changes"] == ["? inputs.json"]
    assert manifest["spec"] == {"path": str(spec), "sha256": sha256sum(spec)}
    with Store(rayslurm.state_dir / "rayslurm.sqlite3") as store, store.snapshot() as connection:
        assert submissions.manifest(connection, launched["token"]) == manifest

    summary = json.loads(lab.sh(f"cat {run}/summary.json", check=True).stdout)
    results: list[dict[str, Any]] = summary["results"]
    assert [(result["path"], result["size"]) for result in results] == [("out/result.json", len('{"result": 55}'))]
    assert list((rayslurm.state_dir / "staged").iterdir()) == []


def sha256sum(path: Path) -> str:
    return subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_job_runs_what_it_brought_along(lab: Lab, ray_venv: Path, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path, ray=ray_venv)
    mine = tmp_path / "mine"
    for name, text in FILES.items():
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text(text)
    (mine / "code/run.sh").chmod(0o755)
    (mine / "train.yaml").write_text(SPEC)
    git(mine, "init", "-q")
    git(mine, "add", "code")
    git(mine, "commit", "-q", "-m", "first")
    with own_site(lab), rayslurm.serving():
        work(lab, rayslurm, mine / "train.yaml")
    assert f"site {SITE}: launch: copying 5 files" in rayslurm.log()
    assert "Traceback" not in rayslurm.log()
