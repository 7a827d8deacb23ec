"""Jobs that follow those which met their time limit: looked for in the store, launched like any other."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from exporter.config import Config
from exporter.errors import BudgetExhaustedError, CommandError, ConfigError, RefusedError
from exporter.launch.continuing import decide
from exporter.launch.launcher import Launcher
from exporter.launch.spec import spec_of_journal
from exporter.probes import ProbeContext
from exporter.store import chains
from exporter.store.chains import Chain

_log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""Between two looks into the store."""

RETRY_SECONDS = (60.0, 120.0, 240.0, 480.0, 900.0, 1800.0, 3600.0)
"""How long to wait after each time that a job could not be launched."""


@dataclass(slots=True)
class Continuations:
    """Continues the chains of one site; run like a probe, in its site's worker.

    Attributes:
        config: the whole configuration.
    """

    config: Config
    name: str = "continuations"
    keeps_seconds: float = 0
    _failures: int = 0

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`; a job that may or may not have been launched is looked for before there is another one."""
        with context.store.snapshot() as connection:
            waiting = chains.open_chains(connection, context.site.name)
        self._failures = min(self._failures + 1, len(RETRY_SECONDS))
        for chain in waiting:
            self._continue(context, chain)
        self._failures = 0
        return LOOK_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return RETRY_SECONDS[max(self._failures, 1) - 1]

    def hurry(self, context: ProbeContext) -> bool:
        """See `Probe.hurry`."""
        del context
        return False

    def _continue(self, context: ProbeContext, chain: Chain) -> None:
        decision = decide(chain, now=context.clock())
        if decision.action == "launch":
            try:
                self._launch(context, chain)
            except BudgetExhaustedError:
                raise  # later
            except (CommandError, ConfigError, RefusedError) as error:
                _stop(context, chain, f"the next job was refused: {error}")
        elif decision.action == "stop":
            _stop(context, chain, decision.reason)

    def _launch(self, context: ProbeContext, chain: Chain) -> None:
        last = chain.last.submission
        launcher = Launcher(self.config, context.store, context.clock)
        with context.client.for_person(at_once=False):
            # The key is the last job's: whatever dies meanwhile, one job follows it and no second.
            following = launcher.launch(
                context.client,
                spec_of_journal(last.spec),
                campaign=last.campaign,
                force=last.forced,
                key=f"after {last.token}",
                follows=chain,
            )
        name = following.job_id or f"({following.state})"
        _log.info("site %s: job %s goes on where %s met its limit", last.site, name, last.job_id)


def _stop(context: ProbeContext, chain: Chain, reason: str) -> None:
    context.store.write(lambda connection: chains.end(connection, chain.token, reason))
    _log.info("site %s: %s: no further job: %s", context.site.name, chain.last.submission.name, reason)
