"""Launching: the journal tells the truth at each step, whatever the site answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter.client.client import SiteClient
from exporter.client.replay import Exchange, ReplayTransport
from exporter.client.transport import Answer, RemoteFile, RemoteStream
from exporter.config import Config, load_config
from exporter.errors import (
    BudgetExhaustedError,
    CommandError,
    ConfigError,
    ConnectError,
    RefusedError,
    StoreError,
)
from exporter.job_names import new_token, slurm_name, split_name
from exporter.launch.launcher import Launcher
from exporter.launch.render import Launch, render_plan, render_script, slurm_time, wanted_tunnels
from exporter.launch.spec import Spec, load_spec
from exporter.store import jobs, submissions
from exporter.store.db import Store
from exporter.store.submissions import Submission
from exporter.tunnels.secrets import secret_path, sweep_secrets
from tests.unit.conftest import Clock, MakeSite

SPEC = """\
site: puhti2
name: train
cluster:
  nodes: 2
  cpus_per_node: 4
  memory_per_node: 16G
  time: "01:30:00"
environment:
  - module load python-pytorch
entrypoint: python train.py
"""


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return load_spec(path)


def journal(store: Store) -> list[Submission]:
    with store.snapshot() as connection:
        tokens = [row["token"] for row in connection.execute("SELECT token FROM submissions ORDER BY created")]
        return [submissions.get(connection, token) for token in tokens]


def test_a_launch_writes_its_folder_and_submits_once(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    context, transport = make_site([Exchange("submit", "4711\n")])
    submission = Launcher(config, store, clock).launch(context.client, spec)
    folder = f"/home/replay/rayslurm/train-{submission.token}"
    assert (submission.state, submission.job_id, submission.run_dir) == ("submitted", "4711", folder)
    assert submission.dashboard_port == 8100
    assert [verb for verb, _ in transport.asked] == ["make_folder", "write", "submit"]
    assert set(transport.files) == {
        f"{folder}/{name}"
        for name in ("job.sbatch", "ray_job.py", "plan.json", "ray_auth_token", "known_hosts", "manifest.json")
    }
    script = transport.files[f"{folder}/job.sbatch"].decode()
    assert f"--job-name=train.rs{submission.token}" in script
    assert "module load python-pytorch" in script
    assert transport.files[f"{folder}/known_hosts"].startswith(b"192.0.2.10 ssh-ed25519 ")
    with store.snapshot() as connection:
        assert [job.state for job in jobs.find(connection, "4711")] == ["pending"]


def test_the_secret_of_ray_stays_in_files_for_its_owner(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    context, transport = make_site([Exchange("submit", "4711\n")])
    submission = Launcher(config, store, clock).launch(context.client, spec)
    kept = secret_path(config.state_dir, submission.token)
    secret = kept.read_bytes()
    assert len(secret) == 64
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    holders = [name.rpartition("/")[2] for name, content in transport.files.items() if secret in content]
    assert holders == ["ray_auth_token"]
    with store.snapshot() as connection:
        sent = submissions.last_sent(connection, "puhti2", "train")
    assert sent is not None
    assert sent.submission == submission
    assert set(sent.files) == {"job.sbatch", "ray_job.py", "plan.json", "known_hosts"}
    assert sent.files["job.sbatch"] == transport.files[f"{submission.run_dir}/job.sbatch"].decode()
    assert sent.files["ray_job.py"].startswith("sha256:")
    database = b"".join(path.read_bytes() for path in config.state_dir.glob("rayslurm.sqlite3*"))
    assert secret not in database


def test_the_secret_of_a_job_goes_with_it(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    context, _ = make_site([Exchange("submit", "4711\n"), Exchange("submit", raises="DeadlineError")])
    launcher = Launcher(config, store, clock)
    ended, unknown = (secret_path(config.state_dir, launcher.launch(context.client, spec).token) for _ in range(2))
    sweep_secrets(config.state_dir, store)
    assert ended.exists()
    store.write(lambda connection: connection.execute("UPDATE tracked SET done = 1"))
    sweep_secrets(config.state_dir, store)
    assert not ended.exists()
    assert unknown.exists(), "a job may have come of it"


@pytest.mark.parametrize(
    ("exchange", "state", "reason"),
    [
        (
            Exchange("submit", raises="DeadlineError", stderr="no answer within 60 s"),
            "unknown",
            "no answer within 60 s",
        ),
        (Exchange("submit", raises="SessionLostError", stderr="the session broke"), "unknown", "the session broke"),
        (Exchange("submit", ""), "unknown", "sbatch said: nothing"),
        (Exchange("submit", "Welcome!\n"), "unknown", "Welcome!"),
        (
            Exchange("submit", "", "sbatch: error: ... Socket timed out on send/recv operation\n", 1),
            "unknown",
            "timed out",
        ),
        (Exchange("submit", "", "sbatch: error: Unable to contact slurm controller\n", 1), "unknown", "contact"),
        (
            Exchange("submit", "", "sbatch: error: Batch job submission failed: Protocol authentication error\n", 1),
            "unknown",
            "Protocol authentication error",
        ),
        (Exchange("submit", "", "sbatch: something that nobody has seen yet\n", 1), "unknown", "nobody has seen yet"),
        (Exchange("submit", "", "", 124), "unknown", "sbatch said: nothing"),
        (Exchange("submit", "4711\n", "", 127), "unknown", "sbatch said: 4711"),
        (Exchange("submit", "4711\n", "sbatch: error: Invalid something\n", 1), "unknown", "Invalid something"),
        (
            Exchange("submit", "", "sbatch: error: Batch job submission failed: Broken pipe\n", 1),
            "unknown",
            "Broken pipe",
        ),
        (
            Exchange("submit", "", "sbatch: error: Batch job submission failed: Insane message length\n", 1),
            "unknown",
            "Insane message length",
        ),
        (Exchange("submit", "", "Killed\n", 137), "unknown", "sbatch said: Killed"),
    ],
)
def test_a_lost_answer_is_unknown_and_not_sent_again(
    config: Config,
    store: Store,
    clock: Clock,
    make_site: MakeSite,
    spec: Spec,
    exchange: Exchange,
    state: str,
    reason: str,
) -> None:
    context, transport = make_site([exchange])
    submission = Launcher(config, store, clock).launch(context.client, spec)
    assert (submission.state, submission.job_id) == (state, None)
    assert submission.error is not None
    assert reason in submission.error
    assert f"squeue --me --name=train.rs{submission.token}" in submission.error, "the person is told how to look"
    assert [verb for verb, _ in transport.asked].count("submit") == 1


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified", 1),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", 1),
        ("sbatch: unrecognized option '--frobnicate'\nTry \"sbatch --help\" for more information", 1),
        ("sbatch: error: Invalid --time specification", 1),
        ("sbatch: error: Unable to open file job.sbatch", 1),
        ("/bin/sh: 1: cd: can't cd to /scratch/gone", 126),
        ("/bin/sh: 1: sbatch: not found", 127),
    ],
)
def test_a_refusal_is_told_in_slurms_words_and_leaves_no_job(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec, said: str, status: int
) -> None:
    context, _ = make_site([Exchange("submit", "", f"{said}\n", status)])
    with pytest.raises(CommandError, match=re.escape(said.splitlines()[-1])):
        Launcher(config, store, clock).launch(context.client, spec)
    assert [(row.state, row.job_id) for row in journal(store)] == [("absent", None)]


def test_one_key_is_one_launch_unless_it_came_to_nothing(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    unreachable = Exchange("submit", raises="ConnectError")  # tried once more over a new connection
    context, transport = make_site([unreachable, unreachable, Exchange("submit", "4711\n")])
    launcher = Launcher(config, store, clock)
    with pytest.raises(ConnectError):
        launcher.launch(context.client, spec, key="night")
    first = launcher.launch(context.client, spec, key="night")
    again = launcher.launch(context.client, spec, key="night")
    assert again == first
    assert (first.state, first.job_id, first.key) == ("submitted", "4711", "night")
    assert [row.state for row in journal(store)] == ["absent", "submitted"]
    other = spec.model_copy(update={"entrypoint": "python other.py"})
    with pytest.raises(RefusedError, match="the key night stands for another launch, of train on puhti2"):
        launcher.launch(context.client, other, key="night")
    assert [verb for verb, _ in transport.asked].count("submit") == 3


@pytest.mark.parametrize(("change", "same"), [("$.results", True), ("$.cluster.exclusive", True), ("$.cluster", False)])
def test_one_key_is_one_launch_across_versions(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec, change: str, same: bool
) -> None:
    """What an earlier version wrote lacks the keys that came later; what can't be read is another launch."""
    context, _ = make_site([Exchange("submit", "4711\n")])
    launcher = Launcher(config, store, clock)
    first = launcher.launch(context.client, spec, key="night")
    store.write(lambda connection: connection.execute("UPDATE submissions SET spec = json_remove(spec, ?)", (change,)))
    if same:
        assert launcher.launch(context.client, spec, key="night").token == first.token
        other = spec.model_copy(update={"results": ("out/*",)})
        with pytest.raises(RefusedError, match="the key night stands for another launch"):
            launcher.launch(context.client, other, key="night")
    else:
        with pytest.raises(RefusedError, match="the key night stands for another launch"):
            launcher.launch(context.client, spec, key="night")


