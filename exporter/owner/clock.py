"""Whether this machine's clock was set: after a bad start of a virtual machine, by NTP, by a person."""

from __future__ import annotations

import time
from collections.abc import Callable

_JUMP_SECONDS = 2.0
"""From how far on it counts; NTP's usual small corrections move both clocks alike and are none."""


class ClockWatch:
    """Compares the clock with the monotonic one, which is never set.

    Args:
        clock: gives UTC epoch seconds.
        monotonic: a clock that never jumps, in seconds.
    """

    def __init__(self, clock: Callable[[], float], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._apart = self._now_apart()

    def jump(self) -> float:
        """Returns by how many seconds the clock was set since the last time that it was, less than nothing for back.

        0.0 where it wasn't. A machine that slept looks as one whose clock was set forward.
        """
        apart = self._now_apart()
        jump = apart - self._apart
        if abs(jump) < _JUMP_SECONDS:
            return 0.0
        self._apart = apart
        return jump

    def _now_apart(self) -> float:
        return self._clock() - self._monotonic()
