"""What git says of files that are brought along: the commit that they are from, and how they differ from it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 20
_PLAIN = ("--no-color", "--no-ext-diff", "--no-textconv")
_LISTED = 100
"""How many changed files are named."""

_DIFFED = 1000
"""How many files a diff is made of at most: their names go on a command line."""

MAX_DIFF_BYTES = 1024**2
"""A longer diff isn't kept: the files themselves are brought anyhow."""


@dataclass(frozen=True, slots=True)
class GitState:
    """The state of a source in its repository.

    Attributes:
        commit: the full hash that is checked out; None before the first one.
        branch: None where none is checked out.
        modified: how many of the files that the commit has differ from it here, or are gone.
        untracked: how many of the files that are brought the repository doesn't have, also since it ignores them.
        changes: the first of both by path within the repository, as `M path`, `D path` where it is gone, and `? path`.
        diff: what changed in the files that are brought, for `git apply`; None where nothing did, or too much. It tells
            nothing of others: what is left out may be a secret.
    """

    commit: str | None
    branch: str | None
    modified: int
    untracked: int
    changes: tuple[str, ...]
    diff: bytes | None

    @property
    def dirty(self) -> bool:
        """Whether what is brought isn't what the commit has."""
        return bool(self.modified or self.untracked)


def git_state(root: Path, files: Sequence[Path]) -> GitState | None:
    """Asks git about a source; None where it is in no repository, or git can't tell. Never an error.

    Remote addresses are not asked for: they may hold passwords.

    Args:
        root: the file or folder, without links.
        files: what is brought of it, without links.
    """
    git = _Git(root if root.is_dir() else root.parent)
    top = git.line("rev-parse", "--show-toplevel")
    if not top:
        return None
    commit = git.line("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    scope = "." if root.is_dir() else f":(literal){root.name}"
    tracked = git.paths("ls-files", "-z", "--full-name", "--recurse-submodules", "--", scope)
    changed = git.paths("diff", "HEAD", *_PLAIN, "--name-only", "-z", "--", scope) if commit else set()
    if tracked is None or changed is None:
        return None
    here = Path(os.path.realpath(top))
    brought = {str(path.relative_to(here)) for path in files if path.is_relative_to(here)}
    modified = sorted(changed & brought)
    gone = {path for path in changed - brought if not os.path.lexists(here / path)}
    untracked = brought - tracked
    marks = {**dict.fromkeys(modified, "M"), **dict.fromkeys(gone, "D"), **dict.fromkeys(untracked, "?")}
    return GitState(
        commit=commit,
        branch=git.line("symbolic-ref", "--quiet", "--short", "HEAD"),
        modified=len(modified) + len(gone),
        untracked=len(untracked),
        changes=tuple(f"{marks[path]} {path}" for path in sorted(marks)[:_LISTED]),
        diff=_diff(_Git(here), modified),
    )


def _diff(git: _Git, modified: Sequence[str]) -> bytes | None:
    if not modified or len(modified) > _DIFFED:
        return None
    names = [f":(literal){path}" for path in modified]
    text = git.output("diff", "HEAD", *_PLAIN, "--binary", "--src-prefix=a/", "--dst-prefix=b/", "--", *names)
    return text if text and len(text) <= MAX_DIFF_BYTES else None


class _Git:
    """Runs git in a folder; it changes nothing there, and asks nobody."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # What a hook or an alias that called us has set would point elsewhere.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }

    def output(self, *words: str) -> bytes | None:
        """Returns what it printed; None where it failed."""
        try:
            done = subprocess.run(
                ["git", "-c", "core.fsmonitor=false", "-C", str(self._folder), *words],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired, ValueError):
            return None
        return done.stdout if done.returncode == 0 else None

    def line(self, *words: str) -> str | None:
        """Returns the line that it printed; None where it failed, or printed nothing."""
        output = self.output(*words)
        return (os.fsdecode(output).rstrip("\n") or None) if output else None

    def paths(self, *words: str) -> set[str] | None:
        """Returns the paths that it printed with `-z`; None where it failed."""
        output = self.output(*words)
        return None if output is None else {os.fsdecode(path) for path in output.split(b"\0") if path}
