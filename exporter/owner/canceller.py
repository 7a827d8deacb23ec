"""Telling a site to cancel a job because its spec says that this is to follow."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from exporter.errors import RayslurmError
from exporter.probes import ProbeContext
from exporter.store import chains, consequences
from exporter.store.consequences import Consequence

_log = logging.getLogger(__name__)

RETRY_SECONDS = (60.0, 120.0, 240.0, 480.0, 900.0)
"""How long to wait after each time that the site could not be told to cancel a job."""


@dataclass(slots=True)
class _Retry:
    failures: int
    after: float


@dataclass(slots=True)
class Canceller:
    """Tells one site, and not too often where that fails.

    Attributes:
        monotonic: a clock that never jumps, in seconds.
    """

    monotonic: Callable[[], float]
    _retries: dict[str, _Retry] = field(default_factory=dict)

    def keep_only(self, job_ids: Collection[str]) -> None:
        """Forgets what was tried of all jobs but these."""
        self._retries = {job_id: self._retries[job_id] for job_id in job_ids if job_id in self._retries}

    def cancel(self, context: ProbeContext, following: Consequence) -> None:
        """Tells the site to cancel a job, and ends its chain.

        Should this process die before that is noted, the site is told once more: no harm.

        Args:
            context: of the job's site.
            following: what follows, noted as `cancelling`.

        Raises:
            RayslurmError: the site could not be told.
        """
        site, job_id = following.site, following.job_id
        retry = self._retries.get(job_id, _Retry(0, 0.0))
        if self.monotonic() < retry.after:
            return
        try:
            context.client.cancel(job_id)
        except RayslurmError:
            wait = context.site.scaled(RETRY_SECONDS[min(retry.failures, len(RETRY_SECONDS) - 1)])
            self._retries[job_id] = _Retry(retry.failures + 1, self.monotonic() + wait)
            raise

        def note(connection: sqlite3.Connection) -> None:
            consequences.note(connection, following.told(at=context.clock()))
            chain = chains.of_job(connection, site, job_id)
            if chain is not None:
                chains.end(connection, chain.token, f"job {job_id} was cancelled by rayslurm: {following.reason}")

        context.store.write(note)
        _log.warning("site %s: job %s is cancelled: %s", site, job_id, following.reason)
