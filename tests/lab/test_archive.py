"""A real Ray job's logs in a real S3 bucket, by a `serve` that goes on answering meanwhile."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import yaml

from exporter.archive import reading
from exporter.archive.bucket import Bucket
from exporter.config import load_config
from tests.ceph import rgw as rgw_module
from tests.ceph.archiving import note
from tests.ceph.rgw import Rgw
from tests.lab.lab import Lab
from tests.lab.serving import SITE, configure, own_site

SPEC = """\
site: lab
name: kept
cluster: {nodes: 2, cpus_per_node: 2, memory_per_node: 3000M, object_store_per_node: 200M, time: "00:10:00"}
ray: {dashboard_tunnel: false, env: {WANDB_API_KEY: a-secret-of-mine-1}}
entrypoint: sh work.sh
bring:
  - {path: code, to: .}
results: ["out/*.json"]
"""

WORK = """\
mkdir out
echo '{"result": 42}' > out/result.json
echo "the driver speaks, and its key is $WANDB_API_KEY"
"""


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_what_a_ray_job_left_behind_is_in_the_bucket_in_at_most_ten_objects(
    lab: Lab, ray_venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = rgw_module.why_not()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run Ceph, and cannot: {reason}", pytrace=False)
        pytest.skip(f"NOT TESTED AGAINST A REAL S3 SERVICE: {reason}")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    (tmp_path / "ceph").mkdir()
    rgw = Rgw(tmp_path / "ceph")  # in the VM's network, as serve is
    rgw.begin()
    try:
        _follow(lab, ray_venv, tmp_path, rgw)
    finally:
        rgw.end()


def _follow(lab: Lab, ray_venv: Path, folder: Path, rgw: Rgw) -> None:
    rayslurm = configure(lab, folder, ray=ray_venv, seff="slurm")
    path = folder / "rayslurm.yaml"
    credentials = folder / "credentials"
    credentials.touch(0o600)
    credentials.write_text("aws_access_key_id = AKTEST\naws_secret_access_key = SKTEST\n")
    written = yaml.safe_load(path.read_text())
    written["archive"] = {
        "endpoint": rgw.endpoint, "bucket": "lab-archive", "credentials_file": str(credentials),
        "ca_bundle": str(rgw.ca_bundle),
    }  # fmt: skip
    path.write_text(yaml.safe_dump(written))
    settings = load_config(path).archive
    assert settings is not None
    bucket = Bucket(settings)
    bucket._client.create_bucket(Bucket="lab-archive")
    (folder / "code").mkdir()
    (folder / "code/work.sh").write_text(WORK)
    (folder / "kept.yaml").write_text(SPEC)
    with own_site(lab), rayslurm.serving():
        launched = rayslurm.json("launch", str(folder / "kept.yaml"))
        job_id = launched["job_id"]
        lab.wait(lambda: lab.state(job_id) in {"COMPLETED", "FAILED"}, 150, "its end")
        assert lab.state(job_id) == "COMPLETED", rayslurm.run("logs", f"{SITE}/{job_id}").stdout
        lab.wait(lambda: list(reading.manifests(bucket, SITE, job_id)), 120, "its manifest in the bucket")
        lab.wait(lambda: rayslurm.value("archive_pending_objects") == 0, 30, "nothing on its way")
        sent = rayslurm.value("archive_objects_total", outcome="uploaded")
    keys = [one.key for one in bucket.listed()]
    assert len(keys) <= 10, keys
    _, manifest = reading.manifest_of(bucket, SITE, job_id)
    kept = {file["name"]: b"".join(reading.content(bucket, file)) for file in manifest["files"]}
    printed = kept[f"slurm-{job_id}.out"].decode()
    assert json.loads(kept["work/out/result.json"]) == {"result": 42}
    assert json.loads(kept["manifest.json"])["files"][0]["path"] == "work.sh"
    assert "seff" in {text["source"] for text in json.loads(kept["raw.json"])}
    texts = {"": printed}
    with tarfile.open(fileobj=io.BytesIO(kept["logs.tar.gz"])) as logs:
        for member in logs:
            content = logs.extractfile(member)
            assert content is not None
            if member.name.endswith(".tar.gz"):
                with tarfile.open(fileobj=io.BytesIO(content.read())) as session:
                    texts |= {
                        f"{member.name}/{one.name}": (session.extractfile(one) or io.BytesIO()).read().decode("latin-1")
                        for one in session
                    }
            else:
                texts[member.name] = content.read().decode("latin-1")
    assert any("the driver speaks, and its key is [REDACTED]" in text for text in texts.values()), sorted(texts)
    assert sum(name.endswith("raylet.out") for name in texts) == 2, sorted(texts)
    assert [name for name, text in texts.items() if "a-secret-of-mine-1" in text] == []
    assert "a-secret-of-mine-1" not in json.dumps(manifest)
    found = reading.verify(bucket)
    assert (found.faults, found.loose, found.jobs) == ([], 0, 1)
    assert sent == found.objects + 1
    assert "Traceback" not in rayslurm.log()
    note("a real Ray job in the lab", jobs=1, objects=found.objects, lost=1 - found.jobs, in_bucket=len(keys))
