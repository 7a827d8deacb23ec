"""The client of one site: every command is booked in the budget, has a deadline, and waits out a back-off."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

from exporter.client.backoff import Backoff
from exporter.client.commands import known_fields
from exporter.client.credentials import credential_state
from exporter.client.login import Endpoint
from exporter.client.ssh import SshTransport
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
from exporter.config import Site
from exporter.errors import (
    AnswerError,
    AuthError,
    CommandError,
    ConnectError,
    DeadlineError,
    HostKeyError,
    NoKeyError,
    SessionLostError,
    SiteError,
)

ResultT = TypeVar("ResultT")


class Ledger(Protocol):
    """Where commands are counted; `exporter.store.commands.CommandLedger`."""

    def take(self, command: str, *, person: bool = False, urgent: bool = False) -> int:
        """Books a command; raises BudgetExhaustedError."""

    def finish(self, booking: int, command: str, outcome: str) -> None:
        """Notes what became of it."""

    def give_back(self, booking: int) -> None:
        """Takes a booking back: nothing was sent."""

    def connected(self, outcome: str) -> None:
        """Counts an attempt to connect."""

    def refused(self, seconds: float, credentials: str | None, reason: str) -> None:
        """Remembers a login that was refused with these credentials; None where that isn't known."""

    def refusal(self, credentials: str | None) -> tuple[float, str] | None:
        """Returns for how many seconds a login with these must not be repeated, and why; None for any credentials."""


class _NotTriedError(ConnectError):
    """No attempt was made: it is too early for one."""


