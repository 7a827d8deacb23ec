"""Where this machine's sshd lets tunnels be listened on, as far as can be seen without root.

Only root may ask sshd itself (`sshd -T`), so its file is read as sshd_config(5) has it: the first value counts, one of
a `Match` block that applies before one outside, and a block that can't be judged here leaves the answer open.
"""

from __future__ import annotations

import fnmatch
import getopt
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exporter.tunnels.listeners import busy_ports

FILE = "/etc/ssh/sshd_config"
YES = "yes"
"""The value with which sshd listens on all addresses, whatever key and job ask for."""

_VALUES = frozenset({"no", YES, "clientspecified"})
_DEFAULT = "no"
_OPTIONS = "46DdeGiqrtTVb:C:c:E:f:g:h:k:o:p:u:"
_SERVER = re.compile(r"(?:sshd: )?(?P<words>/\S*sshd(?: .*?)?)(?: \[listener\].*)?")
_DEEPEST = 16


@dataclass(frozen=True, slots=True)
class GatewayPorts:
    """Whether tunnels are listened on where others reach them.

    Attributes:
        value: `no`, `clientspecified` or `yes`; None where it isn't known.
        source: where that stands, or why it isn't known.
    """

    value: str | None
    source: str


@dataclass(frozen=True, slots=True)
class _Server:
    """A running sshd.

    Attributes:
        words: its command line.
        root: below which it sees its files; nothing where that is here.
    """

    words: tuple[str, ...]
    root: str


@dataclass(frozen=True, slots=True)
class _Said:
    """One line on `GatewayPorts`.

    Attributes:
        value: what it says.
        source: where it stands.
        in_match: whether it stands in a `Match` block.
        certain: whether that block is sure to apply.
    """

    value: str
    source: str
    in_match: bool = False
    certain: bool = True


class _UnreadableError(Exception):
    """A file can't be read; says which and why."""


def gateway_ports(user: str, port: int, *, proc: Path = Path("/proc"), file: str = FILE) -> GatewayPorts:
    """Returns what sshd does with the tunnels that come to an account of this machine.

    Args:
        user: the account.
        port: on which sshd is reached.
        proc: where the kernel tells of processes.
        file: sshd's file, where its command line names none.
    """
    servers = set(_servers(proc))
    if not servers:
        busy = busy_ports()
        if not Path(file).exists() or busy is None or port not in busy:
            return GatewayPorts(None, "no sshd is to be seen here")
        servers = {_Server(("sshd",), "")}
    found = {_of_server(server, user, file) for server in servers}
    if len({one.value for one in found}) > 1:
        return GatewayPorts(None, f"{len(servers)} sshd run here, which differ")
    return min(found, key=lambda one: one.source)


def _servers(proc: Path) -> Iterator[_Server]:
    """Yields the sshd that take connections in this network."""
    try:
        here = (proc / "self/ns/net").readlink()
    except OSError:
        return
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
            match = _SERVER.fullmatch(line)
            if match is None or _link(entry / "ns/net") not in {None, here}:
                continue
            words = tuple(shlex.split(match["words"]))
        except (OSError, ValueError):
            continue
        same_files = _link(entry / "ns/mnt") in {None, _link(proc / "self/ns/mnt")}
        yield _Server(words, "" if same_files else str(entry / "root"))


def _link(path: Path) -> Path | None:
    """Returns where a link of the kernel's leads; None where we may not know."""
    try:
        return path.readlink()
    except PermissionError:
        return None


def _of_server(server: _Server, user: str, file: str) -> GatewayPorts:
    try:
        options, _ = getopt.getopt(list(server.words[1:]), _OPTIONS)
    except getopt.GetoptError as error:
        return GatewayPorts(None, f"sshd's command line isn't understood: {error}")
    for name, value in options:
        key, _, said = re.sub(r"\s*[=\s]\s*", " ", value.strip(), count=1).partition(" ")
        if name == "-o" and key.lower() == "gatewayports":
            return _judged([_Said(said.lower(), "sshd's command line")])
    path = next((value for name, value in options if name == "-f"), file)
    try:
        return _judged(list(_lines(server.root, path, user)))
    except _UnreadableError as error:
        return GatewayPorts(None, str(error))


def _judged(said: list[_Said]) -> GatewayPorts:
    """Returns the value that counts, where only one can."""
    outside = next((one for one in said if not one.in_match), _Said(_DEFAULT, "sshd's default"))
    possible: list[_Said] = []
    for one in [*(one for one in said if one.in_match), outside]:
        possible.append(one)
        if one.certain:
            break
    if len({one.value for one in possible}) > 1:
        return GatewayPorts(None, f"it hangs on a Match block that can't be judged here: {possible[0].source}")
    if possible[0].value not in _VALUES:
        return GatewayPorts(None, f"{possible[0].value!r} isn't understood: {possible[0].source}")
    return GatewayPorts(possible[0].value, possible[0].source)


def _lines(root: str, path: str, user: str, *, within: bool | None = True, depth: int = 0) -> Iterator[_Said]:
    """Yields what a file and those that it includes say of `GatewayPorts`, in order; what doesn't apply is left out.

    Args:
        root: below which the files are.
        path: the file.
        user: whose connection it is.
        within: whether the block applies that includes it; None where that isn't known.
        depth: how many files include it.

    Raises:
        _UnreadableError: it can't be read.
    """
    try:
        text = Path(root + path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise _UnreadableError(f"{path}: {error.strerror}") from None
    applies, in_match = within, depth > 0 and within is not True
    for number, line in enumerate(text.splitlines(), start=1):
        key, values = _words(line)
        if key == "match":
            applies, in_match = _both(within, _matches(values, user)), True
        elif applies is False:
            continue
        elif key == "include" and depth < _DEEPEST:
            for pattern in values:
                whole = pattern if pattern.startswith("/") else f"/etc/ssh/{pattern}"
                for found in sorted(map(str, Path(f"{root}/").glob(whole.lstrip("/")))):
                    for one in _lines(root, found.removeprefix(root), user, within=applies, depth=depth + 1):
                        yield _Said(one.value, one.source, one.in_match or in_match, one.certain)
        elif key == "gatewayports" and values:
            yield _Said(values[0].lower(), f"{path}, line {number}", in_match, applies is True)


def _words(line: str) -> tuple[str, list[str]]:
    """Returns the keyword of a line in lower case, and its values."""
    try:
        words = shlex.split(re.sub(r"^(\s*\w+)\s*=\s*", r"\1 ", line), comments=True)
    except ValueError:
        return "", []
    return (words[0].lower(), words[1:]) if words else ("", [])


def _matches(criteria: list[str], user: str) -> bool | None:
    """Tells whether a `Match` line applies to a user's connections; None where it hangs on more."""
    if [word.lower() for word in criteria] == ["all"]:
        return True
    words = [word for one in criteria for word in one.split("=", 1)]
    applies: bool | None = True
    for name, patterns in zip(words[::2], words[1::2], strict=False):
        applies = _both(applies, _in_list(user, patterns) if name.lower() == "user" else None)
    return applies


def _in_list(user: str, patterns: str) -> bool:
    """Tells whether a name is in a list of patterns, one with ! before it shutting it out; see ssh_config(5)."""
    found = [pattern for pattern in patterns.split(",") if fnmatch.fnmatchcase(user, pattern.removeprefix("!"))]
    return bool(found) and not any(pattern.startswith("!") for pattern in found)


def _both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True
