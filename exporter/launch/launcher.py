"""Submitting: the journal first, then the site, then what came of it."""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from exporter.client.client import SiteClient
from exporter.client.transport import Answer, RemoteFile
from exporter.config import Config, Site
from exporter.errors import CommandError, ConfigError, ConnectError, RefusedError, SiteError, StoreError
from exporter.job_names import SCRIPT, new_token
from exporter.launch.bundle import Bundle, Progress, SpecFile, packed
from exporter.launch.guards import Ceiling, ceiling_of, hold
from exporter.launch.known import look
from exporter.launch.reach import check_reach
from exporter.launch.render import (
    Launch,
    partition_of,
    project_of,
    run_folder_files,
    wanted_tunnels,
)
from exporter.launch.selection import private_paths, select
from exporter.launch.sent import kept
from exporter.launch.spec import Spec, spec_of_journal
from exporter.launch.steps import reached
from exporter.store import holds, leases, submissions
from exporter.store.chains import Chain
from exporter.store.db import Store
from exporter.store.submissions import Submission, in_doubt
from exporter.tunnels.keeper import authorized
from exporter.tunnels.listeners import busy_ports
from exporter.tunnels.secrets import keep_secret

_log = logging.getLogger(__name__)

_NOTE_ATTEMPTS = 3

_NOT_RUN = frozenset({125, 126, 127})
"""Exit statuses that say that `sbatch` was not run."""