class SiteClient:
    """Asks one site. Not for use by several threads at once: it belongs to its site's worker.

    Args:
        name: the site's name, for messages.
        transport: the way to it.
        ledger: where its commands are counted.
        backoff: when a site that could not be reached is tried again.
        connect_deadline: seconds for logging in.
        command_deadline: seconds for a command; kept as an attribute.
        credentials: gives what lifts the wait after a refused login when it changes; None where that isn't known.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        ledger: Ledger,
        *,
        backoff: Backoff | None = None,
        connect_deadline: float = 20,
        command_deadline: float = 60,
        credentials: Callable[[], str | None] = lambda: "none",
    ) -> None:
        self.name = name
        self._transport = transport
        self._ledger = ledger
        self._backoff = backoff or Backoff(time.monotonic)
        self._connect_deadline = connect_deadline
        self.command_deadline = command_deadline
        self._credentials = credentials
        self._fields: tuple[str, ...] | None = None
        self._person = False
        self._at_once = False

    @contextmanager
    def for_person(self, *, at_once: bool = True) -> Iterator[None]:
        """Within it, commands may use what the budget keeps back for people.

        Args:
            at_once: try a connection also where its turn hasn't come: somebody waits.
        """
        self._person, self._at_once = True, at_once
        try:
            yield
        finally:
            self._person = self._at_once = False

    def submit(self, run_dir: str, script: str) -> Answer:
        """Submits a script with its folder as working directory.

        Returns:
            The answer, whatever its exit status: the caller has to know whether a job came of it.

        Raises:
            ConnectError: nothing was sent.
            DeadlineError: it isn't known what came of it; SessionLostError likewise.
        """
        return self._send("sbatch", lambda: self._transport.submit(run_dir, script, self.command_deadline))

    def queue(self, names: Sequence[str] = ()) -> Answer:
        """Asks once for all of the user's jobs in the queue, or for those with these names, ended ones among them.

        Raises:
            CommandError: Slurm answered with an error.
        """
        return whole(checked(self._send("squeue", lambda: self._transport.queue(names, self.command_deadline))))

    def accounting_fields(self) -> tuple[str, ...]:
        """Returns the fields that accounting is asked for: those that this Slurm knows. Asks only once.

        Raises:
            CommandError: accounting answered with an error.
        """
        if not self._fields:
            answer = checked(
                self._send("sacct-helpformat", lambda: self._transport.accounting_fields(self.command_deadline))
            )
            self._fields = known_fields(answer.stdout)
            if "JobID" not in self._fields:
                raise SiteError(f"{self.name}: sacct --helpformat names no JobID: {answer.stdout[:80]!r}")
        return self._fields

    def accounting(self, ids: Sequence[str], *, duplicates: bool = False) -> Answer:
        """Asks accounting once for all these jobs.

        Args:
            ids: job ids; never empty.
            duplicates: tell every attempt of a requeued job.

        Raises:
            CommandError: accounting answered with an error.
        """
        fields = self.accounting_fields()
        answer = self._send(
            "sacct", lambda: self._transport.accounting(ids, fields, self.command_deadline, duplicates=duplicates)
        )
        if answer.exit_status:
            self._fields = None  # Slurm may have been upgraded, and one unknown field fails the whole call
        return whole(checked(answer))

    def accounting_by_name(self, names: Sequence[str], hours: int) -> Answer:
        """Asks accounting which of the user's jobs of the last hours have these names.

        Raises:
            CommandError: accounting answered with an error.
        """
        return whole(
            checked(
                self._send("sacct", lambda: self._transport.accounting_by_name(names, hours, self.command_deadline))
            )
        )

    def partitions(self) -> Answer:
        """Asks once for all partitions, with their limits and nodes.

        Raises:
            CommandError: Slurm answered with an error.
        """
        return whole(checked(self._send("sinfo", lambda: self._transport.partitions(self.command_deadline))))

    def cancel(self, job_id: str) -> Answer:
        """Cancels a job; never kept waiting by the budget.

        Raises:
            CommandError: Slurm answered with an error.
        """
        return checked(
            self._send("scancel", lambda: self._transport.cancel(job_id, self.command_deadline), urgent=True)
        )

    def make_folder(self, path: str) -> str:
        """Makes a folder for the user alone and returns its absolute path."""
        return self._send("mkdir", lambda: self._transport.make_folder(path, self.command_deadline))

    def write(
        self,
        folder: str,
        files: Mapping[str, RemoteFile | RemoteStream],
        *,
        folders: Sequence[str] = (),
        written: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Writes files into a folder that is there, all as one command; see `Transport.write`.

        It may take as long as it takes, while each piece takes no longer than a command may.
        """
        self._send(
            "write",
            lambda: self._transport.write(folder, files, self.command_deadline, folders=folders, written=written),
        )

    def rename(self, path: str, new_path: str) -> None:
        """Gives a file another name.

        Raises:
            FileNotFoundError: there is none of the old one.
        """
        self._send("rename", lambda: self._transport.rename(path, new_path, self.command_deadline))

    def tool(self, *words: str) -> Answer:
        """Runs one of the site's own commands, such as `seff 123`; returns the answer whatever its exit status."""
        return self._send(words[0], lambda: self._transport.tool(words, self.command_deadline))

    def read(self, path: str, max_bytes: int = 1 << 20) -> RemoteContent:
        """Reads a file from its start, at most `max_bytes`.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._send("read", lambda: self._transport.read(path, max_bytes, self.command_deadline))

    def read_many(self, paths: Sequence[str], max_bytes: int) -> RemoteFiles:
        """Reads several files from their start, at most `max_bytes` of each; counted as one command."""
        return self._send("read", lambda: self._transport.read_many(paths, max_bytes, self.command_deadline))

    def fetch(self, folder: str, names: Sequence[str], receive: Callable[[str, RemoteFound], None]) -> dict[str, str]:
        """Hands out files of a folder one after the other, all as one command; see `Transport.fetch`."""
        return self._send("fetch", lambda: self._transport.fetch(folder, names, receive, self.command_deadline))

    def tail(self, path: str, max_bytes: int) -> RemoteTail:
        """Reads the end of a file, at most `max_bytes`.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._send("read", lambda: self._transport.tail(path, max_bytes, self.command_deadline))

    def run(self, name: str, command: str) -> Answer:
        """Runs a shell command, counted under a name; returns the answer whatever its exit status."""
        return self._send(name, lambda: self._transport.run(command, self.command_deadline))

    def close(self) -> None:
        """Ends the session."""
        self._transport.close()

    def _send(self, command: str, send: Callable[[], ResultT], *, urgent: bool = False) -> ResultT:
        booking = self._ledger.take(command, person=self._person, urgent=urgent)
        outcome: str | None = "failed"
        try:
            self._connect(anyway=self._at_once or urgent)
            try:
                result = send()
            except ConnectError:  # the kept session was dead; nothing was sent, so once more over a new one
                self._connect(anyway=True)
                result = send()
            outcome = "failed" if isinstance(result, Answer) and result.exit_status else "ok"
        except ConnectError:
            outcome = None
            raise
        except DeadlineError:
            outcome = "timeout"
            raise
        except SessionLostError:
            outcome = "lost"
            raise
        finally:
            if outcome is None:
                self._ledger.give_back(booking)
            else:
                self._ledger.finish(booking, command, outcome)
        return result

    def _connect(self, *, anyway: bool) -> None:
        if self._backoff.remaining() and not anyway and not isinstance(self._backoff.last_error, AuthError):
            self._refuse(self._backoff.remaining(), str(self._backoff.last_error))
        credentials: str | None = None
        try:
            if not self._transport.connected():
                credentials = self._credentials()
                # The store knows of refused logins of other processes too; not even a person repeats them.
                refusal = self._ledger.refusal(credentials)
                if refusal is not None:
                    self._refuse(*refusal)
            if self._transport.connect(self._connect_deadline):
                self._ledger.connected("ok")
        except _NotTriedError:
            raise
        except ConnectError as error:
            self._backoff.failed(error)
            if isinstance(error, AuthError):
                self._ledger.refused(self._backoff.remaining(), credentials or self._credentials(), str(error))
            self._ledger.connected(_outcome(error))
            raise
        self._backoff.reset()

    def _refuse(self, seconds: float, reason: str) -> None:
        raise _NotTriedError(f"{self.name}: not tried again for {seconds:.0f} s, because: {reason}")


