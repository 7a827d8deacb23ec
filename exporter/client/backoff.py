"""When a site that could not be reached may be tried again."""

from __future__ import annotations

import random
from collections.abc import Callable

from exporter.errors import AuthError, ConnectError

FIRST_SECONDS = 30.0
LONGEST_SECONDS = 900.0
AUTH_FIRST_SECONDS = 900.0
AUTH_LONGEST_SECONDS = 4 * 3600.0
"""Repeated failed logins get an account or an address blocked, so a refused login waits long."""


class Backoff:
    """Keeps attempts apart: twice as long after each failure, with jitter.

    Args:
        clock: a monotonic clock in seconds.
        scale: divides every wait; above 1 on practice sites only.
        jitter: gives a factor for each wait.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        scale: float = 1,
        jitter: Callable[[], float] = lambda: random.uniform(0.75, 1.25),  # noqa: S311 - no secret hangs on it
    ) -> None:
        self._clock = clock
        self._scale = scale
        self._jitter = jitter
        self._failures = 0
        self._until = 0.0
        self._last: ConnectError | None = None

    @property
    def last_error(self) -> ConnectError | None:
        """Why the last attempt failed; None after one that went well."""
        return self._last

    def remaining(self) -> float:
        """Returns the seconds until the next attempt is due; 0 when it is."""
        return max(0.0, self._until - self._clock())

    def failed(self, error: ConnectError) -> None:
        """Notes a failed attempt."""
        first, longest = (
            (AUTH_FIRST_SECONDS, AUTH_LONGEST_SECONDS)
            if isinstance(error, AuthError)
            else (FIRST_SECONDS, LONGEST_SECONDS)
        )
        if isinstance(error, AuthError) != isinstance(self._last, AuthError):
            self._failures = 0
        wait = min(first * 2**self._failures, longest) * self._jitter() / self._scale
        self._failures = min(self._failures + 1, 30)
        self._until = self._clock() + wait
        self._last = error

    def reset(self) -> None:
        """Notes that an attempt went well, or that its cause is gone."""
        self._failures = 0
        self._until = 0.0
        self._last = None
