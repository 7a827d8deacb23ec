"""The command budget of each site, and what became of each command."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from exporter.config import Site
from exporter.errors import BudgetExhaustedError, StoreError
from exporter.store import counters
from exporter.store.db import Store

_ANY = ""
"""Stands in the store for credentials that could not be told: such a refusal counts whatever is there now."""


class CommandLedger:
    """Counts the commands sent to one site, in the store: one budget, whoever acts.

    Args:
        store: where they are counted.
        site: the site's name.
        commands_per_hour: the limit.
        reserved_for_people: how many of them only people's commands may use.
        hour_seconds: how long an hour is; shorter on a practice site.
        clock: gives UTC epoch seconds.
    """

    def __init__(
        self,
        store: Store,
        site: str,
        *,
        commands_per_hour: int,
        reserved_for_people: int,
        hour_seconds: float = 3600,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._site = site
        self.limit = commands_per_hour
        self._reserved = reserved_for_people
        self._hour = hour_seconds
        self._clock = clock

    @classmethod
    def for_site(cls, store: Store, site: Site, *, clock: Callable[[], float] = time.time) -> Self:
        """Returns the ledger of a site with the budget that its configuration gives it."""
        budget = site.settings.budget
        return cls(
            store,
            site.name,
            commands_per_hour=budget.commands_per_hour,
            reserved_for_people=budget.reserved_for_people,
            hour_seconds=site.scaled(3600),
            clock=clock,
        )

    def take(self, command: str, *, person: bool = False, urgent: bool = False) -> int:
        """Books one command before it is sent.

        Args:
            command: its name, `squeue`.
            person: a person asked for it, so it may use what is kept back for people.
            urgent: it is sent whatever the budget says (a cancel), and counted all the same.

        Returns:
            The number of the booking, for `finish`.

        Raises:
            BudgetExhaustedError: it must not be sent now.
        """
        allowed = self.limit if person else self.limit - self._reserved

        def book(connection: sqlite3.Connection) -> int | None:
            now = self._clock()
            connection.execute("DELETE FROM commands WHERE site = ? AND at <= ?", (self._site, now - 2 * self._hour))
            used = self._used(connection, now)
            if used >= allowed and not urgent:
                counters.add(connection, "remote_commands_throttled_total", site=self._site)
                return None
            cursor = connection.execute(
                "INSERT INTO commands (site, command, at) VALUES (?, ?, ?)", (self._site, command, now)
            )
            return cursor.lastrowid

        booking = self._store.write(book)
        if booking is None:
            raise BudgetExhaustedError(
                f"{self._site}: {allowed} commands were sent in the last hour, which is the budget for this; {command} "
                "was not sent (sites.*.budget in rayslurm.yaml)"
            )
        return booking

    def finish(self, booking: int, command: str, outcome: str) -> None:
        """Notes what became of a booked command: `ok`, `failed`, `timeout` or `lost`."""

        def note(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE commands SET outcome = ? WHERE id = ?", (outcome, booking))
            counters.add(connection, "remote_commands_total", site=self._site, command=command, outcome=outcome)

        # The command was sent and answered: a store that cannot take the note must not hide the answer.
        with suppress(StoreError):
            self._store.write(note)

    def give_back(self, booking: int) -> None:
        """Takes a booking back: nothing was sent."""
        self._store.write(lambda connection: connection.execute("DELETE FROM commands WHERE id = ?", (booking,)))

    def connected(self, outcome: str) -> None:
        """Counts an attempt to connect: `ok`, `refused`, `auth` or `host_key`."""
        with suppress(StoreError):
            self._store.write(
                lambda connection: counters.add(connection, "ssh_connections_total", site=self._site, outcome=outcome)
            )

    def refused(self, seconds: float, credentials: str | None, reason: str) -> None:
        """Remembers that a login was refused, and for how long it isn't tried again with the same credentials.

        Args:
            seconds: for how long.
            credentials: what it was tried with; None where that can't be told: it isn't tried again with any.
            reason: what the site said.
        """
        until = self._clock() + seconds
        self._store.write(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO refusals (site, until, credentials, reason) VALUES (?, ?, ?, ?)",
                (self._site, until, credentials or _ANY, reason),
            )
        )

    def refusal(self, credentials: str | None) -> tuple[float, str] | None:
        """Returns the seconds that a refused login must wait, and why; None where it may be tried.

        Args:
            credentials: what it would be tried with; None where that can't be told: a wait counts then whatever it
                was refused with.
        """
        with self._store.snapshot() as connection:
            row = connection.execute(
                "SELECT until, reason FROM refusals WHERE site = ? AND (? IS NULL OR credentials IN (?, ?)) "
                "AND until > ?",
                (self._site, credentials, credentials, _ANY, self._clock()),
            ).fetchone()
        return None if row is None else (row["until"] - self._clock(), row["reason"])

    def sent(self, command: str) -> int:
        """Returns how many commands of that name were sent within the last hour."""
        with self._store.snapshot() as connection:
            row = connection.execute(
                "SELECT count(*) FROM commands WHERE site = ? AND command = ? AND at BETWEEN ? AND ?",
                (self._site, command, *self._last_hour(self._clock())),
            ).fetchone()
        return int(row[0])

    def since_last(self, command: str) -> float | None:
        """Returns the seconds since a command of that name was last sent; None where that is over an hour ago."""
        now = self._clock()
        with self._store.snapshot() as connection:
            row = connection.execute(
                "SELECT max(at) FROM commands WHERE site = ? AND command = ? AND at BETWEEN ? AND ?",
                (self._site, command, now - self._hour, now),
            ).fetchone()
        return None if row[0] is None else now - row[0]

    def remaining(self, connection: sqlite3.Connection) -> int:
        """Returns how many commands are left of this hour, those kept back for people included."""
        return max(0, self.limit - self._used(connection, self._clock()))

    def _used(self, connection: sqlite3.Connection, now: float) -> int:
        row = connection.execute(
            "SELECT count(*) FROM commands WHERE site = ? AND at BETWEEN ? AND ?", (self._site, *self._last_hour(now))
        ).fetchone()
        return int(row[0])

    def _last_hour(self, now: float) -> tuple[float, float]:
        """Returns its bounds; what was booked while the clock was far ahead doesn't count for ever."""
        return now - self._hour, now + self._hour


def close_lost(connection: sqlite3.Connection) -> None:
    """Closes the bookings of a process that died, as `lost`; to be called by the owner before it sends anything."""
    rows = connection.execute("SELECT id, site, command FROM commands WHERE outcome IS NULL").fetchall()
    for row in rows:
        connection.execute("UPDATE commands SET outcome = 'lost' WHERE id = ?", (row["id"],))
        counters.add(connection, "remote_commands_total", site=row["site"], command=row["command"], outcome="lost")
