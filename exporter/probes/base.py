"""What a probe is, and what probes do alike with an answer."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from exporter.client.client import SiteClient
from exporter.config import Site
from exporter.errors import InputError
from exporter.records import Parsed
from exporter.store import counters
from exporter.store.commands import CommandLedger
from exporter.store.db import Store
from exporter.store.probe_runs import keep_raw

RecordT = TypeVar("RecordT")


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

    def read(self, source: str, text: str, parse: Callable[..., Parsed[RecordT]]) -> Parsed[RecordT]:
        """Reads an answer with a parser, in the site's zone.

        Raises:
            InputError: it is not understood; it was kept raw, and counted.
        """
        try:
            return parse(text, timezone=self.site.timezone)
        except InputError:
            self.store.write(lambda connection: self.keep(connection, source, text, faults=1))
            raise

    def take_in(
        self,
        source: str,
        text: str,
        parse: Callable[..., Parsed[RecordT]],
        keep: Callable[[sqlite3.Connection, tuple[RecordT, ...]], object],
    ) -> None:
        """Reads an answer with a parser, and has what it says kept in one transaction with the raw text.

        Args:
            source: which parser, by the name under which texts and faults are kept.
            text: the answer.
            parse: the parser.
            keep: keeps the records in place of what was known.

        Raises:
            InputError: it is not understood; it was kept raw, and counted.
        """
        parsed = self.read(source, text, parse)

        def change(connection: sqlite3.Connection) -> None:
            self.keep(connection, source, text, faults=len(parsed.warnings))
            keep(connection, parsed.records)

        self.store.write(change)

    def keep(self, connection: sqlite3.Connection, source: str, text: str, *, faults: int) -> str:
        """Keeps a raw text, and counts what of it was not understood, in the caller's transaction.

        Returns:
            The text's SHA-256, by which it is found again.
        """
        counters.add(connection, "parse_errors_total", faults, site=self.site.name, parser=source)
        return keep_raw(connection, self.site.name, source, text, now=self.clock())


class Probe(Protocol):
    """Asks one kind of question of one site. There is one object a site, and it is never run twice at once."""

    @property
    def name(self) -> str:
        """The probe's name, the value of the label `probe`."""

    @property
    def keeps_seconds(self) -> float:
        """For how long an answer is good: when rayslurm starts again, the site is not asked before."""

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


class Unhurried:
    """What a probe is that has its own pace, whatever a person does."""

    __slots__ = ()

    def hurry(self, context: ProbeContext) -> bool:
        """See `Probe.hurry`."""
        del context
        return False
