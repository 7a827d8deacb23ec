"""What a probe is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from exporter.client.client import SiteClient
from exporter.config import Site
from exporter.store.commands import CommandLedger
from exporter.store.db import Store


@dataclass(slots=True)
class ProbeContext:
    """What a probe works with.

    Attributes:
        site: the site that is asked.
        client: the way to it.
        store: where what it says goes.
        ledger: how many commands were sent.
        clock: gives UTC epoch seconds.
    """

    site: Site
    client: SiteClient
    store: Store
    ledger: CommandLedger
    clock: Callable[[], float] = field(default=time.time)


class Probe(Protocol):
    """Asks one kind of question of one site. There is one object a site, and it is never run twice at once."""

    @property
    def name(self) -> str:
        """The probe's name, the value of the label `probe`."""

    def run(self, context: ProbeContext) -> float:
        """Asks, and writes what came back to the store.

        Returns:
            Seconds until it should run again, before any scaling for practice sites.

        Raises:
            RayslurmError: it didn't work; the store keeps what was known before.
        """

    def delay_after_failure(self) -> float:
        """Returns the seconds until it should run again after `run` raised."""

    def hurry(self, context: ProbeContext) -> bool:
        """Is told that a person did something here, so that things are about to change; True to be run at once."""
