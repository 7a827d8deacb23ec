"""What is taken out of texts, what is kept of a job and what isn't, and what comes of texts that people kept."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.archive.collect import FETCHES_PER_HOUR, RETRY_SECONDS, Collecting
from exporter.archive.layout import manifest_key, named_by, records_key
from exporter.archive.redact import Redactor
from exporter.archive.spool import read_draft, spool_folder
from exporter.archive.texts import import_texts
from exporter.archive_settings import ArchiveSettings
from exporter.client.client import SiteClient
from exporter.client.replay import Exchange, ReplayTransport
from exporter.config import Config
from exporter.errors import ConfigError, SiteError
from exporter.probes import ProbeContext
from exporter.store import archive, bills, ledger
from exporter.store.commands import CommandLedger
from exporter.store.db import Store
from exporter.yamlfile import load_model_text
from tests.ceph.archiving import SECRET, SITE, configure, files_of, make_jobs, run_dir
from tests.site_texts import BILLED, SEFF
from tests.slurm_texts import finished, sacct
from tests.unit.conftest import Clock, MakeSite

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nabcdef\n-----END OPENSSH PRIVATE KEY-----"

CAUGHT = {
    "export AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENGbPxRfiCY": "wJalrXUtnFEMIK7MDENGbPxRfiCY",
    '"AWS_SESSION_TOKEN": "FwoGZXIvYXdzEBYaDH"': "FwoGZXIvYXdzEBYaDH",
    "AWS_ANYTHING='some value'": "some",
    "key AKIAIOSFODNN7EXAMPLE in the log": "AKIAIOSFODNN7EXAMPLE",
    "pip install --index-url https://maija:pass-word@pypi.example.org/simple": "pass-word",
    "postgresql://ray:s3cret@db:5432/runs": "s3cret",
    "Authorization: Bearer abcdef0123456789": "abcdef0123456789",
    "authorization: Basic bWFpamE6c2VjcmV0": "bWFpamE6c2VjcmV0",
    "RAY_AUTH_TOKEN=0123456789abcdef0123456789abcdef": "0123456789abcdef",
    "wandb: api_key=0a1b2c3d4e5f": "0a1b2c3d4e5f",
    "password: correct-horse": "correct-horse",
    "mysql --password hunter22 -u maija": "hunter22",
    "login --token=abcdefgh": "abcdefgh",
    "{'client_secret': 'xyz-123-xyz'}": "xyz-123-xyz",
    "GET /b/o?X-Amz-Signature=deadbeef00&x=1": "deadbeef00",
    "clone with ghp_abcdefghijklmnopqrstuvwxyz0123456789": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "huggingface hf_abcdefghijklmnopqrstuvwxyz": "hf_abcdefghijklmnopqrstuvwxyz",
    "openai sk-abcdefghijklmnopqrstuvwx": "sk-abcdefghijklmnopqrstuvwx",
    "jwt eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4": "SflKxwRJSMeKKF2QT4",
    f"a key\n{KEY}\nafter": "b3BlbnNzaC1rZXktdjEAAAAA",
    "the one that is known: known-secret-1!": "known-secret-1!",
}

LEFT = (
    "max_tokens=512 and num_tokens: 1000",
    "token authentication is enabled",
    "use_token: true",
    "the password is asked for",
    "https://docs.ray.io:443/en/latest",
    "srun --ntasks=4 --cpus-per-task=2",
    '"token": "abcdefghjkmn"',
    "keyboard: finnish",
    "epoch 3: loss=0.25 tokens/s: 18000",
)


@pytest.mark.parametrize("text", CAUGHT)
def test_secrets_are_taken_out(text: str) -> None:
    redactor = Redactor(["known-secret-1!"])
    clean = redactor.text(f"before\n{text}\nlast line\n")
    assert CAUGHT[text] not in clean
    assert "[REDACTED]" in clean
    assert clean.startswith("before\n")
    assert clean.endswith("last line\n")
    assert redactor.count >= 1


@pytest.mark.parametrize("text", LEFT)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor(harmless=["abcdefghjkmn"]).text(text) == text


@given(
    st.lists(st.sampled_from(["word ", "a=b ", "\n", "x" * 5000, ", ", "ä"]), max_size=600),
    st.integers(min_value=0, max_value=600),
    st.integers(min_value=1, max_value=70_000),
)
def test_a_known_secret_is_found_however_a_text_comes_in_pieces(around: list[str], at: int, size: int) -> None:
    secret = "pa55phrase-of-the-job"
    content = ("".join(around[:at]) + f" {secret} " + "".join(around[at:])).encode()
    pieces = [content[begin : begin + size] for begin in range(0, len(content), size)]
    clean = b"".join(Redactor([secret]).stream(pieces))
    assert clean == content.replace(secret.encode(), b"[REDACTED]")


@given(st.binary(max_size=3000))
def test_any_bytes_are_taken(content: bytes) -> None:
    once = b"".join(Redactor().stream([content]))
    assert b"".join(Redactor().stream([once])) == once


@pytest.mark.parametrize("of", ["-", "a", ".", "a-", "eyJ", "=", "token", "://", "a:", "-----BEGIN ", "password "])
def test_no_line_takes_for_ever(of: str) -> None:
    began = time.process_time()
    Redactor(["known-secret"]).text(of * (500_000 // len(of)))
    assert time.process_time() - began < 10


def test_keys_tell_site_project_day_and_job() -> None:
    key = manifest_key("lumi", "project_1", 1_767_225_599, "12_3")
    assert key == "lumi/project_1/2025/12/31/12_3/manifest.json"
    assert named_by(key) == {"site": "lumi", "project": "project_1", "day": "2025/12/31", "job": "12_3"}
    assert named_by(records_key("lumi", None, 0)) is None
    assert records_key("lumi", "a/../b", 0) == "_records/lumi/a_.._b/1970-01.ndjson.gz"


# --- what is kept of a job --------------------------------------------------------------------------------------------


@pytest.fixture
def archiving(tmp_path: Path) -> Config:
    return configure(tmp_path / "own", None, "bucket", max_file="1M", max_job="3M", max_results=1)


def collect_one(config: Config, files: dict[str, bytes]) -> tuple[dict[str, str], dict[str, str], ReplayTransport]:
    """Returns what is kept of job 7 by name, why something isn't, and what was asked."""
    with Store(config.store_path) as store:
        make_jobs(store, 7, 1)
        context, transport = context_with(config, store, files)
        Collecting(config).run(context)
    folder = spool_folder(config.state_dir, SITE, "7")
    draft = read_draft(folder)
    assert draft is not None
    kept = {}
    for one in draft["files"]:
        content = (folder / one["object"]).read_bytes()
        plain = gzip.decompress(content) if one["encoding"] == "gzip" else content
        assert len(plain) == one["size"]
        kept[one["name"]] = plain.decode("latin-1")
    return kept, {one["name"]: one["reason"] for one in draft["left_out"]}, transport


