"""A deadline that holds whatever is waited for: a thread of its own acts when it is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Watchdog(threading.Thread):
    """A timer that begins anew whenever it is fed.

    Args:
        seconds: how long after its start, or after it was last fed, it fires.
        abort: what it does then.
    """

    def __init__(self, seconds: float, abort: Callable[[], None]) -> None:
        super().__init__(name="ssh-watchdog", daemon=True)
        self._seconds, self._abort = seconds, abort
        self._ends = time.monotonic() + seconds
        self._cancelled = threading.Event()

    def run(self) -> None:
        """Waits, and fires where nobody feeds or cancels it."""
        while not self._cancelled.wait(max(self._ends - time.monotonic(), 0)):
            if time.monotonic() >= self._ends:
                self._abort()
                return

    def feed(self) -> None:
        """Something came back."""
        self._ends = time.monotonic() + self._seconds

    def cancel(self) -> None:
        """Ends it."""
        self._cancelled.set()