def test_one_key_whose_answer_was_lost_is_not_sent_again(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    context, transport = make_site([Exchange("submit", raises="DeadlineError")])
    launcher = Launcher(config, store, clock)
    states = [launcher.launch(context.client, spec, key="night").state for _ in range(3)]
    assert states == ["unknown"] * 3
    assert [verb for verb, _ in transport.asked].count("submit") == 1


def test_a_store_that_fails_after_sbatch_does_not_lose_the_job(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    def break_table() -> None:
        store.write(lambda connection: connection.execute("ALTER TABLE tracked RENAME TO elsewhere"))

    class Breaks(ReplayTransport):
        """The store breaks while sbatch runs."""

        def submit(self, run_dir: str, script: str, deadline: float) -> Answer:
            break_table()
            return super().submit(run_dir, script, deadline)

    context, _ = make_site([])
    client = SiteClient("puhti2", Breaks([Exchange("submit", "4711\n")]), context.ledger)
    with pytest.raises(StoreError, match=r"job 4711 was submitted on puhti2, .*: rayslurm track puhti2/4711"):
        Launcher(config, store, clock).launch(client, spec)
    assert [(row.state, row.job_id) for row in journal(store)] == [("submitting", None)]


def test_a_site_that_cannot_be_reached_leaves_no_job(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    context, transport = make_site([Exchange("connect", raises="ConnectError", stderr="refused", repeat=True)])
    with pytest.raises(ConnectError):
        Launcher(config, store, clock).launch(context.client, spec)
    assert [row.state for row in journal(store)] == ["absent"]
    assert not any(verb == "submit" for verb, _ in transport.asked)


def test_a_launch_that_the_budget_stops_leaves_no_job(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    context, transport = make_site([Exchange("run", repeat=True)])
    with context.client.for_person():
        for _ in range(118):
            context.client.run("test", "true")
        with pytest.raises(BudgetExhaustedError):
            Launcher(config, store, clock).launch(context.client, spec)
    assert [row.state for row in journal(store)] == ["absent"]
    assert not any(verb == "submit" for verb, _ in transport.asked)


def test_the_intention_is_on_disk_before_anything_is_sent(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    seen: list[tuple[str, str]] = []

    class Watched(ReplayTransport):
        """Looks into the journal whenever something is about to leave this machine."""

        def make_folder(self, path: str, deadline: float) -> str:
            seen.append(("make_folder", journal(store)[0].state))
            return super().make_folder(path, deadline)

        def write(
            self, folder: str, files: Mapping[str, RemoteFile | RemoteStream], deadline: float, **options: Any
        ) -> None:
            seen.append(("write", journal(store)[0].state))
            super().write(folder, files, deadline, **options)

        def submit(self, run_dir: str, script: str, deadline: float) -> Answer:
            seen.append(("submit", journal(store)[0].state))
            return super().submit(run_dir, script, deadline)

    context, _ = make_site([])
    client = SiteClient("puhti2", Watched([Exchange("submit", "4711\n")]), context.ledger)
    Launcher(config, store, clock).launch(client, spec)
    assert seen == [("make_folder", "intended"), ("write", "intended"), ("submit", "submitting")]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("site: puhti2\n", ""), "spec.yaml:1: site: is missing"),
        (("16G", "16"), "spec.yaml:6: cluster.memory_per_node: write an amount of memory with its unit, such as 16G"),
        (('"01:30:00"', "soon"), "cluster.time: write a length of time with its unit, such as"),
        (('"01:30:00"', "1:30:00"), "cluster.time: write a length of time with its unit"),
        (('"01:30:00"', "90"), "cluster.time: write a length of time with its unit"),
        (("entrypoint: python train.py", "warn_before_end: 1h"), "warn_before_end: leaves the job less than half"),
        (("name: train", "name: 'a b'"), "spec.yaml:2: name: "),
        (("cpus_per_node: 4", "cpus_per_node: 0"), "spec.yaml:5: cluster.cpus_per_node: "),
        (("nodes: 2", "node: 2"), "did you mean `nodes`?"),
        (
            ("entrypoint: python train.py", "continue_on_timeout: {times: 2, total_units: .inf}"),
            "continue_on_timeout.total_units: Input should be a finite number (got inf)",
        ),
        (
            ("entrypoint: python train.py", "continue_on_timeout: {times: 2, total_units: .nan}"),
            "continue_on_timeout.total_units: Input should be a finite number (got nan)",
        ),
        (('"01:30:00"', "9" * 400 + "d"), "cluster.time: write a length of time with its unit"),
        (('"01:30:00"', f'"{"9" * 400}-01:00:00"'), "cluster.time: write a length of time with its unit"),
        (("entrypoint: python train.py", "grace: .inf"), "grace: write a length of time with its unit"),
        (("16G", "9" * 400 + "G"), "cluster.memory_per_node: write an amount of memory with its unit"),
        (
            ("entrypoint: python train.py", f"bring_limits: {{max_bytes: {'9' * 400}G}}"),
            "bring_limits.max_bytes: write a size with its unit",
        ),
        (("entrypoint: python train.py", 'directives: ["--time=5"]'), "--time is rayslurm's own business"),
        (("entrypoint: python train.py", 'directives: ["--job-nam=x"]'), "--job-name is rayslurm's own business"),
        (("entrypoint: python train.py", 'directives: ["--clusters=b"]'), "--clusters is rayslurm's own business"),
        (("entrypoint: python train.py", 'directives: ["--wait"]'), "would keep it from following the job"),
        (("entrypoint: python train.py", 'directives: ["--comment=a\\nb"]'), "directives.0: "),
    ],
)
def test_each_fault_of_a_spec_says_where_and_what_to_write(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    assert change[0] in SPEC
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load_spec(path)
    assert fault in str(caught.value)


def test_a_tunnel_needs_to_know_this_machine(config: Config, store: Store, make_site: MakeSite, spec: Spec) -> None:
    context, transport = make_site([])
    without = config.model_copy(update={"vm": None})
    with pytest.raises(ConfigError, match=r"add vm: .* or write ray\.dashboard_tunnel: false"):
        Launcher(without, store).launch(context.client, spec)
    assert journal(store) == []
    assert transport.asked == []


def test_no_tunnel_leads_from_a_ray_without_tokens_to_a_machine_of_many(
    config: Config, store: Store, make_site: MakeSite, spec: Spec
) -> None:
    context, transport = make_site([])
    open_ray = spec.model_copy(
        update={
            "cluster": spec.cluster.model_copy(update={"exclusive": True}),
            "ray": spec.ray.model_copy(update={"allow_unauthenticated_ray": True}),
        }
    )
    told = r"as you on puhti2.*ray\.dashboard_tunnel: false.*vm\.shared: false.*tokens \(2\.52 and later\)"
    with pytest.raises(RefusedError, match=told):
        Launcher(config, store).launch(context.client, open_ray, force=True)
    assert journal(store) == []
    assert transport.asked == []
    assert config.vm is not None
    alone = config.model_copy(update={"vm": config.vm.model_copy(update={"shared": False})})
    assert wanted_tunnels(open_ray, alone)["dashboard"] == config.vm.dashboard_ports
    without = spec.ray.model_copy(update={"allow_unauthenticated_ray": True, "dashboard_tunnel": False})
    assert set(wanted_tunnels(open_ray.model_copy(update={"ray": without}), config)) == {"metrics-0", "metrics-1"}


def test_the_plan_says_what_the_spec_says(config: Config, spec: Spec) -> None:
    launch = Launch("tok", "/scratch/x", {"dashboard": 8101}, "secret")
    plan = render_plan(spec, config.site("puhti2"), config.vm, launch)
    assert (plan["nodes"], plan["cpus_per_node"], plan["memory_bytes_per_node"]) == (2, 4, 16 * 1024**3)
    assert plan["tunnels"] == [{"name": "dashboard", "vm_port": 8101, "bind": "127.0.0.1", "target": "dashboard"}]
    assert plan["entrypoint"] == "python train.py"
    assert "secret" not in str(plan)
    script = render_script(spec, config.site("puhti2"), launch)
    assert "#SBATCH --time=0-01:30:00" in script
    assert "#SBATCH --account=project_2001234" in script


def test_a_token_is_found_again_in_a_name() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    token = tokens.pop()
    assert split_name(slurm_name("train-a", token)) == ("train-a", token)
    assert split_name("train.rs") == ("train.rs", None)
    assert slurm_time(93784) == "1-02:03:04"


def test_where_the_jobs_key_cannot_be_let_in_nothing_is_submitted(
    config_path: Path, store: Store, clock: Clock, make_site: MakeSite, spec: Spec, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    keys = tmp_path / "file/authorized_keys"
    written = config_path.read_text().replace("identity_file: /home/maija/.ssh/id_vm", f"authorized_keys: {keys}")
    config_path.write_text(written)
    context, transport = make_site([Exchange("submit", "4711\n")])
    with pytest.raises(StoreError, match=rf"{keys}: cannot be written: .*vm\.identity_file"):
        Launcher(load_config(config_path), store, clock).launch(context.client, spec)
    assert [verb for verb, _ in transport.asked] == ["make_folder"]
    assert transport.files == {}, "no key, no secret, nothing"
    (row,) = journal(store)
    assert (row.state, row.job_id) == ("absent", None)
    assert "nothing was submitted: " in str(row.error)
    (tmp_path / "file").unlink()
    submission = Launcher(load_config(config_path), store, clock).launch(context.client, spec)
    assert submission.dashboard_port == 8100, "the first one's port is free again"
    assert transport.files[f"{submission.run_dir}/tunnel_key"].startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert 'permitlisten="127.0.0.1:8100"' in keys.read_text()
    assert keys.read_text().count("\n") == 1
