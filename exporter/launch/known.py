"""What is known of a site at the moment of a launch, beyond its site file; and a spec held against all of it."""

from __future__ import annotations

import time
from dataclasses import replace

from exporter.billing.price import NoPrice, Price
from exporter.client.credentials import certificate_expiry
from exporter.config import Site
from exporter.errors import NoKeyError
from exporter.launch import limits
from exporter.launch.limits import Known
from exporter.launch.pricing import price_of_spec
from exporter.launch.purse import Purse, purse
from exporter.launch.render import partition_of
from exporter.launch.spec import Spec
from exporter.store import partitions
from exporter.store.db import Store

LISTING_SECONDS = 7 * 86400.0
"""For how long what a site said of its partitions is held against a spec."""


def look(
    spec: Spec,
    site: Site,
    store: Store | None,
    *,
    now: float | None = None,
    campaign: bool = False,
    force: bool = False,
) -> list[str]:
    """Holds a spec against what is known of its site; asks nobody.

    Args:
        spec: what is to be launched.
        site: where.
        store: what was read of the site; None where there is none yet.
        now: epoch seconds; this machine's clock where left out.
        campaign: whether nobody watches.
        force: launch in spite of what the user may know better.

    Returns:
        Warnings, each a sentence.

    Raises:
        RefusedError: the site takes no such job; says why, how that is known, and the way out.
        ConfigError: neither spec nor site names a partition.
    """
    now = time.time() if now is None else now
    paying = _purse(spec, site, store, now=now)
    known = replace(known_of(site, store, now=now), no_units=paying.refused)
    return [*limits.check(spec, site, known, campaign=campaign, force=force), *paying.warnings]


def price_now(spec: Spec, site: Site, store: Store | None) -> Price | NoPrice:
    """Returns what a spec costs at its time limit, by what is known now; asks nobody.

    Args:
        spec: what is to be launched.
        site: where.
        store: what was read of the site; None where there is none yet.

    Raises:
        ConfigError: neither spec nor site names a partition.
    """
    return price_of_spec(spec, site, known_of(site, store, now=time.time()).listing)


def known_of(site: Site, store: Store | None, *, now: float) -> Known:
    """Returns what is known of a site beside its site file."""
    listing = None
    if store is not None:
        with store.snapshot() as connection:
            listing = partitions.listing(connection, site.name)
    if listing is not None and now - listing.read > LISTING_SECONDS:
        listing = None
    return Known(now, listing, _certificate_end(site))


def _purse(spec: Spec, site: Site, store: Store | None, *, now: float) -> Purse:
    project = spec.cluster.project or site.settings.project
    if store is None or project is None:
        return Purse()
    rates = [site.profile.rate(name) for name in partition_of(spec, site).split(",")]
    with store.snapshot() as connection:
        return purse(connection, site, project, frozenset(rate.kind for rate in rates if rate is not None), now=now)


def _certificate_end(site: Site) -> float | None:
    key = site.settings.ssh.key
    try:
        return None if key is None else certificate_expiry(key)
    except NoKeyError:  # whoever logs in says what is wrong with it
        return None