def context_with(
    config: Config, store: Store, files: dict[str, bytes], exchanges: list[Exchange] | None = None
) -> tuple[ProbeContext, ReplayTransport]:
    site = config.site(SITE)
    transport = ReplayTransport(exchanges or [], files)
    ledger = CommandLedger.for_site(store, site)
    return ProbeContext(site=site, client=SiteClient(SITE, transport, ledger), store=store, ledger=ledger), transport


def test_the_middle_of_a_huge_log_is_cut_with_a_note(archiving: Config) -> None:
    log = b"".join(b"line %07d\n" % number for number in range(200_000))
    kept, _, _ = collect_one(archiving, {f"{run_dir('7')}/slurm-7.out": log})
    text = kept["slurm-7.out"]
    assert len(text) < 1_100_000
    assert text.startswith("line 0000000\n")
    assert text.endswith("line 0199999\n")
    assert f"bytes of {len(log)} are left out here: archive.max_file" in text


def test_what_is_left_out_is_told_with_its_reason(archiving: Config) -> None:
    files = files_of("7") | {f"{run_dir('7')}/work/out/result.json": b"\0" * 2_000_000}
    kept, left_out, _ = collect_one(archiving, files)
    assert "work/out/result.json" not in kept
    assert "larger than archive.max_file" in left_out["work/out/result.json"]
    assert "is not there" in left_out["logs.tar.gz"]
    assert "work.diff" not in left_out, "only jobs that bring files have one"


def packed_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return packed.getvalue()


