"""What a job brings along: what goes where, what is left out, and what is refused with its cure."""

from __future__ import annotations

import glob
import os
import posixpath
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from exporter.config import Config
from exporter.errors import ConfigError, RefusedError
from exporter.launch import rules
from exporter.launch.bring import BringItem, BringLimits
from exporter.launch.selection import Selection, private_paths, select, size_text
from exporter.launch.spec import Spec, load_spec
from tests.unit.test_launch import SPEC

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n"


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def item(value: Any, folder: Path) -> BringItem:
    return BringItem.model_validate(value).at(folder)


def chosen(values: Sequence[Any], folder: Path, private: Sequence[Path] = (), **limits: Any) -> Selection:
    items = [item(value, folder) for value in values]
    return select(items, BringLimits.model_validate(limits), private=private)


def paths(selection: Selection) -> list[str]:
    return [file.path for file in selection.files]


# --- what goes where


@pytest.mark.parametrize(
    ("written", "goes_to"),
    [
        ("code", ["code/lib/helper.py", "code/train.py"]),
        ("./code/", ["code/lib/helper.py", "code/train.py"]),
        ({"path": "code", "to": "."}, ["lib/helper.py", "train.py"]),
        ({"path": "code", "to": "a/b"}, ["a/b/lib/helper.py", "a/b/train.py"]),
        ({"path": "code/lib", "to": "./x/"}, ["x/helper.py"]),
        ("code/train.py", ["train.py"]),
        ({"path": "code/train.py", "to": "."}, ["train.py"]),
        ({"path": "code/train.py", "to": "conf/"}, ["conf/train.py"]),
        ({"path": "code/train.py", "to": "conf/main.py"}, ["conf/main.py"]),
        (".", ["code/lib/helper.py", "code/train.py"]),
    ],
)
def test_a_path_goes_where_its_last_part_or_to_says(tmp_path: Path, written: Any, goes_to: list[str]) -> None:
    tree(tmp_path, {"code/train.py": "x", "code/lib/helper.py": "yy"})
    found = chosen([written], tmp_path)
    assert paths(found) == goes_to
    parents = {str(parent) for path in goes_to for parent in Path(path).parents} - {"."}
    assert set(found.folders) == parents
    assert list(found.folders) == sorted(found.folders), "those above first"


def test_paths_start_at_the_folder_of_the_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, {"spec/train.py": "here", "train.py": "elsewhere", "home/conf/a.yaml": "", "other/b": ""})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "spec/spec.yaml"
    path.write_text(f"{SPEC}bring: [train.py, ~/conf, {tmp_path}/other, {{path: ../other/b, to: up/}}]\n")
    spec = load_spec(Path("spec/spec.yaml"))
    found = select(spec.bring, spec.bring_limits)
    assert {file.path: str(file.source.relative_to(tmp_path)) for file in found.files} == {
        "train.py": "spec/train.py", "conf/a.yaml": "home/conf/a.yaml", "other/b": "other/b", "up/b": "other/b",
    }  # fmt: skip
    assert spec.at(Path("/elsewhere")) == spec, "what is in full stays"


def test_a_spec_without_a_folder_does_not_guess(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bring\.0\.path: code is relative, and it isn't known to what"):
        select([BringItem.model_validate("code")], BringLimits())


def test_the_executable_bit_is_kept_and_others_may_not_write(tmp_path: Path) -> None:
    tree(tmp_path, dict.fromkeys(("run.sh", "open", "own", "mute"), "x"))
    for name, mode in (("run.sh", 0o775), ("open", 0o666), ("own", 0o600), ("mute", 0o444)):
        (tmp_path / name).chmod(mode)
    assert {file.path: oct(file.mode) for file in chosen(["."], tmp_path).files} == {
        "run.sh": "0o755", "open": "0o644", "own": "0o600", "mute": "0o644",
    }  # fmt: skip


def test_empty_folders_are_brought(tmp_path: Path) -> None:
    (tmp_path / "code/out/deep").mkdir(parents=True)
    found = chosen(["code"], tmp_path)
    assert (paths(found), found.folders) == ([], ("code", "code/out", "code/out/deep"))


def test_the_same_file_twice_is_once_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, {"a/x": "1", "b/x": "2", "c": "3"})
    assert paths(chosen([".", "a"], tmp_path)) == ["a/x", "b/x", "c"]
    with pytest.raises(RefusedError, match=r"b/x: and .*a/x would both be x in the working folder; give one another"):
        chosen([{"path": "a", "to": "."}, {"path": "b", "to": "."}], tmp_path)
    with pytest.raises(RefusedError, match="a: is to be both a file and a folder"):
        chosen(["a", {"path": "c", "to": "a"}], tmp_path)


