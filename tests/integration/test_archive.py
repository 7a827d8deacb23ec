"""The archive on a real Ceph RGW over TLS: whatever happens, nothing is lost and nothing is there twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.archive import reading
from exporter.archive.bucket import Bucket
from exporter.archive.collect import Collecting
from exporter.archive.layout import records_key
from exporter.archive.uploading import Archiver, read_records
from exporter.config import Config
from exporter.errors import ArchiveError, RefusedError
from exporter.store import archive, counters, ledger
from exporter.store.db import Store
from tests.ceph import rgw as rgw_module
from tests.ceph.archiving import (
    SECRET,
    SITE,
    archive_all,
    configure,
    context_of,
    files_of,
    make_jobs,
    note,
    waiting,
)
from tests.ceph.rgw import Rgw

pytestmark = pytest.mark.timeout(900)

KILLS = int(os.environ.get("RAYSLURM_ARCHIVE_KILLS", "4"))
JOBS = int(os.environ.get("RAYSLURM_ARCHIVE_JOBS", "8"))
LARGE_MB = int(os.environ.get("RAYSLURM_ARCHIVE_MB", "72"))
RAYSLURM = str(Path(sys.executable).parent / "rayslurm")


@pytest.fixture(scope="module")
def rgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rgw]:
    reason = rgw_module.why_not()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run Ceph, and cannot: {reason}", pytrace=False)
        pytest.skip(f"NOT TESTED AGAINST A REAL S3 SERVICE: {reason}")
    server = Rgw(tmp_path_factory.mktemp("ceph"))
    server.begin()
    yield server
    server.end()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")


MakeConfig = Callable[..., Config]


@pytest.fixture
def make_config(rgw: Rgw, tmp_path: Path, request: pytest.FixtureRequest) -> MakeConfig:
    def make(*, bucket: bool = True, **more: Any) -> Config:
        name = f"b{abs(hash(request.node.name)) % 10**12}"
        config = configure(tmp_path, rgw, name, **more)
        assert config.archive is not None
        if bucket:
            Bucket(config.archive)._client.create_bucket(Bucket=name)
        return config

    return make


@pytest.fixture
def config(make_config: MakeConfig) -> Config:
    return make_config()


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    with Store(config.store_path) as opened:
        yield opened


def bucket_of(config: Config) -> Bucket:
    assert config.archive is not None
    return Bucket(config.archive)


def write_keys(config: Config, key: str, secret: str) -> None:
    assert config.archive is not None
    assert config.archive.credentials_file is not None
    config.archive.credentials_file.write_text(f"aws_access_key_id = {key}\naws_secret_access_key = {secret}\n")


def collected(config: Config, store: Store, names: list[str]) -> None:
    """Brings jobs to this machine, none to the bucket."""
    files = {name: content for job_id in names for name, content in files_of(job_id).items()}
    context = context_of(config, store, files)
    for _ in names:
        Collecting(config).run(context)
        time.sleep(0.11)  # ten an hour, which is a second there


def error_of(store: Store) -> str:
    with store.snapshot() as connection:
        return archive.entries(connection, unfinished=True)[0].error or ""


def try_now(config: Config, store: Store) -> None:
    """What `rayslurm archive retry` and the next round do."""
    store.write(
        lambda connection: archive.retry(connection, None, None, spooled=[f"{SITE}/{n}" for n in _spooled(config)])
    )
    Archiver(config, store).round()


def _spooled(config: Config) -> list[str]:
    return [path.name for path in (config.state_dir / "archive" / SITE).iterdir() if not path.name.endswith(".part")]


def assert_whole(config: Config, names: list[str]) -> reading.Verified:
    """Every job has one manifest, all that it names is there and sound, and nothing is there beside it."""
    bucket = bucket_of(config)
    found = reading.verify(bucket)
    assert found.faults == []
    assert found.loose == 0
    assert sorted(one.key.split("/")[-2] for one in reading.manifests(bucket)) == sorted(names)
    uploads = bucket._client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])
    assert uploads == []
    return found


def test_a_job_is_kept_without_its_secrets_and_comes_back(config: Config, store: Store, tmp_path: Path) -> None:
    (job_id,) = make_jobs(store, 100, 1)
    archive_all(config, store)
    assert waiting(store) == 0
    bucket = bucket_of(config)
    found = assert_whole(config, [job_id])
    key, manifest = reading.manifest_of(bucket, SITE, job_id)
    assert len(list(bucket.listed())) <= 10
    for file in manifest["files"]:
        path = reading.get(bucket, file, tmp_path / "got")
        assert SECRET not in path.read_text(), file["name"]
    assert SECRET not in json.dumps(manifest)
    assert {file["name"] for file in manifest["files"]} == {
        f"slurm-{job_id}.out", "summary.json", "work/out/result.json", "sent.json", "raw.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "got/work/out/result.json").read_text()) == {"of": int(job_id)}
    assert "a line\n" * 2000 in (tmp_path / f"got/slurm-{job_id}.out").read_text()
    (record,) = read_records(bucket, records_key(SITE, "project_1", manifest["end_time"]))
    assert (record["job_id"], record["billing_units"], record["manifest"]) == (job_id, int(job_id) / 7, key)
    note("a job is kept", jobs=1, objects=found.objects, lost=1 - found.jobs)


def test_keeping_it_again_sends_nothing_again(config: Config, store: Store) -> None:
    names = make_jobs(store, 110, 1)
    archive_all(config, store)
    before = {one.key: one.modified for one in bucket_of(config).listed("_objects/")}
    store.write(lambda connection: connection.execute("UPDATE archive_jobs SET state = 'waiting'"))
    time.sleep(1.1)
    archive_all(config, store)
    assert {one.key: one.modified for one in bucket_of(config).listed("_objects/")} == before
    assert_whole(config, names)


def test_what_keeps_the_archive_from_its_bucket_is_told_and_costs_nothing(
    config: Config, store: Store, rgw: Rgw
) -> None:
    names = make_jobs(store, 120, 2)
    collected(config, store, names)
    write_keys(config, "AKTEST", "WRONG")
    try_now(config, store)
    assert "the secret key is wrong" in error_of(store)
    write_keys(config, "AKTEST", "SKTEST")
    rgw.admin("user", "suspend", "--uid", "test")
    try_now(config, store)
    assert "the user may be suspended" in error_of(store)
    rgw.admin("user", "enable", "--uid", "test")
    rgw.admin("key", "rm", "--uid", "test", "--access-key", "AKTEST")
    try_now(config, store)
    assert "access key is not known" in error_of(store)
    rgw.admin("key", "create", "--uid", "test", "--access-key", "AKTEST", "--secret-key", "SKTEST")
    bucket = bucket_of(config)
    bucket._client.put_bucket_acl(Bucket=bucket.name, ACL="public-read")
    try_now(config, store)
    assert "can be read by others" in error_of(store)
    bucket._client.put_bucket_acl(Bucket=bucket.name, ACL="private")
    rgw.kill()
    try_now(config, store)
    assert "cannot be reached" in error_of(store)
    rgw.start()
    try_now(config, store)
    assert waiting(store) == 0
    found = assert_whole(config, names)
    note("wrong secret, suspended and revoked user, open bucket, server gone", jobs=2, objects=found.objects,
         lost=2 - found.jobs)  # fmt: skip


def test_a_bucket_that_is_missing(make_config: MakeConfig) -> None:
    config = make_config(bucket=False)
    with Store(config.store_path) as store:
        names = make_jobs(store, 130, 1)
        collected(config, store, names)
        Archiver(config, store).round()
        assert "there is no bucket" in error_of(store)
        bucket = bucket_of(config)
        bucket._client.create_bucket(Bucket=bucket.name)
        try_now(config, store)
    found = assert_whole(config, names)
    note("bucket missing", jobs=1, objects=found.objects, lost=1 - found.jobs)


def test_what_is_tried_too_long_is_given_up_loudly_and_can_be_tried_again(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(bucket=False, give_up_after="1s")
    with Store(config.store_path) as store:
        names = make_jobs(store, 135, 1)
        collected(config, store, names)
        Archiver(config, store, clock=lambda: time.time() + 60).round()
        with store.snapshot() as connection:
            (entry,) = archive.entries(connection)
            told = {
                c.labels["outcome"]: c.value for c in counters.read(connection) if c.name == "archive_objects_total"
            }
        assert entry.state == "given_up"
        assert told["given_up"] == entry.objects
        assert "is given up" in caplog.text
        bucket = bucket_of(config)
        bucket._client.create_bucket(Bucket=bucket.name)
        try_now(config, store)
    assert_whole(config, names)


@pytest.mark.skipif(os.geteuid() != 0, reason="a disk is made full by mounting a small one, which needs root")
def test_a_full_disk_here(config: Config, store: Store) -> None:
    names = make_jobs(store, 140, 1)
    small = config.state_dir / "archive"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    try:
        filler = small / "filler"
        filler.write_bytes(b"x" * 60_000)
        files = files_of(names[0])
        context = context_of(config, store, files)
        with pytest.raises(ArchiveError, match="No space left on device; is there room on this machine's disk"):
            Collecting(config).run(context)
        assert waiting(store) == 1
        assert [path.name for path in small.rglob("*") if path.is_file()] == ["filler"]
        filler.unlink()
        archive_all(config, store)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    found = assert_whole(config, names)
    note("local disk full", jobs=1, objects=found.objects, lost=1 - found.jobs)


def test_a_flipped_byte_is_found(config: Config, store: Store) -> None:
    make_jobs(store, 150, 1)
    archive_all(config, store)
    bucket = bucket_of(config)
    assert reading.verify(bucket).faults == []
    for one in list(bucket.listed("_objects/")):
        content = bytearray(bucket.get(one.key))
        content[len(content) // 2] ^= 1
        bucket.put(one.key, bytes(content))
        (fault,) = reading.verify(bucket).faults
        assert one.key in fault
        assert "is damaged" in fault
        content[len(content) // 2] ^= 1
        bucket.put(one.key, bytes(content))
    note("flipped bytes found", flipped=len(list(bucket.listed("_objects/"))))


_UPLOAD = """\
import resource, sys
from pathlib import Path
from exporter.archive.bucket import Bucket
from exporter.config import load_config
bucket = Bucket(load_config(Path(sys.argv[1])).archive)
bucket.put("small", b"first, so that all is loaded")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bucket.put_file("large", Path(sys.argv[2]))
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_large_file_goes_in_parts_within_little_memory(config: Config, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        for _ in range(LARGE_MB):
            file.write(os.urandom(1_000_000))
    done = subprocess.run(
        [sys.executable, "-c", _UPLOAD, str(tmp_path / "rayslurm.yaml"), str(large)], capture_output=True, text=True,
        check=True, timeout=300,
    )  # fmt: skip
    before, peak = (int(word) / 1024 for word in done.stdout.split())
    assert peak - before < 64, "MiB beyond what a small upload takes"
    stored = bucket_of(config).stored("large")
    assert stored is not None
    assert stored.size == large.stat().st_size
    note("large file in parts", megabytes=LARGE_MB, peak_rss_mib=round(peak), beyond_small_mib=round(peak - before))


def test_the_server_dies_in_the_middle_of_a_large_file(config: Config, rgw: Rgw, tmp_path: Path) -> None:
    large = tmp_path / "large"
    content = os.urandom(1 << 20) * 72
    large.write_bytes(content)
    bucket, watcher = bucket_of(config), bucket_of(config)
    errors: list[Exception] = []

    def send() -> None:
        try:
            bucket.put_file("large", large)
        except ArchiveError as error:
            errors.append(error)

    sending = threading.Thread(target=send)
    sending.start()
    end = time.monotonic() + 60
    while time.monotonic() < end and sending.is_alive():
        uploads = watcher._client.list_multipart_uploads(Bucket=watcher.name).get("Uploads", [])
        if uploads and watcher._client.list_parts(
            Bucket=watcher.name, Key=uploads[0]["Key"], UploadId=uploads[0]["UploadId"]
        ).get("Parts"):
            break
    rgw.kill()
    sending.join(120)
    rgw.start()
    assert len(errors) == 1
    assert "cannot be reached" in str(errors[0])
    assert watcher.stored("large") is None, "a half upload is seen as none"
    watcher.put_file("large", large)
    assert b"".join(watcher.pieces("large")) == content
    assert watcher._client.list_multipart_uploads(Bucket=watcher.name).get("Uploads", []) == []
    note("server killed in the middle of a large file", megabytes=72)


def await_moved(store: Store, kept: int, child: subprocess.Popen[bytes]) -> None:
    """Waits until more is kept than was, or the process has ended."""
    end = time.monotonic() + 60
    while archived(store) == kept and child.poll() is None:
        assert time.monotonic() < end, "nothing is kept"
        time.sleep(0.01)


def test_killed_at_any_moment_all_is_kept_once_and_a_lost_store_comes_back(config: Config, tmp_path: Path) -> None:
    with Store(config.store_path) as store:
        names = make_jobs(store, 1000, JOBS)
    random.seed(7)
    kills = 0
    path = tmp_path / "rayslurm.yaml"
    command = [sys.executable, "-m", "tests.ceph.archiving", str(path)]
    moved: list[int] = []
    while kills < KILLS:
        with Store(config.store_path) as store:
            kept = archived(store)
            if kept == len(names) - 1:  # it shall never be done before it is killed
                names += make_jobs(store, 1000 + len(names), JOBS // 2)
        child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert child.stdout is not None
        with child.stdout:
            assert child.stdout.readline() == b"begun\n"
            if kills % 2:  # every other one when something has been kept, however slow the machine is
                with Store(config.store_path) as store:
                    await_moved(store, kept, child)
            time.sleep(random.uniform(0.0, 0.35))
            child.send_signal(signal.SIGKILL)
            if child.wait() != -signal.SIGKILL:  # it was done
                with Store(config.store_path) as store:
                    names += make_jobs(store, 1000 + len(names), JOBS)
                continue
        kills += 1
        with Store(config.store_path) as store:
            moved.append(archived(store) - kept)
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, timeout=300)
    found = assert_whole(config, names)
    with Store(config.store_path) as store:
        assert waiting(store) == 0
        with store.snapshot() as connection:
            entries, sums = ledger.entries(connection), counters.read(connection)
    assert sum(moved) > 0, "it was killed while it worked"
    bucket = bucket_of(config)
    with_month = [one.key for one in bucket.listed("_records/")]
    records = [record for key in with_month for record in read_records(bucket, key)]
    assert sorted(record["job_id"] for record in records) == sorted(names)

    costs = rayslurm(path, "costs", "--json").stdout
    shutil.rmtree(config.state_dir)
    came = json.loads(rayslurm(path, "import", "--json").stdout)
    assert (came["jobs"], came["ledger"], came["faults"]) == (len(names), len(names), [])
    assert rayslurm(path, "costs", "--json").stdout == costs
    assert json.loads(costs)["rows"]
    with Store(config.store_path) as store:
        with store.snapshot() as connection:
            assert ledger.entries(connection) == entries
            back = {(c.name, json.dumps(dict(c.labels))): c.value for c in counters.read(connection)}
            ours = ("jobs_finished_total", "billing_units_total", "jobs_submitted_total")
            for counter in sums:
                if counter.name in ours:
                    assert back[counter.name, json.dumps(dict(counter.labels))] == counter.value
        with pytest.raises(RefusedError, match="knows jobs already"):
            reading.restore(bucket, store, now=time.time())
        context = context_of(config, store, {})
        Collecting(config).run(context)
        assert waiting(store) == 0, "what is kept is not kept again"
    note("killed at random moments", jobs=found.jobs, objects=found.objects, lost=len(names) - found.jobs, kills=kills,
         kept_before_last_kill=sum(moved))  # fmt: skip
    note("lost store back from the bucket", restored=came["jobs"], lost=len(names) - came["ledger"])


def archived(store: Store) -> int:
    with store.snapshot() as connection:
        return sum(entry.state == "kept" for entry in archive.entries(connection))


def rayslurm(config: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAYSLURM, words[0], *words[1:], "--config", str(config)], capture_output=True, text=True, check=check,
        timeout=120,
    )  # fmt: skip