def ssh_client(site: Site, ledger: Ledger) -> SiteClient:
    """Returns a client that reaches a site over SSH as its configuration says."""
    ssh = site.settings.ssh
    endpoints = []
    for jump in ssh.proxy_jump:
        user, _, address = jump.partition("@")
        host, _, port = address.partition(":")
        endpoints.append(Endpoint(host, int(port or 22), user))
    endpoints.append(Endpoint(site.login_host, ssh.port, ssh.user, ssh.host_key_alias))
    transport = SshTransport(endpoints, known_hosts=ssh.known_hosts, key=ssh.key, agent=ssh.agent)
    return SiteClient(
        site.name,
        transport,
        ledger,
        backoff=Backoff(time.monotonic, scale=site.settings.practice_clock_factor),
        connect_deadline=ssh.connect_deadline,
        command_deadline=ssh.command_deadline,
        credentials=partial(credential_state, ssh.key, agent=ssh.agent, seconds=ssh.connect_deadline / 2),
    )


def whole(answer: Answer) -> Answer:
    """Returns an answer that cannot be empty, and ends with a line's end, as it came.

    Raises:
        AnswerError: it is empty, or was cut short.
    """
    if not answer.stdout.strip():
        said = f"; it said: {answer.stderr.strip().splitlines()[-1]}" if answer.stderr.strip() else ""
        raise AnswerError(f"{_program(answer)} printed nothing{said}", "empty_answer")
    if not answer.stdout.endswith("\n"):
        last = answer.stdout.splitlines()[-1]
        raise AnswerError(f"{_program(answer)}: its answer was cut short; it ends {last[-60:]!r}", "incomplete_answer")
    return answer


def checked(answer: Answer) -> Answer:
    """Returns the answer of a command that went well.

    Raises:
        CommandError: it did not; the message has the last line of what it said.
    """
    if answer.exit_status:
        said = answer.stderr.strip().splitlines() or answer.stdout.strip().splitlines() or ["(it said nothing)"]
        raise CommandError(
            f"{_program(answer)} ended with {answer.exit_status}: {said[-1]}",
            exit_status=answer.exit_status,
            stderr=answer.stderr,
        )
    return answer


_PROGRAMS = re.compile(
    r"\b(squeue|sacct|scancel|sbatch|sinfo|seff|csc-projects|csc-workspaces|lumi-allocations|lumi-workspaces)\b"
)


def _program(answer: Answer) -> str:
    found = _PROGRAMS.search(answer.command)
    return found[0] if found else "the command"


CONNECT_OUTCOMES = ("ok", "auth", "no_key", "host_key", "refused")
"""How an attempt to log in can end."""


def _outcome(error: ConnectError) -> str:
    if isinstance(error, AuthError):
        return "auth"
    if isinstance(error, NoKeyError):
        return "no_key"
    return "host_key" if isinstance(error, HostKeyError) else "refused"
