"""Who listens, as the kernel says."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import pytest

from exporter.tunnels.listeners import exposed, listeners


@pytest.mark.parametrize(
    ("family", "address", "open_to_others"),
    [
        (socket.AF_INET, "127.0.0.1", False),
        (socket.AF_INET, "0.0.0.0", True),
        (socket.AF_INET6, "::1", False),
        (socket.AF_INET6, "::", True),
        (socket.AF_INET6, "::ffff:127.0.0.1", False),
    ],
)
def test_a_listener_is_seen_where_it_listens(family: socket.AddressFamily, address: str, open_to_others: bool) -> None:
    with socket.socket(family) as server:
        server.bind((address, 0))
        port = server.getsockname()[1]
        assert port not in listeners(), "bound is not listening"
        server.listen()
        found = listeners()[port]
        wanted = ipaddress.ip_address(address)
        mapped = wanted.ipv4_mapped if isinstance(wanted, ipaddress.IPv6Address) else None
        assert found == {mapped or wanted}
        assert exposed(found) is open_to_others
    assert port not in listeners()


def test_an_address_that_only_its_owner_reaches() -> None:
    private = ipaddress.ip_address("192.0.2.7")
    assert exposed([private])
    assert not exposed([private], [private])
    assert exposed([private, ipaddress.ip_address("0.0.0.0")], [private])
    assert not exposed([])


def test_without_ipv6(tmp_path: Path) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    (tmp_path / "tcp").write_text(head + "   0: 0100007F:1FA4 00000000:0000 0A 00000000:00000000\n   1: 0:1 0:0 01\n")
    assert listeners(tmp_path) == {8100: {ipaddress.ip_address("127.0.0.1")}}
    with pytest.raises(OSError, match="tcp"):
        listeners(tmp_path / "nowhere")