def test_the_commands(config: Config, store: Store, tmp_path: Path) -> None:
    kept, waits = make_jobs(store, 160, 1), "161"
    archive_all(config, store)
    make_jobs(store, int(waits), 1)
    context = context_of(config, store, files_of(waits))
    Collecting(config).run(context)
    path = tmp_path / "rayslurm.yaml"
    listed = json.loads(rayslurm(path, "archive", "list", "--json").stdout)
    assert [one["job"] for one in listed["kept"]] == kept
    assert [one["job_id"] for one in listed["waiting"]] == [waits]
    assert "slurm-160.out" in rayslurm(path, "archive", "show", "160").stdout
    got = rayslurm(path, "archive", "get", f"{SITE}/160", str(tmp_path / "got"), "--file", "summary.json").stdout
    assert json.loads(Path(got.strip()).read_text())["job_id"] == "160"
    assert "1 jobs, 5 objects, 5 of them" in rayslurm(path, "archive", "verify").stdout
    assert "1 jobs are tried again" in rayslurm(path, "archive", "retry", waits).stdout
    checked = json.loads(rayslurm(path, "archive", "check", "--expire-days", "365", "--json").stdout)
    assert (checked["private"], checked["expire_days"]) == (True, 365)
    assert rayslurm(path, "archive", "show", "999", check=False).returncode == 3
    bucket = bucket_of(config)
    bucket._client.delete_object(Bucket=bucket.name, Key="mine/" + next(bucket.listed("_objects/")).key)
    gone = rayslurm(path, "archive", "verify", check=False)
    assert gone.returncode == 1
    assert "there is no such object" in gone.stdout