# --- what is left out


def test_what_programs_make_anew_and_histories_are_left_out(tmp_path: Path) -> None:
    files = [
        "train.py", "train.pyc", "lib/__pycache__/x.py", ".git/config", "lib/.venv/bin/python", "node_modules/x/y",
        ".ipynb_checkpoints/a.ipynb", ".mypy_cache/x", "env1/pyvenv.cfg", "env1/bin/python", "env2/conda-meta/history",
        "env2/bin/python", "rayslurm.yaml", ".gitignore",
    ]  # fmt: skip
    tree(tmp_path, dict.fromkeys(files, "x"))
    found = chosen(["."], tmp_path)
    assert paths(found) == [".gitignore", "train.py"]
    assert found.folders == ("lib",)
    assert paths(chosen([{"path": ".git"}], tmp_path)) == [".git/config"], "named, it is meant"


def test_excluded_is_what_the_patterns_say(tmp_path: Path) -> None:
    tree(
        tmp_path, dict.fromkeys(["a.csv", "b/a.csv", "b/c/a.csv", "b/keep.py", "data/raw/x", "data/x", "x/data/y"], "")
    )
    exclude = ["*.csv", "data/raw", "/x/", "no/such"]
    assert paths(chosen([{"path": ".", "exclude": exclude}], tmp_path)) == ["b/keep.py", "data/x"]


@given(
    pattern=st.lists(
        st.sampled_from(["*", "**", "a", "b", "a?", "[ab]*", ".c", ".*", "[!a]*", "*b", "["]), min_size=2, max_size=5
    )
    .filter(lambda parts: parts[-1] != "**")
    .map("/".join)
)
@settings(max_examples=300, deadline=None)
def test_patterns_mean_what_the_shell_means(pattern: str, globbed: Path) -> None:
    expected = set(glob.glob(pattern, root_dir=globbed, recursive=True, include_hidden=True))  # noqa: PTH207
    everything = [path.relative_to(globbed) for path in globbed.rglob("*")]
    assert {str(path) for path in everything if rules.matches(pattern, path.parts, is_folder=False)} == expected


@pytest.mark.parametrize(
    ("pattern", "path", "is_folder", "meant"),
    [
        ("a", "x/y/a", False, True),
        ("*.csv", "x/y.csv", False, True),
        ("a/**", "a", True, False),
        ("a/**", "a/b/c", False, True),
        ("**", "a", False, True),
        ("a/", "x/a", True, True),
        ("a/", "x/a", False, False),
        ("/a", "a", False, True),
        ("/a", "x/a", False, False),
        ("./a/b", "a/b", False, True),
        ("a/b", "x/a/b", False, False),
        ("/", "a", True, False),
        ("A", "a", False, False),
    ],
)
def test_a_pattern_with_a_slash_is_a_path(pattern: str, path: str, is_folder: bool, meant: bool) -> None:
    assert rules.matches(pattern, path.split("/"), is_folder=is_folder) is meant


def test_many_stars_cost_no_more_than_few() -> None:
    assert not rules.matches("/".join(["**", "*"] * 100), ["x"] * 99, is_folder=False)
    assert rules.matches("/".join(["**"] * 200) + "/x", ["x"] * 100, is_folder=False)


@pytest.fixture(scope="module")
def globbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ["a/b/a", "a/ab/b", "b/a/b/a/b", "ab", ".c/a/b", "a/.c", "b/b"]
    return tree(tmp_path_factory.mktemp("globbed"), dict.fromkeys(names, ""))


