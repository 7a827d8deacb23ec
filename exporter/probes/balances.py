"""What projects have left: `csc-projects` at CSC; on LUMI the project's file, and `lumi-allocations` where it fails.

At most twice an hour, and a project of a provider once, however many of its sites are configured.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from exporter.client.client import checked, whole
from exporter.client.transport import Answer
from exporter.errors import InputError, RayslurmError
from exporter.parsers import csc_projects, lumi_allocations
from exporter.parsers.lumi_allocations import parse_project_json
from exporter.probes import differencing
from exporter.probes.base import ProbeContext, Unhurried
from exporter.records import AllocationRecord, CscAllocationRecord, Parsed
from exporter.sites.profile import Balance
from exporter.store import balances, jobs

INTERVAL_SECONDS = 1860.0
"""Between two reads: a bit over half an hour, so that no hour has three."""

_PARSERS: dict[str, Callable[..., Parsed[Any]]] = {"csc": csc_projects.parse, "lumi": lumi_allocations.parse}
_KINDS = {"csc": csc_projects.KIND, "lumi": lumi_allocations.KIND}

_REFUSAL = re.compile(
    r"permission|not a member|(not have|no) access|(unknown|no such|invalid) project|project .*does not exist",
    re.IGNORECASE,
)
"""What a site says of a project that is none of ours; LUMI's words are known, CSC's are not."""
_NO_SUCH_COMMAND = 127
_FILE = "project-file"


@dataclass(slots=True)
class BalancesProbe(Unhurried):
    """Reads the balances of one site's projects."""

    name: str = "balances"
    keeps_seconds: float = INTERVAL_SECONDS
    _without_file: set[str] = field(default_factory=set)

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        balance = context.site.profile.balance
        if balance is None:
            return INTERVAL_SECONDS
        failure: RayslurmError | None = None
        for project in _due(context, balance.provider):
            try:
                self._ask(context, balance, project)
            except RayslurmError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return INTERVAL_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return INTERVAL_SECONDS

    def _ask(self, context: ProbeContext, balance: Balance, project: str) -> None:
        if balance.json_path and project not in self._without_file:
            if self._read_file(context, balance.provider, balance.json_path.replace("{project}", project), project):
                return
            self._without_file.add(project)
        words = [word.replace("{project}", project) for word in balance.command]
        answer = context.client.tool(*words)
        if _is_refusal(answer, project):
            context.store.write(
                lambda connection: balances.lost(connection, balance.provider, project, now=context.clock())
            )
            return
        text = whole(checked(answer)).stdout
        parsed = context.read(_KINDS[balance.provider], text, _PARSERS[balance.provider])
        _take_in(context, balance.provider, project, parsed, source=_KINDS[balance.provider], text=text)
        self._without_file.discard(project)

    def _read_file(self, context: ProbeContext, provider: str, path: str, project: str) -> bool:
        """Reads the project's file; False where there is none of use."""
        try:
            file = context.client.read(path)
            text = file.content.decode("utf-8", errors="backslashreplace")
            parsed = context.read(_FILE, text, partial(_read_project_json, project=project))
        except (FileNotFoundError, InputError):
            return False
        records = tuple(replace(record, updated_time=file.modified_time) for record in parsed.records)
        _take_in(context, provider, project, Parsed(records, parsed.warnings), source=_FILE, text=text)
        return True


def make() -> BalancesProbe:
    """Returns the probe for one site."""
    return BalancesProbe()


def _due(context: ProbeContext, provider: str) -> list[str]:
    """Returns the projects to ask for: the configured one and those of followed jobs, unless just asked for."""
    now = context.clock()
    with context.store.snapshot() as connection:
        read = {row.project: row.read for row in balances.projects(connection) if row.provider == provider}
        wanted = set(jobs.projects_of(connection, context.site.name))
    if context.site.settings.project:
        wanted.add(context.site.settings.project)
    # Half the interval: another site of the provider may have asked, and runs at another pace.
    recent = context.site.scaled(INTERVAL_SECONDS) / 2
    return sorted(project for project in wanted if not 0 <= now - read.get(project, -recent) < recent)


def _is_refusal(answer: Answer, project: str) -> bool:
    """Tells whether the site says that the project is none of ours; `lumi-allocations` says so with exit status 0."""
    if answer.exit_status == _NO_SUCH_COMMAND or (answer.exit_status == 0 and answer.stdout.strip()):
        return False
    lines = (answer.stderr + "\n" + answer.stdout).splitlines()
    return any(project in line and _REFUSAL.search(line) for line in lines)


def _read_project_json(text: str, *, project: str, timezone: object) -> Parsed[AllocationRecord]:
    del timezone  # it tells no time
    return parse_project_json(text, project)


def _take_in(
    context: ProbeContext,
    provider: str,
    project: str,
    parsed: Parsed[AllocationRecord],
    *,
    source: str,
    text: str,
) -> None:
    records = [record for record in parsed.records if record.project == project]

    def keep(connection: sqlite3.Connection) -> None:
        context.keep(connection, source, text, faults=len(parsed.warnings))
        if not records:
            return
        about = next((record for record in records if isinstance(record, CscAllocationRecord)), None)
        balances.keep(
            connection,
            provider,
            project,
            records,
            end_time=about.end_time if about else None,
            last_grant_time=about.last_grant_time if about else None,
            start_time=about.start_time if about else None,
            status=about.status if about else None,
            now=context.clock(),
        )
        differencing.take_in(connection, context, records, exact=source == _FILE)

    context.store.write(keep)
    if not records:
        raise InputError(f"{source} was asked for {project} and told nothing of it that was understood")
