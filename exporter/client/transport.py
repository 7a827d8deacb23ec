"""The seam between rayslurm and a site: the verbs, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

PIECE_BYTES = 32 * 1024
"""How much of a file is sent at a time; as much as any SFTP server must take."""


@dataclass(frozen=True, slots=True)
class Answer:
    r"""What a command at the site answered.

    Attributes:
        command: as it was sent.
        stdout: what it printed; bytes that are no UTF-8 stand as `\xNN`.
        stderr: the same of standard error.
        exit_status: what it ended with.
        duration_seconds: from sending to the last byte.
    """

    command: str
    stdout: str
    stderr: str
    exit_status: int
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to be written at the site.

    Attributes:
        content: its bytes.
        mode: its permissions; set before the content is there.
    """

    content: bytes
    mode: int = 0o644

    def pieces(self) -> Iterator[bytes]:
        """Gives its bytes, at most `PIECE_BYTES` at a time."""
        for start in range(0, len(self.content), PIECE_BYTES):
            yield self.content[start : start + PIECE_BYTES]


@dataclass(frozen=True, slots=True)
class RemoteStream:
    """A file to be written at the site that isn't held in memory.

    Attributes:
        pieces: gives its bytes from the start, at most `PIECE_BYTES` at a time.
        mode: as that of `RemoteFile`.
    """

    pieces: Callable[[], Iterator[bytes]]
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class RemoteContent:
    """What was read of a file at the site.

    Attributes:
        content: its bytes, from the start.
        modified_time: when it was last written, epoch seconds by the site's clock; None where that isn't told.
    """

    content: bytes
    modified_time: int | None = None


@dataclass(frozen=True, slots=True)
class RemoteFiles:
    """What came of reading several files at the site; those that stand in neither are not there.

    Attributes:
        found: what was read, by path.
        failed: why a file that may be there could not be read, by path.
    """

    found: Mapping[str, RemoteContent]
    failed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RemoteTail:
    """The end of a file at the site.

    Attributes:
        content: its last bytes.
        size: how many bytes it has in all.
    """

    content: bytes
    size: int


@dataclass(frozen=True, slots=True)
class RemoteFound:
    """A file at the site that is about to be fetched.

    Attributes:
        size: in bytes, when it was looked at.
        modified_time: when it was last written, epoch seconds by the site's clock; None where that isn't told.
        pieces: gives its bytes from an offset on, so many at most; some are held in memory at a time.
    """

    size: int
    modified_time: int | None
    pieces: Callable[[int, int], Iterator[bytes]]


class Transport(Protocol):
    """The verbs that a way to a site must have. A way without a shell leaves out `run`, which nothing here needs.

    Every verb raises `SiteError`: `ConnectError` where nothing was sent, `DeadlineError` or `SessionLostError` where it
    isn't known what came of it.
    """

    def connected(self) -> bool:
        """Tells whether there is a session, without asking the site."""

    def connect(self, deadline: float) -> bool:
        """Makes sure that there is a session; True where a new one was made. `deadline` in seconds."""

    def submit(self, run_dir: str, script: str, deadline: float) -> Answer:
        """Submits a script that lies in a folder, with that folder as working directory.

        When the deadline is over nothing is submitted any more, also where the answer was lost. An exit status of 125
        to 127 says that it was not tried.
        """

    def queue(self, names: Sequence[str], deadline: float) -> Answer:
        """Asks for the user's jobs in the queue, all of them or those with these names."""

    def accounting(
        self, ids: Sequence[str], fields: Sequence[str], deadline: float, *, duplicates: bool = False
    ) -> Answer:
        """Asks accounting for these jobs with their steps."""

    def accounting_by_name(self, names: Sequence[str], hours: int, deadline: float) -> Answer:
        """Asks accounting which of the user's jobs of the last hours have these names: id, state and name."""

    def accounting_fields(self, deadline: float) -> Answer:
        """Asks which fields accounting knows."""

    def partitions(self, deadline: float) -> Answer:
        """Asks which partitions there are, with their limits and nodes."""

    def cancel(self, job_id: str, deadline: float) -> Answer:
        """Cancels a job."""

    def make_folder(self, path: str, deadline: float) -> str:
        """Makes a folder for the user alone, with those above it; a relative path starts at the home.

        Returns:
            Its absolute path.
        """

    def write(
        self,
        folder: str,
        files: Mapping[str, RemoteFile | RemoteStream],
        deadline: float,
        *,
        folders: Sequence[str] = (),
        written: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Writes files into a folder that is there, and tells the name of each that was written.

        However long it takes in all, no longer than the deadline may pass without a piece that arrives. An error of a
        file's `pieces` ends it.

        Args:
            folder: where.
            files: by their names, which may have folders before them.
            deadline: seconds.
            folders: made in the folder before, those above first, for the user alone.
            written: told the name of each file.
        """

    def rename(self, path: str, new_path: str, deadline: float) -> None:
        """Gives a file another name; FileNotFoundError where there is none of the old one."""

    def read(self, path: str, max_bytes: int, deadline: float) -> RemoteContent:
        """Reads a file from its start; FileNotFoundError where there is none that we may read."""

    def read_many(self, paths: Sequence[str], max_bytes: int, deadline: float) -> RemoteFiles:
        """Reads several files from their start, in one session; one that can't be read costs itself alone.

        No file may take longer than the deadline.
        """

    def fetch(
        self, folder: str, names: Sequence[str], receive: Callable[[str, RemoteFound], None], deadline: float
    ) -> dict[str, str]:
        """Hands out files of a folder one after the other, in one session, without holding any in memory.

        Those that aren't there, aren't the user's own, aren't plain files or lie outside of the folder are left out.

        Args:
            folder: where they are.
            names: paths within it.
            receive: is given each file by its name, and reads of it what it wants.
            deadline: no piece may take longer.

        Returns:
            Why those that may be there could not be read, by name.
        """

    def tail(self, path: str, max_bytes: int, deadline: float) -> RemoteTail:
        """Reads the end of a file, at most so many bytes; FileNotFoundError where there is none that we may read."""

    def tool(self, words: Sequence[str], deadline: float) -> Answer:
        """Runs one of the site's own commands, such as `seff 123`."""

    def run(self, command: str, deadline: float) -> Answer:
        """Runs a shell command."""

    def close(self) -> None:
        """Ends the session."""