# --- links


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    tree(tmp_path, {"code/v2/model.py": "new", "code/v1/model.py": "old"})
    (tmp_path / "code/latest").symlink_to("v2")
    (tmp_path / "code/main.py").symlink_to(tmp_path / "code/v1/model.py")
    (tmp_path / "way-in").symlink_to("code")
    for named, top in (("code", "code"), ("way-in", "way-in")):
        found = {file.path: file.source for file in chosen([named], tmp_path).files}
        assert found == {
            f"{top}/{link}": tmp_path / "code" / real
            for link, real in {
                "latest/model.py": "v2/model.py", "main.py": "v1/model.py", "v1/model.py": "v1/model.py",
                "v2/model.py": "v2/model.py",
            }.items()
        }  # fmt: skip


@pytest.mark.parametrize(
    ("link", "told"),
    [
        (
            "../secret",
            r"code/link: is a link that leads out of .*/code, to .*/secret; exclude it, and bring that as an",
        ),
        ("/etc", r"code/link: is a link that leads out of .*/code, to /etc; exclude it"),
        ("nowhere", "code/link: is a link that leads nowhere; exclude it"),
        ("link", "code/link: is a link that leads nowhere; exclude it"),
        (".", "code/link: is a link that leads round in a circle; exclude it"),
    ],
)
def test_links_that_lead_astray_are_refused(tmp_path: Path, link: str, told: str) -> None:
    tree(tmp_path, {"code/sub/x": "", "secret": "out"})
    (tmp_path / "code/link").symlink_to(link)
    with pytest.raises(RefusedError, match=told) as caught:
        chosen(["code"], tmp_path)
    assert caught.value.exit_code == 4
    assert paths(chosen([{"path": "code", "exclude": ["link"]}], tmp_path)) == ["code/sub/x"], "the cure works"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, {"code/x": ""})
    os.mkfifo(tmp_path / "code/pipe")
    (tmp_path / "code/odd\nname").write_text("")
    (tmp_path / os.fsdecode(b"code/caf\xe9")).write_text("")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "code/socket"))
        with pytest.raises(RefusedError) as caught:
            chosen(["code"], tmp_path)
    told = str(caught.value)
    assert "code/pipe: is neither file nor folder; exclude it" in told
    assert "code/socket: is neither file nor folder" in told
    assert r"odd\nname': its name has control characters, or is no UTF-8; exclude or rename it" in told
    assert r"caf\udce9': its name" in told
    assert len(told.splitlines()) == 4


def test_what_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, {"code/locked/x": "", "code/x": "", "code/mute": ""})
    stat_of, iterate, opened = Path.is_dir, Path.iterdir, Path.open

    def refusing(method: Any, name: str) -> Any:
        """As for whoever isn't root."""

        def call(self: Path, *args: Any, **options: Any) -> Any:
            if self.name == name:
                raise PermissionError(13, "Permission denied")
            return method(self, *args, **options)

        return call

    monkeypatch.setattr(Path, "is_dir", refusing(stat_of, "x"))
    monkeypatch.setattr(Path, "iterdir", refusing(iterate, "locked"))
    monkeypatch.setattr(Path, "open", refusing(opened, "mute"))
    with pytest.raises(RefusedError) as caught:
        chosen(["code"], tmp_path)
    for name in ("locked", "x", "mute"):
        assert f"code/{name}: Permission denied; exclude it, or make it readable" in str(caught.value)


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "/".join("a" * 102)).mkdir(parents=True)
    with pytest.raises(RefusedError, match="a/a: lies more than 100 folders deep; exclude it"):
        chosen(["."], tmp_path)


def test_what_is_not_there_is_the_specs_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bring\.1\.path: .*/gone: No such file or directory; name a file or folder"):
        chosen([".", "gone"], tmp_path)


