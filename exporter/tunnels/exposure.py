"""Whether others can reach the ports of tunnels: the real addresses that this machine listens on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from exporter.store.exposure import Exposure, Held
from exporter.tunnels.listeners import Address, exposed

_NOBODY = "refused"


def look(
    held: Iterable[Held],
    listening: Mapping[int, Collection[Address]],
    private: Collection[Address],
    states: Mapping[tuple[str, str], str | None],
    *,
    good_until: float,
) -> list[Exposure]:
    """Returns of which tunnels it is known where they are listened on, and by which addresses others reach them.

    Where a probe was answered and the kernel names no listener, its tables aren't those of the tunnels, as in a
    container with a network of its own: nothing is known then.

    Args:
        held: the leased ports.
        listening: the addresses listened on, by port.
        private: addresses of this machine that only its owner reaches.
        states: how probes found the tunnels, by job and tunnel.
        good_until: from when on what is seen is not known any more, epoch seconds.
    """
    found = []
    for one in held:
        addresses = listening.get(one.port, ())
        if not addresses and (not one.running or states.get((one.job_id, one.tunnel)) != _NOBODY):
            continue
        others = sorted(str(address) for address in addresses if exposed([address], private))
        found.append(Exposure(one.site, one.job_id, one.tunnel, bool(others), ", ".join(others), good_until))
    return found
