"""Jobs that follow those which met their time limit: looked for in the store, launched like any other."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from exporter.config import Config
from exporter.errors import CommandError, ConfigError, RayslurmError
from exporter.launch.continuing import decide
from exporter.launch.launcher import Launcher
from exporter.launch.spec import spec_of_journal
from exporter.probes import ProbeContext, Unhurried
from exporter.store import chains
from exporter.store.chains import Chain

_log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""Between two looks into the store."""

RETRY_SECONDS = (60.0, 120.0, 240.0, 480.0, 900.0, 1800.0, 3600.0)
"""How long to wait after each time that a job could not be launched: a limit of the site, its disk, the way to it."""

_FOR_GOOD = re.compile(
    r"(?i)invalid (account|partition|qos|feature|generic resource)|node configuration is not available"
)
"""What sbatch refuses for good; other refusals, such as of too many jobs at once, may pass."""


@dataclass(slots=True)
class Continuations(Unhurried):
    """Continues the chains of one site; run like a probe, in its site's worker.

    Attributes:
        config: the whole configuration.
        clock: a monotonic clock in seconds.
    """

    config: Config
    name: str = "continuations"
    keeps_seconds: float = 0
    clock: Callable[[], float] = time.monotonic
    _tried: dict[str, tuple[int, float]] = field(default_factory=dict)

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`; a job that may or may not have been launched is looked for before there is another one."""
        with context.store.snapshot() as connection:
            waiting = chains.open_chains(connection, context.site.name)
        self._tried = {chain.token: self._tried[chain.token] for chain in waiting if chain.token in self._tried}
        fault: RayslurmError | None = None
        for chain in waiting:
            try:
                self._continue(context, chain)
            except RayslurmError as error:  # the others' turn all the same
                fault = error
        if fault is not None:
            raise fault
        return LOOK_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return LOOK_SECONDS

    def _continue(self, context: ProbeContext, chain: Chain) -> None:
        decision = decide(chain, now=context.clock())
        if decision.action == "stop":
            _stop(context, chain, decision.reason)
        if decision.action != "launch":
            return
        failures, after = self._tried.get(chain.token, (0, -math.inf))
        if self.clock() < after:
            return
        wait = context.site.scaled(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
        self._tried[chain.token] = (failures + 1, self.clock() + wait)
        try:
            self._launch(context, chain)
        except ConfigError as error:
            _stop(context, chain, f"the next job can't be launched: {error}")
        except CommandError as error:
            if not for_good(error):
                raise
            _stop(context, chain, f"the next job was refused: {error}")
        else:
            del self._tried[chain.token]

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


def for_good(error: CommandError) -> bool:
    """Tells whether what sbatch said will not pass by itself."""
    return bool(_FOR_GOOD.search(str(error)))


def _stop(context: ProbeContext, chain: Chain, reason: str) -> None:
    context.store.write(lambda connection: chains.end(connection, chain.token, reason))
    _log.info("site %s: %s: no further job: %s", context.site.name, chain.last.submission.name, reason)