# --- secrets


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", "TOKEN=1"), (".env.production", "TOKEN=1"), ("prod.env", "T=1"), ("id_ed25519", "x"), (".netrc", ""),
        ("deploy", KEY), ("cert.pem", f"-----BEGIN CERTIFICATE-----\nMI\n-----END CERTIFICATE-----\n{KEY}"),
        ("a.txt", "-----BEGIN PRIVATE KEY-----\n"), ("b", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n"),
        ("c", "PuTTY-User-Key-File-3: ssh-ed25519\n"), (".ssh/config", "Host x"), (".aws/credentials", "x"),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_refused_unless_it_is_named(tmp_path: Path, name: str, text: str) -> None:
    tree(tmp_path, {f"code/sub/{name}": text, "code/train.py": ""})
    with pytest.raises(
        RefusedError, match=f"code/sub/{name}: looks like a secret .*; exclude it, or name it as an item"
    ):
        chosen(["code"], tmp_path)
    assert paths(chosen([{"path": "code", "exclude": [f"sub/{name}"]}], tmp_path)) == ["code/train.py"]
    named = chosen(["code", {"path": f"code/sub/{name}", "to": "its/place"}], tmp_path)
    assert {file.path: file.mode for file in named.files}["its/place"] in {0o600, 0o644}
    assert "code/train.py" in paths(named)
    assert not any(path.startswith("code/sub/") for path in paths(named)), "it goes where its own item says"


def test_a_secret_that_is_meant_is_for_its_owner_alone(tmp_path: Path) -> None:
    tree(tmp_path, {".env": "TOKEN=1"})
    assert [(file.path, file.mode) for file in chosen([".env"], tmp_path).files] == [(".env", 0o600)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env.example", "TOKEN=\n"), ("id_map.csv", "1,2"), ("ca.pem", "-----BEGIN CERTIFICATE-----\nMI\n"),
        ("id_ed25519.pub", "ssh-ed25519 AAAA"), ("tokens.py", "x"), ("doc.md", "`-----BEGIN PRIVATE KEY-----`"),
        (".docker/Dockerfile", "FROM x"), ("environment.yaml", "name: x"),
    ],
)  # fmt: skip
def test_what_only_resembles_a_secret_is_brought(tmp_path: Path, name: str, text: str) -> None:
    tree(tmp_path, {f"code/{name}": text})
    assert paths(chosen(["code"], tmp_path)) == [f"code/{name}"]


def test_a_link_to_a_secret_is_one(tmp_path: Path) -> None:
    tree(tmp_path, {"code/.env": "TOKEN=1"})
    (tmp_path / "code/settings").symlink_to(".env")
    with pytest.raises(RefusedError, match="code/settings: looks like a secret"):
        chosen([{"path": "code", "exclude": [".env"]}], tmp_path)


def test_rayslurms_own_state_and_keys_never_go(tmp_path: Path, config: Config) -> None:
    tree(tmp_path, {"train.py": "", "state/secrets/x.ray": "secret", "state/rayslurm.sqlite3": ""})
    (tmp_path / "link").symlink_to("state/secrets")
    private = private_paths(config)
    assert paths(chosen(["."], tmp_path, private)) == ["known_hosts", "train.py"]
    for named in ("state", "state/secrets", "state/secrets/x.ray", "id", "link"):
        with pytest.raises(RefusedError, match=f"{named}: is rayslurm's own state or key, which never goes to a site"):
            chosen([named], tmp_path, private)


# --- limits


def test_too_many_bytes_are_refused_and_the_largest_named(tmp_path: Path) -> None:
    tree(tmp_path, {f"code/f{number}": "x" * 1024 * number for number in range(1, 9)})
    assert chosen(["code"], tmp_path, max_bytes="36K").total_bytes == 36 * 1024
    with pytest.raises(RefusedError) as caught:
        chosen(["code"], tmp_path, max_bytes="35K")
    told = str(caught.value)
    assert "36.0 KiB are more than bring_limits.max_bytes, 35.0 KiB" in told
    assert "code/f8 (8.0 KiB), code/f7 (7.0 KiB), code/f6 (6.0 KiB), code/f5 (5.0 KiB), code/f4 (4.0 KiB)." in told
    assert "put data on the site once" in told
    assert caught.value.exit_code == 4


def test_too_many_files_are_refused_and_their_folders_named(tmp_path: Path) -> None:
    tree(
        tmp_path,
        dict.fromkeys([*(f"code/data/d{n}/x{n}" for n in range(12)), *(f"code/lib/{n}" for n in range(3))], ""),
    )
    assert len(chosen(["code"], tmp_path, max_files=30).files) == 15
    with pytest.raises(
        RefusedError, match=r"30 files and folders are more than .*max_files, 29; .* in: code/data \(12\), "
    ):
        chosen(["code"], tmp_path, max_files=29)