# sbatch ends with 1 for all that goes wrong. What it says of its options, and the controller's own words, are a
# refusal; where the two could not talk, or could not trust each other, the job may be there all the same. So it may
# where the words are those of an error number, which is none of the controller's.
_REFUSED = re.compile(
    r"Batch job submission failed: |sbatch: (error: )?(unrecognized option|invalid|Unable to open file)", re.IGNORECASE
)
_DOUBTFUL = re.compile(
    r"timed out|unable to contact|connection|connect failure|zero (bytes|length)|unexpected m|communication"
    r"|i/o error|message (send|receive|length)|entire message|insane message|internal|authenticat|credential|munge"
    r"|incompatible|protocol|header lengths|no error|memory management|malloc"
    r"|submission failed: (" + "|".join(re.escape(os.strerror(number)) for number in sorted(errno.errorcode)) + ")",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Launcher:
    """Turns specs into jobs.

    Attributes:
        config: where things are.
        store: where the journal is.
        clock: gives UTC epoch seconds.
    """

    config: Config
    store: Store
    clock: Callable[[], float] = time.time

    def earlier(self, spec: Spec, key: str | None) -> Submission | None:
        """Returns the submission that a key stands for; None where it is free, or there is none.

        Raises:
            ConfigError: the spec lacks something.
            RefusedError: it stands for another launch than this spec's.
        """
        if key is None:
            return None
        with self.store.snapshot() as connection:
            found = submissions.of_key(connection, key)
        return None if found is None else _same(found, _resolved(spec, self.config.site(spec.site)))

    def launch(
        self,
        client: SiteClient,
        spec: Spec,
        *,
        campaign: str = "",
        force: bool = False,
        over_budget: bool = False,
        ceiling: Ceiling | None = None,
        key: str | None = None,
        follows: Chain | None = None,
        bundle: Bundle | None = None,
        spec_file: SpecFile | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Submission:
        """Submits one job.

        The intention is on disk before anything leaves this machine, and says at each step what is known.

        Args:
            client: the way to the spec's site.
            spec: what to run.
            campaign: whose job it is.
            force: launch in spite of what the user may know better; see `limits.check`. No budget is passed by it.
            over_budget: launch though it may cost more than a budget, a floor or its cap allows; see `guards.hold`.
            ceiling: its campaign's budget; that of the chain that it goes on counts by itself.
            key: whoever asks calls this intention so: asked once more with it, the launch isn't done again.
            follows: the chain that it goes on, in the working folder of its first job; it brings nothing along.
            bundle: what it brings along, as it was when somebody asked; left out: as it is now. Closed at the end.
            spec_file: the spec's file, for the manifest of what is brought along now.
            tell: told in words how far copying is.

        Returns:
            The submission: `submitted` with its job, or `unknown` where the answer was lost; its `error` says why and
            what to do. With a key that was used before: that submission, as it is.

        Raises:
            ConfigError: the spec lacks something; nothing was sent.
            RefusedError: the site takes no such job, is closed, or the budget is used up, or the key stands for another
                launch, or what it is to bring along can't be brought, or others would reach its tunnels; nothing was
                submitted. An `OverBudgetError`: it may cost more than is set.
            SiteError: the site couldn't be reached before anything was submitted, or refused the job.
            StoreError: the store could not be written. Nothing was submitted, unless the message says so.
        """
        site = self.config.site(spec.site)
        for warning in look(spec, site, self.store, now=self.clock(), campaign=bool(campaign), force=force):
            _log.warning("%s", warning)
        check_reach(spec, self.config, self.store, now=self.clock())
        resolved = _resolved(spec, site)
        bringing: AbstractContextManager[Bundle | None] = bundle or nullcontext()
        if bundle is None and follows is None:
            selection = select(spec.bring, spec.bring_limits, private=private_paths(self.config))
            bringing = packed(selection, self.config.state_dir, spec=spec_file, now=self.clock())
        token = new_token()
        reached("asked")
        intended = self.store.write(
            lambda connection: self._intend(
                connection,
                spec,
                token=token,
                campaign=campaign,
                force=force,
                over_budget=over_budget,
                ceiling=ceiling,
                key=key,
                follows=follows,
            )
        )
        if intended.token != token:  # asked for at another site at the same time
            return _same(intended, resolved)
        reached("journalled")
        try:
            run_dir = client.make_folder(intended.run_dir)
            reached("folder-made")
            ports = self._ports(token)
            private = authorized(self.config, self.store, token, ports, now=self.clock()) if ports else None
            launch = Launch(token, run_dir, ports, secrets.token_hex(32), intended.link, tunnel_key=private)
            if follows is not None:
                launch = replace(launch, work_dir=f"{follows.links[0].submission.run_dir}/{launch.work_dir}")
            keep_secret(self.config.state_dir, token, launch.ray_auth_token)
            files = run_folder_files(spec, site, self.config.vm, launch)
            with bringing as brought:
                _send(client, run_dir, brought, files, tell)
            reached("copied")

            def submitting(connection: sqlite3.Connection) -> None:
                submissions.submitting(connection, token, run_dir, sent=kept(files), now=self.clock())
                if brought is not None:
                    submissions.note_manifest(connection, token, brought.manifest)

            self.store.write(submitting)
        except BaseException as error:
            self._came_to_nothing(token, error)
            raise
        reached("submitting")
        return self._submit(client, intended, run_dir)

    def _intend(
        self,
        connection: sqlite3.Connection,
        spec: Spec,
        *,
        token: str,
        campaign: str,
        force: bool,
        over_budget: bool,
        ceiling: Ceiling | None,
        key: str | None,
        follows: Chain | None,
    ) -> Submission:
        """Writes the intention down and holds its price, or refuses it: of two at once the second sees the first's."""
        if key is not None and (earlier := submissions.of_key(connection, key)) is not None:
            return earlier
        site, now = self.config.site(spec.site), self.clock()
        limit = ceiling if follows is None else ceiling_of(connection, follows)
        held, told = hold(connection, spec, self.config, ceiling=limit, over_budget=over_budget, now=now)
        intended = submissions.intend(
            connection,
            token=token,
            site=site.name,
            campaign=campaign,
            name=spec.name,
            spec=_resolved(spec, site),
            run_dir=site.run_folder(project_of(spec, site), f"{spec.name}-{token}"),
            tunnels=wanted_tunnels(spec, self.config),
            busy=busy_ports(),
            now=now,
            key=key,
            chain=None if follows is None else follows.token,
            link=0 if follows is None else follows.last.submission.link + 1,
            forced=force,
        )
        if held is not None:
            holds.keep(connection, token, held)
        for warning in told:
            _log.warning("%s", warning)
        return intended

    def _ports(self, token: str) -> dict[str, int]:
        with self.store.snapshot() as connection:
            return {lease.tunnel: lease.port for lease in leases.of_submission(connection, token)}

    def _submit(self, client: SiteClient, intended: Submission, run_dir: str) -> Submission:
        token = intended.token
        try:
            answer = client.submit(run_dir, SCRIPT)
        except (ConnectError, RefusedError, StoreError) as error:  # no session, or not booked: sbatch was not run
            self._came_to_nothing(token, error)
            raise
        except SiteError as error:  # it was sent, and its answer is lost
            return self._unsettle(token, "unknown", in_doubt(intended, str(error)))
        except BaseException as error:
            self._unsettle(token, "unknown", in_doubt(intended, repr(error)))
            raise
        reached("answered")
        job_id = _job_id(answer)
        if job_id is not None:
            submission = self._note_job(intended, job_id)
            reached("noted")
            return submission
        said = (answer.stderr.strip() or answer.stdout.strip() or "nothing").splitlines()[-1]
        if not _is_refusal(answer):
            return self._unsettle(token, "unknown", in_doubt(intended, f"sbatch said: {said}"))
        refusal = CommandError(
            f"{intended.site}: sbatch refused: {said}", exit_status=answer.exit_status, stderr=answer.stderr
        )
        self._came_to_nothing(token, refusal)
        raise refusal

    def _note_job(self, intended: Submission, job_id: str) -> Submission:
        """Writes the job's id down; a store that fails just now must not lose it."""
        reason = ""
        for attempt in range(_NOTE_ATTEMPTS):
            try:
                return self.store.write(
                    lambda connection: submissions.submitted(connection, intended.token, job_id, now=self.clock())
                )
            except StoreError as error:
                reason = str(error)
                _log.critical("%s: job %s was submitted, but the store says: %s", intended.site, job_id, reason)
                time.sleep(attempt)
        raise StoreError(
            f"job {job_id} was submitted on {intended.site}, but that could not be written down: {reason}. "
            "`rayslurm serve` finds it again when the store can be written, or: rayslurm track "
            f"{intended.site}/{job_id}"
        )

    def _came_to_nothing(self, token: str, error: BaseException) -> None:
        """Notes that nothing was submitted; a store that fails just now must not hide why."""
        try:
            self._unsettle(token, "absent", f"nothing was submitted: {error}")
        except StoreError as fault:  # it stays as it is, and is settled as if this process had died
            _log.critical("the submission %s came to nothing (%s), but the store says: %s", token, error, fault)

    def _unsettle(self, token: str, state: str, error: str) -> Submission:
        return self.store.write(
            lambda connection: submissions.unsettle(connection, token, state, error, now=self.clock())
        )


def _send(
    client: SiteClient,
    run_dir: str,
    brought: Bundle | None,
    files: Mapping[str, RemoteFile],
    tell: Callable[[str], None],
) -> None:
    """Copies what is brought along and the job's own files into the run folder, as one command."""
    if brought is None:
        client.write(run_dir, files, written=lambda _: reached("copying"))
        return
    progress = Progress(brought, tell)

    def sent(count: int) -> None:
        reached("bringing")
        progress(count)

    own = files.keys()
    client.write(
        run_dir,
        {**brought.files(sent), **files},
        folders=brought.folders,
        written=lambda name: reached("copying") if name in own else None,
    )


def _resolved(spec: Spec, site: Site) -> dict[str, Any]:
    """Returns the spec as understood, with what the site's configuration adds."""
    return spec.model_dump(mode="json") | {"project": project_of(spec, site), "partition": partition_of(spec, site)}


def _same(found: Submission, resolved: dict[str, Any]) -> Submission:
    if not _mean_the_same(found.spec, resolved):
        raise RefusedError(
            f"the key {found.key} stands for another launch, of {found.name} on {found.site}; nothing was submitted: "
            "take another key"
        )
    return found


def _mean_the_same(kept: dict[str, Any], resolved: dict[str, Any]) -> bool:
    """Tells whether two specs are one, also where an earlier version wrote the first, which lacks newer keys."""
    try:
        return spec_of_journal(kept) == spec_of_journal(resolved)
    except ConfigError:
        return False


def _job_id(answer: Answer) -> str | None:
    """Returns the id that `sbatch --parsable` printed: `123` or `123;cluster`, on the last line."""
    if answer.exit_status != 0:
        return None
    lines = answer.stdout.strip().splitlines()
    match = re.fullmatch(r"(\d+)(;\S+)?", lines[-1].strip()) if lines else None
    return match[1] if match else None


def _is_refusal(answer: Answer) -> bool:
    """Tells whether it is certain that no job came of it; whatever isn't known is in doubt."""
    if answer.stdout.strip():
        return False
    if answer.exit_status in _NOT_RUN:
        return True
    return answer.exit_status == 1 and bool(_REFUSED.search(answer.stderr)) and not _DOUBTFUL.search(answer.stderr)
