"""A recorded session as a way to a site, and the recorder that makes one.

A session is a JSON file: `{"exchanges": [{"verb": "queue", "stdout": "..."}, ...], "files": {"path": "text"}}`. Each
verb has its own row of exchanges and gets them in order; `repeat` true gives one again and again. An exchange with
`raises` names an error of `exporter.errors` instead of an answer.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from exporter import errors
from exporter.client.transport import (
    Answer,
    RemoteContent,
    RemoteFile,
    RemoteFiles,
    RemoteFound,
    RemoteStream,
    RemoteTail,
    Transport,
)
from exporter.errors import SiteError

FILE_TIME = 1_794_998_000
"""When the files of a recorded session were written."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a verb was answered.

    Attributes:
        verb: the verb's name, `queue`.
        raises: an error's class name; None for an answer.
        repeat: given again for every further call.
    """

    verb: str
    stdout: str = ""
    stderr: str = ""
    exit_status: int = 0
    raises: str | None = None
    repeat: bool = False


class ReplayTransport:
    """Answers from a recorded session. What was asked is kept in `asked`, what was written in `files`.

    Args:
        exchanges: what the verbs answer.
        files: what can be read, path to content.
    """

    def __init__(self, exchanges: Sequence[Exchange], files: Mapping[str, bytes] | None = None) -> None:
        self._rows: dict[str, deque[Exchange]] = defaultdict(deque)
        for exchange in exchanges:
            self._rows[exchange.verb].append(exchange)
        self.files: dict[str, bytes] = dict(files or {})
        self.file_time: int = FILE_TIME
        self.unreadable: dict[str, str] = {}
        self.asked: list[tuple[str, Any]] = []
        self._connected = False

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a recorded session from its JSON file."""
        session = json.loads(path.read_text(encoding="utf-8"))
        files = {name: text.encode() for name, text in session.get("files", {}).items()}
        return cls([Exchange(**exchange) for exchange in session["exchanges"]], files)

    def connected(self) -> bool:
        """See `Transport.connected`."""
        return self._connected

    def connect(self, deadline: float) -> bool:
        """See `Transport.connect`; an exchange of the verb `connect` can refuse."""
        if self._rows["connect"]:
            self._answer("connect", deadline)
        made, self._connected = not self._connected, True
        return made

    def submit(self, run_dir: str, script: str, deadline: float) -> Answer:
        """See `Transport.submit`."""
        del deadline
        return self._answer("submit", (run_dir, script))

    def queue(self, names: Sequence[str], deadline: float) -> Answer:
        """See `Transport.queue`."""
        del deadline
        return self._answer("queue", tuple(names))

    def accounting(
        self, ids: Sequence[str], fields: Sequence[str], deadline: float, *, duplicates: bool = False
    ) -> Answer:
        """See `Transport.accounting`."""
        del fields, deadline
        return self._answer("accounting", (tuple(ids), duplicates))

    def accounting_by_name(self, names: Sequence[str], hours: int, deadline: float) -> Answer:
        """See `Transport.accounting_by_name`."""
        del deadline
        return self._answer("accounting_by_name", (tuple(names), hours))

    def accounting_fields(self, deadline: float) -> Answer:
        """See `Transport.accounting_fields`."""
        del deadline
        return self._answer("accounting_fields", None)

    def partitions(self, deadline: float) -> Answer:
        """See `Transport.partitions`."""
        del deadline
        return self._answer("partitions", None)

    def cancel(self, job_id: str, deadline: float) -> Answer:
        """See `Transport.cancel`."""
        del deadline
        return self._answer("cancel", job_id)

    def make_folder(self, path: str, deadline: float) -> str:
        """See `Transport.make_folder`; the home is `/home/replay`."""
        del deadline
        self.asked.append(("make_folder", path))
        return path if path.startswith("/") else f"/home/replay/{path}"

    def write(
        self,
        folder: str,
        files: Mapping[str, RemoteFile | RemoteStream],
        deadline: float,
        *,
        folders: Sequence[str] = (),
        written: Callable[[str], None] = lambda _: None,
    ) -> None:
        """See `Transport.write`."""
        del deadline, folders
        self.asked.append(("write", folder))
        for name, file in files.items():
            self.files[f"{folder}/{name}"] = b"".join(file.pieces())
            written(name)

    def rename(self, path: str, new_path: str, deadline: float) -> None:
        """See `Transport.rename`."""
        del deadline
        self.asked.append(("rename", path))
        if path not in self.files:
            raise FileNotFoundError(path)
        self.files[new_path] = self.files.pop(path)

    def read(self, path: str, max_bytes: int, deadline: float) -> RemoteContent:
        """See `Transport.read`; every file was written at `file_time`."""
        del deadline
        self.asked.append(("read", path))
        if path not in self.files:
            raise FileNotFoundError(path)
        return RemoteContent(self.files[path][:max_bytes], self.file_time)

    def read_many(self, paths: Sequence[str], max_bytes: int, deadline: float) -> RemoteFiles:
        """See `Transport.read_many`; what stands in `unreadable` can't be read."""
        failed = {path: why for path, why in self.unreadable.items() if path in paths}
        there = [path for path in paths if path in self.files and path not in failed]
        return RemoteFiles({path: self.read(path, max_bytes, deadline) for path in there}, failed)

    def fetch(
        self, folder: str, names: Sequence[str], receive: Callable[[str, RemoteFound], None], deadline: float
    ) -> dict[str, str]:
        """See `Transport.fetch`; an exchange of the verb `fetch` can fail, and what stands in `unreadable` does."""
        if self._rows["fetch"]:
            self._answer("fetch", deadline)
        for name in names:
            self.asked.append(("fetch", f"{folder}/{name}"))
            content = self.files.get(f"{folder}/{name}")
            if content is not None and f"{folder}/{name}" not in self.unreadable:
                receive(name, RemoteFound(len(content), FILE_TIME, _reader(content)))
        return {name: self.unreadable[f"{folder}/{name}"] for name in names if f"{folder}/{name}" in self.unreadable}

    def tail(self, path: str, max_bytes: int, deadline: float) -> RemoteTail:
        """See `Transport.tail`."""
        content = self.read(path, 1 << 30, deadline).content
        return RemoteTail(content[-max_bytes:], len(content))

    def tool(self, words: Sequence[str], deadline: float) -> Answer:
        """See `Transport.tool`; the verb of its exchanges is the command's name."""
        del deadline
        return self._answer(words[0], tuple(words))

    def run(self, command: str, deadline: float) -> Answer:
        """See `Transport.run`."""
        del deadline
        return self._answer("run", command)

    def close(self) -> None:
        """See `Transport.close`."""
        self._connected = False

    def _answer(self, verb: str, what: object) -> Answer:
        self.asked.append((verb, what))
        row = self._rows[verb]
        if not row:
            raise SiteError(f"the recorded session has no further answer to {verb}")
        exchange = row[0] if row[0].repeat else row.popleft()
        if exchange.raises is not None:
            raise getattr(errors, exchange.raises)(exchange.stderr or exchange.raises)
        return Answer(verb, exchange.stdout, exchange.stderr, exchange.exit_status, 0.0)