def unpacked(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        return {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar}


def test_packed_logs_lose_their_secrets_and_nothing_else(archiving: Config) -> None:
    node = packed_of({"session/raylet.out": b"RAY_AUTH_TOKEN=" + b"ab" * 32 + b"\n", "session/core": bytes(range(256))})
    packed = packed_of(
        {
            "session/driver.log": f"key {SECRET}\nok\n".encode(),
            "../../escape.log": b"x\n",
            "ray-c1.tar.gz": node,
            "ray-c2.tar.gz": b"damaged",
        }
    )
    kept, _, _ = collect_one(archiving, {f"{run_dir('7')}/logs.tar.gz": packed})
    texts = unpacked(kept["logs.tar.gz"].encode("latin-1"))
    assert unpacked(texts.pop("ray-c1.tar.gz")) == {
        "session/raylet.out": b"RAY_AUTH_TOKEN=[REDACTED]\n",
        "session/core": bytes(range(256)),
    }
    assert texts.pop("ray-c2.tar.gz").startswith(b"[left out: it cannot be unpacked")
    assert texts == {"session/driver.log": b"key [REDACTED]\nok\n", "../../escape.log": b"x\n"}


def test_a_packed_file_that_is_none_is_left_out(archiving: Config) -> None:
    _, left_out, _ = collect_one(archiving, {f"{run_dir('7')}/logs.tar.gz": b"not packed"})
    assert "cannot be unpacked" in left_out["logs.tar.gz"]


def test_the_token_of_its_ray_is_looked_for_and_not_kept(archiving: Config) -> None:
    files = {
        f"{run_dir('7')}/ray_auth_token": b"f00dfeedf00dfeed\n",
        f"{run_dir('7')}/slurm-7.out": b"it is f00dfeedf00dfeed\n",
    }
    kept, _, transport = collect_one(archiving, files)
    assert kept["slurm-7.out"] == "it is [REDACTED]\n"
    assert "ray_auth_token" not in kept
    assert f"{run_dir('7')}/plan.json" not in [str(what) for _, what in transport.asked]
    assert SECRET not in json.dumps(kept)


def test_all_files_of_a_job_cost_one_command_and_ten_jobs_an_hour(archiving: Config) -> None:
    with Store(archiving.store_path) as store:
        names = make_jobs(store, 1, FETCHES_PER_HOUR + 2)
        files = {name: content for job_id in names for name, content in files_of(job_id).items()}
        context, transport = context_with(archiving, store, files)
        collecting = Collecting(archiving)
        for number in range(1, len(names) + 1):
            collecting.run(context)
            sent = context.ledger.sent("fetch")
            assert sent <= FETCHES_PER_HOUR, number
        asked = {str(what).split("/")[2] for verb, what in transport.asked if verb == "fetch"}
        assert len(asked) >= FETCHES_PER_HOUR


def test_a_site_that_never_gives_the_files_costs_only_them(archiving: Config) -> None:
    with Store(archiving.store_path) as store:
        make_jobs(store, 7, 1)
        exchanges = [Exchange("fetch", raises="SessionLostError", repeat=True)]
        context, _ = context_with(archiving, store, {}, exchanges)
        for _ in RETRY_SECONDS:
            store.write(lambda connection: connection.execute("UPDATE archive_jobs SET after = 0"))
            with pytest.raises(SiteError):
                Collecting(archiving).run(context)
        store.write(lambda connection: connection.execute("UPDATE archive_jobs SET after = 0"))
        Collecting(archiving).run(context)
        with store.snapshot() as connection:
            assert [entry.state for entry in archive.entries(connection)] == ["spooled"]
    draft = read_draft(spool_folder(archiving.state_dir, SITE, "7"))
    assert draft is not None
    assert "it could not be fetched" in draft["left_out"][0]["reason"]
    assert draft["rows"]["ledger"][0]["units"] == 1


def test_what_cannot_be_read_now_is_asked_for_again(archiving: Config) -> None:
    with Store(archiving.store_path) as store:
        make_jobs(store, 7, 1)
        context, transport = context_with(archiving, store, files_of("7"))
        transport.unreadable = {f"{run_dir('7')}/slurm-7.out": "Stale file handle"}

        def collect_now() -> dict[str, Any] | None:
            store.write(lambda connection: connection.execute("UPDATE archive_jobs SET after = 0"))
            Collecting(archiving).run(context)
            return read_draft(spool_folder(archiving.state_dir, SITE, "7"))

        for _ in RETRY_SECONDS[1:]:
            with pytest.raises(SiteError, match=r"slurm-7\.out could not be read: Stale file handle"):
                collect_now()
        draft = collect_now()
    assert draft is not None
    reasons = {one["name"]: one["reason"] for one in draft["left_out"]}
    assert reasons["slurm-7.out"] == "it could not be read: Stale file handle"
    assert "summary.json" in {one["name"] for one in draft["files"]}, "the others are kept"


def test_without_the_token_of_its_ray_no_file_is_kept(archiving: Config) -> None:
    """It could stand in any of them."""
    with Store(archiving.store_path) as store:
        make_jobs(store, 7, 1)
        context, transport = context_with(archiving, store, files_of("7"))
        transport.unreadable = {f"{run_dir('7')}/ray_auth_token": "Stale file handle"}
        for _ in RETRY_SECONDS:
            store.write(lambda connection: connection.execute("UPDATE archive_jobs SET after = 0"))
            with pytest.raises(SiteError, match="ray_auth_token could not be read"):
                Collecting(archiving).run(context)
        store.write(lambda connection: connection.execute("UPDATE archive_jobs SET after = 0"))
        Collecting(archiving).run(context)
    draft = read_draft(spool_folder(archiving.state_dir, SITE, "7"))
    assert draft is not None
    assert not {one["name"] for one in draft["files"]} & {"slurm-7.out", "summary.json"}
    assert draft["rows"]["ledger"][0]["units"] == 1


def test_a_full_spool_stops_the_fetching(tmp_path: Path) -> None:
    config = configure(tmp_path / "own", None, "bucket", spool="1M")
    with Store(config.store_path) as store:
        make_jobs(store, 7, 1)
        context, transport = context_with(config, store, files_of("7"))
        (config.state_dir / "archive").mkdir()
        (config.state_dir / "archive/other").write_bytes(b"x" * 1024**2)
        Collecting(config).run(context)
        assert transport.asked == []


def test_a_job_that_goes_on_or_is_waited_for_is_not_kept_yet(archiving: Config) -> None:
    with Store(archiving.store_path) as store:
        make_jobs(store, 7, 2, ended=1_000_000)
        store.write(lambda connection: connection.execute("UPDATE jobs SET final = 0 WHERE job_id = '7'"))
        store.write(lambda connection: connection.execute("INSERT INTO awaited_reports VALUES ('practice', '8', 0, 0)"))

        def queue(now: float) -> int:
            return store.write(lambda connection: archive.queue_ended(connection, SITE, now=now))

        assert queue(1_000_060) == 0
        assert queue(1_000_000 + archive.PATIENCE_SECONDS + 1) == 1
        assert queue(1_000_000 + archive.PATIENCE_SECONDS + 2) == 0


def test_an_address_that_others_read_along_is_refused() -> None:
    with pytest.raises(ConfigError, match="everybody on the way reads"):
        load_model_text("endpoint: http://a3s.fi\nbucket: mine", ArchiveSettings, name="x")


# --- texts that people kept -------------------------------------------------------------------------------------------


def test_a_folder_of_old_texts_becomes_jobs_with_their_bills(
    make_site: MakeSite, store: Store, clock: Clock, tmp_path: Path
) -> None:
    context, transport = make_site([], profile="puhti")
    folder = tmp_path / "old"
    (folder / "2024").mkdir(parents=True)
    (folder / "sacct.txt").write_text(sacct(*finished("79"), *finished("80")))
    for job_id in ("79", "91"):
        text = SEFF.format(job_id=job_id, state="COMPLETED", used="00:03:21", ratio="50.25") + BILLED
        (folder / f"2024/{job_id}.txt").write_text(text)
    (folder / "notes.md").write_text("what I did last summer\n")
    read = import_texts(context, folder)
    assert (read.jobs, read.bills) == (3, 3)
    assert len(read.left_out) == 1
    assert "notes.md" in read.left_out[0]
    assert transport.asked == []
    with store.snapshot() as connection:
        entries = {entry.job_id: entry for entry in ledger.entries(connection)}
        assert {job_id: entry.source for job_id, entry in entries.items()} == {
            "79": "seff",
            "80": "formula",
            "91": "seff",
        }
        bill = bills.of_job(connection, "puhti2", "91")
        assert bill is not None
        assert bill.units == entries["79"].units
    store.write(lambda connection: archive.queue_ended(connection, "puhti2", now=clock.now, patience=0))
    with store.snapshot() as connection:
        assert {entry.job_id for entry in archive.entries(connection)} == {"79", "80", "91"}
    again = import_texts(context, folder)
    assert (again.jobs, again.bills) == (0, 0)
