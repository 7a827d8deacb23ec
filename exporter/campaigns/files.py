"""The folder with the campaigns' files: read again when one has changed; a broken one leaves what it last said."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.campaigns.due import decide_times
from exporter.campaigns.endings import withdraw_obsolete
from exporter.campaigns.model import Campaign, read_campaign
from exporter.campaigns.schedule import times
from exporter.config import Config
from exporter.errors import ConfigError, RefusedError
from exporter.launch.render import partition_of, project_of, wanted_tunnels
from exporter.store import campaigns
from exporter.store.campaigns import CampaignRow
from exporter.store.db import Store

_log = logging.getLogger(__name__)

SUFFIXES = (".yaml", ".yml")

GONE_SECONDS = 60.0
"""How long a file must be away until it counts as removed: editors and version control put a new one in its place."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the files say.

    Attributes:
        good: the campaigns by name, with path and text of their files.
        errors: what is wrong with the others, by path.
        names: of all files, good or not.
    """

    good: Mapping[str, tuple[Path, str, Campaign]]
    errors: Mapping[str, str]
    names: frozenset[str]


class CampaignFiles:
    """Keeps the store's campaigns as the files say; used by all sites' workers.

    Args:
        config: which folder, and which sites there are.
        store: where what the files say is kept.
    """

    def __init__(self, config: Config, store: Store) -> None:
        self._config = config
        self._store = store
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, int, int]] | None = None
        self._away: dict[str, float] = {}

    def changed(self) -> bool:
        """Tells whether a file came, went or changed since the last `take_in`, or one is away that may come back."""
        with self._lock:
            return self._seen is None or bool(self._away) or self._signature() != self._seen

    def take_in(self, *, now: float) -> Mapping[str, str]:
        """Reads all files and keeps what they say.

        The times that have come until now are decided by what was said before, whichever site they are of.

        Args:
            now: epoch seconds.

        Returns:
            What is wrong, by path; the campaigns of these files stay as they were. A folder that is away is an error as
            well where campaigns came from it.
        """
        with self._lock:
            signature = self._signature()
            found = read_folder(self._config)
            errors = dict(found.errors)
            away: dict[str, float] = {}
            folder = self._config.campaigns_dir

            def keep(connection: sqlite3.Connection) -> None:
                known = {row.name: row for row in campaigns.campaigns(connection)}
                for name, (path, text, campaign) in found.good.items():
                    row = known.get(name)
                    if row is not None and row.present and (row.file, row.text) == (str(path), text):
                        continue
                    decided = now
                    if row is not None and row.present:
                        decided = _decide_by(connection, row, self._config, now=now)
                    withdraw_obsolete(connection, name, now=now)  # of before its file was away
                    campaigns.keep(
                        connection,
                        name=name,
                        site=campaign.site,
                        file=str(path),
                        text=text,
                        schedule=campaign.schedule.words,
                        paused=campaign.paused,
                        # By it the campaign's worker sees that a time has come since, whoever read the file.
                        next_due=next(times(campaign, after=decided), None),
                        now=now,
                    )
                    withdraw_obsolete(connection, name, now=now)  # of another site
                missing = [row for row in known.values() if row.present and row.name not in found.names]
                if missing and folder is not None and not folder.is_dir():
                    errors[str(folder)] = (
                        f"{folder}: is not there, so its campaigns go on as they were; put it back, or pause them with "
                        "`rayslurm campaigns pause`"
                    )
                    missing = []
                for row in missing:
                    since = min(self._away.get(row.name, now), now)
                    if now - since < GONE_SECONDS:
                        away[row.name] = since
                        continue
                    _decide_by(connection, row, self._config, now=now)
                    campaigns.leave(connection, row.name)
                    withdraw_obsolete(connection, row.name, now=now)
                campaigns.note_reload(connection, errors, now=now)
                campaigns.sweep(connection, now=now)

            self._store.write(keep)
            self._seen, self._away = signature, away
            return errors

    def _signature(self) -> dict[str, tuple[int, int, int]]:
        signature = {}
        for path in files(self._config):
            try:
                facts = path.stat()
            except OSError:
                continue
            signature[str(path)] = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        return signature


def files(config: Config) -> list[Path]:
    """Returns the files of the configuration's folder of campaigns; none where there is no folder."""
    folder = config.campaigns_dir
    if folder is None or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))


def read_folder(config: Config) -> Found:
    """Reads all campaigns of the configuration's folder."""
    good: dict[str, tuple[Path, str, Campaign]] = {}
    errors: dict[str, str] = {}
    paths = files(config)
    for path in paths:
        try:
            text, campaign = read_file(path, config)
        except ConfigError as error:
            errors[str(path)] = str(error)
            continue
        if path.stem in good:
            errors[str(path)] = f"{path}: {good[path.stem][0].name} names the same campaign; rename one of them"
            continue
        good[path.stem] = (path, text, campaign)
    return Found(good, errors, frozenset(path.stem for path in paths))


def read_file(path: Path, config: Config) -> tuple[str, Campaign]:
    """Reads one campaign's file, and holds it against the configuration and what is known of its site.

    Returns:
        What stands in the file, and the campaign.

    Raises:
        ConfigError: with every fault, each with file, line, key and cure.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    campaign = read_campaign(text, path)
    try:
        site = config.site(campaign.site)
        project_of(campaign, site)
        partition_of(campaign, site)
        wanted_tunnels(campaign, config)
    except (ConfigError, RefusedError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return text, campaign


def campaign_of(row: CampaignRow | campaigns.RunRow) -> Campaign:
    """Returns the campaign of a row, as its file said then.

    Raises:
        ConfigError: an earlier version of rayslurm read it, and this one doesn't.
    """
    return read_campaign(row.text, Path(row.file))


def _decide_by(connection: sqlite3.Connection, row: CampaignRow, config: Config, *, now: float) -> float:
    """Decides what came until now by what a file said before it changed; returns up to when that is decided."""
    try:
        campaign = campaign_of(row)
    except ConfigError as error:  # what it says now decides from where the last decision ended
        _log.warning("campaign %s: what its file said before can't be read any more: %s", row.name, error)
        return row.decided
    decide_times(connection, row, campaign, now=now, next_due=row.next_due, configured=row.site in config.sites)
    return now