def test_a_folder_without_end_is_not_looked_at_to_its_end(tmp_path: Path) -> None:
    tree(tmp_path, dict.fromkeys([f"home/{n // 10}/{n}" for n in range(300)], ""))
    with pytest.raises(RefusedError, match=r"more than 4\d files and folders are more than bring_limits.max_files, 2;"):
        chosen(["home"], tmp_path, max_files=2)


def test_sizes_read_well() -> None:
    assert [size_text(size) for size in (0, 1023, 1024, 1536 * 1024, 5 * 1024**3, 2048 * 1024**3)] == [
        "0 bytes", "1023 bytes", "1.0 KiB", "1.5 MiB", "5.0 GiB", "2048.0 GiB",
    ]  # fmt: skip


# --- never out of the working folder


@given(to=st.text(alphabet="ab./~ \\", max_size=12))
@settings(max_examples=500, deadline=None)
def test_no_destination_leads_out_of_the_working_folder(to: str, globbed: Path) -> None:
    for path in ("a", "ab"):
        try:
            found = chosen([{"path": path, "to": to}], globbed)
        except ValidationError:
            continue
        for where in (*paths(found), *found.folders):
            assert posixpath.normpath(f"/work/{where}") == f"/work/{where}"
            assert where not in {"", "."}


NAMES = st.sampled_from(["a", "b", "c", "..", "."])
ROUTES = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@given(
    files=st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join), max_size=6),
    links=st.lists(
        st.tuples(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join), ROUTES), max_size=4
    ),
    up=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_nothing_outside_the_folder_is_brought(files: list[str], links: list[tuple[str, str]], up: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        outside = tree(Path(name).resolve(), {"a": "outside", "deep/b": "outside"})
        root = outside / "deep/root"
        root.mkdir()
        for path in files:
            try:
                tree(root, {path: "inside"})
            except OSError:  # a file stands where a folder is wanted
                continue
        for path, target in links:
            try:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).symlink_to(f"../{target}" if up else target)
            except OSError:
                continue
        try:
            found = chosen([str(root)], outside, max_files=200)
        except RefusedError:
            return
        assert all(file.source.read_text() == "inside" for file in found.files)
        assert all(file.source.resolve() == file.source and file.source.is_relative_to(root) for file in found.files)


# --- the spec


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("bring: [{path: a, to: ../b}]", "bring.0.to: write a path within the working folder"),
        ("bring: [{path: a, to: /b}]", "bring.0.to: write a path within the working folder"),
        ("bring: [{path: a, to: ''}]", "bring.0.to: write a path within the working folder"),
        ("bring: [..]", "bring.0: to: is missing; .. has no name of its own"),
        ("bring: [/]", "bring.0: to: is missing; / has no name of its own"),
        ("bring: ['']", "bring.0.path: "),
        ("bring: [{path: a, too: b}]", "bring.0.too: is not a key that rayslurm knows; did you mean `to`?"),
        ("bring: a", "bring: "),
        ("bring_limits: {max_bytes: 100}", "bring_limits.max_bytes: write a size with its unit, such as 100M"),
        ("bring_limits: {max_bytes: 11G}", "bring_limits.max_bytes: "),
        ("bring_limits: {max_files: 0}", "bring_limits.max_files: "),
        ("results: [/tmp/x]", "results.0: write a path within the working folder"),
        ("results: [a/../../x]", "results.0: write a path within the working folder"),
        ('results: ["a\\nb"]', "results.0: "),
    ],
)
def test_each_fault_of_what_is_brought_says_where(tmp_path: Path, written: str, fault: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(f"{SPEC}{written}\n")
    with pytest.raises(ConfigError) as caught:
        load_spec(path)
    assert f"{path}:11: {fault}" in str(caught.value)


def test_limits_are_written_with_units(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(f"{SPEC}bring_limits: {{max_bytes: 1.5G, max_files: 20}}\nresults: ['out/*.json', '**/*.ckpt']\n")
    spec = load_spec(path)
    assert (spec.bring_limits.max_bytes, spec.bring_limits.max_files) == (1536 * 1024**2, 20)
    assert spec.results == ("out/*.json", "**/*.ckpt")
    usual = Spec.model_fields["bring_limits"].default
    assert (usual.max_bytes, usual.max_files) == (100 * 1024**2, 1000)