def _reader(content: bytes) -> Callable[[int, int], Iterator[bytes]]:
    def pieces(begin: int, length: int) -> Iterator[bytes]:
        yield content[begin : begin + length]

    return pieces


class RecordingTransport:
    """Passes every verb on and keeps the answers, so that `save` makes a session for `ReplayTransport`.

    Args:
        inner: the real way to the site.
    """

    _RECORDED = frozenset(
        {
            "submit",
            "queue",
            "accounting",
            "accounting_by_name",
            "accounting_fields",
            "partitions",
            "cancel",
            "tool",
            "run",
        }
    )

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self._exchanges: list[dict[str, Any]] = []

    def __getattr__(self, verb: str) -> Any:
        """Returns the inner verb, wrapped where its answers are kept."""
        method: Callable[..., Any] = getattr(self._inner, verb)
        if verb not in self._RECORDED:
            return method

        def recorded(*args: Any, **kwargs: Any) -> Answer:
            try:
                answer: Answer = method(*args, **kwargs)
            except SiteError as error:
                self._exchanges.append({"verb": verb, "raises": type(error).__name__, "stderr": str(error)})
                raise
            self._exchanges.append(
                {"verb": verb, "stdout": answer.stdout, "stderr": answer.stderr, "exit_status": answer.exit_status}
            )
            return answer

        return recorded

    def save(self, path: Path) -> None:
        """Writes the session down as JSON."""
        path.write_text(json.dumps({"exchanges": self._exchanges}, indent=1) + "\n", encoding="utf-8")
