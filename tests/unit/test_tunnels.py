"""The tunnels of running jobs: what a probe finds behind real sockets, how long that is believed, and who is probed."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from exporter.config import Config, load_config
from exporter.metrics.render import Renderer
from exporter.practice.ray import Dashboard, Node
from exporter.store import submissions, tunnels
from exporter.store.db import Store
from exporter.store.tunnels import Health
from exporter.tunnels.health import probe
from exporter.tunnels.http import MOST_BYTES
from exporter.tunnels.prober import TunnelProber
from exporter.tunnels.secrets import keep_secret, secret_path
from tests.unit.conftest import Clock
from tests.unit.query_plans import plans_of

SITE = "puhti2"
SECRET = "5ecret" * 10
TOKEN = "abcdefghjkmn"
VERSION = {"version": "4", "ray_version": "2.60.0", "session_name": "session_1"}


def found(port: int, secret: str | None = SECRET, *, may_be_open: bool = False, deadline: float = 5) -> str | None:
    return asyncio.run(probe("dashboard", port, secret, may_be_open=may_be_open, deadline=deadline)).state


@contextmanager
def listening(answer: Callable[[socket.socket, bytes], None]) -> Iterator[int]:
    """Takes one connection after the other, reads a request and hands both over."""
    asked: list[threading.Thread] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    answer(connection, connection.recv(65536))

        asked.append(threading.Thread(target=serve))
        asked[0].start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            asked[0].join()


def says(*, raw: bytes | None = None, requests: list[bytes] | None = None, **paths: bytes) -> Callable[..., None]:
    """Answers `raw`, or by the last word of the path; 404 where that isn't named."""

    def answer(connection: socket.socket, request: bytes) -> None:
        if requests is not None:
            requests.append(request)
        words = request.split()[1].rsplit(b"/", 1)[-1].decode()
        connection.sendall(raw if raw is not None else paths.get(words, http(404, b"no such page")))

    return answer


def http(status: int, body: object = b"", *, length: bool = True) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = b"Content-Length: %d\r\n" % len(text) if length else b""
    return b"HTTP/1.1 %d Whatever\r\nServer: x\r\n%s\r\n%s" % (status, told, text)


MODE = http(200, {"authentication_mode": "token"})
OPEN = http(200, {"authentication_mode": "disabled"})


@contextmanager
def unused() -> Iterator[int]:
    """Gives a port that nobody listens on and nobody else gets meanwhile."""
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def practice_ray(secret: str = SECRET) -> Iterator[int]:
    dashboard = Dashboard(0, nodes=1, node=Node(1), session="session_1", token=secret)
    try:
        yield dashboard.port
    finally:
        dashboard.stop()


# --- what a probe finds -----------------------------------------------------------------------------------------------


def test_our_ray_is_up() -> None:
    with practice_ray() as port:
        assert found(port) == "up"


def test_the_practice_sites_ray_and_its_tunnel_end_as_real_ones_do() -> None:
    dashboard = Dashboard(0, nodes=1, node=Node(1), session="session_1", token=SECRET)
    dashboard.gone = True
    assert found(dashboard.port) == "target_down"
    dashboard.gone = False
    assert found(dashboard.port) == "up"
    dashboard.stop()
    assert found(dashboard.port) == "refused"


def test_where_nobody_listens_it_is_refused() -> None:
    with unused() as port:
        assert found(port) == "refused"


def test_a_target_that_is_gone_closes_without_an_answer() -> None:
    with listening(lambda _connection, _request: None) as port:
        assert found(port) == "target_down"


def test_a_target_that_is_gone_may_reset_too() -> None:
    def reset(connection: socket.socket, _request: bytes) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with listening(reset) as port:
        assert found(port) == "target_down"


@pytest.mark.parametrize("cut", [12, len(MODE) - 3])
def test_an_answer_that_is_cut_is_none(cut: int) -> None:
    with listening(says(authentication_mode=MODE[:cut])) as port:
        assert found(port) == "target_down"


def test_silence_is_a_timeout() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:  # the kernel takes the connection, nobody answers
        assert found(listener.getsockname()[1], deadline=0.2) == "timeout"


def test_the_deadline_is_for_all_of_it_not_for_each_byte() -> None:
    ended = threading.Event()

    def drip(connection: socket.socket, _request: bytes) -> None:
        for number in range(1000):
            connection.sendall(MODE[number : number + 1] if number < 30 else b"x")
            if ended.wait(0.05):
                return

    with listening(drip) as port:
        assert found(port, deadline=0.4) == "timeout"
        ended.set()


def test_another_jobs_ray_refuses_our_token() -> None:
    with practice_ray("another" * 9) as port:
        assert found(port) == "auth"
    with listening(says(authentication_mode=MODE, version=http(403))) as port:
        assert found(port) == "auth"


@pytest.mark.parametrize(
    "answer",
    [
        says(raw=b"SSH-2.0-OpenSSH_9.2\r\n"),
        says(raw=b"HTTP/2 200\r\n\r\n"),
        says(raw=http(200, b"<html>a page for all paths</html>")),
        says(raw=http(401, b"log in")),
        says(raw=http(200, [1])),
        says(raw=http(200, b"[" * 50_000)),
        says(raw=http(200, b"x" * (MOST_BYTES + 1), length=False)),
        says(raw=http(200, b"x" * (MOST_BYTES + 1))),
        says(authentication_mode=OPEN, version=http(200, VERSION)),
        says(version=http(200, VERSION)),
        says(authentication_mode=MODE, version=http(200, {"version": "4"})),
        says(authentication_mode=MODE, version=http(404)),
    ],
    ids=[
        "ssh", "http2", "html", "wants login", "list", "deep", "endless", "long", "ray without token", "old ray",
        "another api", "no version",
    ],
)  # fmt: skip
def test_what_is_not_this_jobs_ray_is_foreign(answer: Callable[[socket.socket, bytes], None]) -> None:
    with listening(answer) as port:
        assert found(port) == "foreign"


def test_a_server_that_speaks_first_and_stays_is_foreign_at_once() -> None:
    ended = threading.Event()

    def greet(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(b"220 mail.example.org ESMTP\r\n")
        ended.wait(10)

    with listening(greet) as port:
        assert found(port) == "foreign"
        ended.set()


def test_the_token_is_shown_only_to_a_ray_that_asks_for_one() -> None:
    for answer in ({"raw": http(401)}, {"authentication_mode": OPEN}, {"raw": b"SSH-2.0-x\r\n"}):
        requests: list[bytes] = []
        with listening(says(requests=requests, **answer)) as port:
            assert found(port) == "foreign"
            assert found(port, may_be_open=True) == "foreign"
        assert requests
        assert SECRET.encode() not in b"".join(requests)
    asked: list[bytes] = []
    with listening(says(requests=asked, authentication_mode=MODE, version=http(200, VERSION))) as port:
        assert found(port) == "up"
    assert [SECRET.encode() in request for request in asked] == [False, True]


@pytest.mark.parametrize("where", ["authentication_mode", "version"])
def test_a_ray_out_of_order_is_down(where: str) -> None:
    answers: Any = {"authentication_mode": MODE, where: http(503, b"later")}
    with listening(says(**answers)) as port:
        assert found(port) == "target_down"


def test_where_the_spec_allows_it_a_ray_may_be_open() -> None:
    with listening(says(authentication_mode=OPEN, version=http(200, VERSION))) as port:
        assert found(port, may_be_open=True) == "up"
    with listening(says(version=http(200, VERSION, length=False))) as port:
        assert found(port, may_be_open=True) == "up", "a Ray before 2.52 knows no authentication"
    with listening(says(raw=http(200, b"hello"))) as port:
        assert found(port, may_be_open=True) == "foreign"
    with practice_ray("another" * 9) as port:
        assert found(port, may_be_open=True) == "auth", "one that asks for a token must take ours"


def test_without_the_secret_nothing_is_said_of_a_ray_that_wants_it() -> None:
    with practice_ray() as port:
        assert found(port, secret=None) is None
    with unused() as port:
        assert found(port, secret=None) == "refused"


# --- who is probed, and what is kept ----------------------------------------------------------------------------------


def launched(
    store: Store,
    port: int,
    *,
    token: str = TOKEN,
    job_id: str = "77",
    state: str = "running",
    may_be_open: bool = False,
) -> None:
    """A submission of ours whose job is in a state."""

    def change(connection: sqlite3.Connection) -> None:
        submissions.intend(
            connection, token=token, site=SITE, campaign="", name="train", run_dir="x", now=1.0,
            spec={"ray": {"allow_unauthenticated_ray": may_be_open}}, tunnels={"dashboard": [port]},
        )  # fmt: skip
        submissions.submitted(connection, token, job_id, now=2.0)
        connection.execute("UPDATE jobs SET state = ? WHERE job_id = ?", (state, job_id))

    store.write(change)


def change_state(store: Store, state: str, *, final: bool = False) -> None:
    store.write(lambda connection: connection.execute("UPDATE jobs SET state = ?, final = ?", (state, final)))


def kept(store: Store, now: float) -> list[Health]:
    with store.snapshot() as connection:
        return tunnels.current(connection, now=now)


def one_round(config: Config, store: Store, clock: Clock) -> None:
    asyncio.run(TunnelProber(config, store, clock=clock).round(config.site(SITE)))


def test_a_round_keeps_what_it_finds_and_when_it_was_last_up(config: Config, store: Store, clock: Clock) -> None:
    with practice_ray() as port:
        launched(store, port)
        keep_secret(config.state_dir, TOKEN, SECRET)
        one_round(config, store, clock)
        (health,) = kept(store, clock.now)
        assert (health.job_id, health.tunnel, health.state, health.up) == ("77", "dashboard", "up", True)
        assert health.at == health.last_success == clock.now
        assert 0 < health.duration_seconds < 5
    up_at = clock.now
    clock.now += 15
    one_round(config, store, clock)
    (health,) = kept(store, clock.now)
    assert (health.state, health.up, health.at, health.last_success) == ("refused", False, clock.now, up_at)


def test_what_is_past_its_time_is_not_known(config: Config, store: Store, clock: Clock) -> None:
    with unused() as port:
        launched(store, port)
        one_round(config, store, clock)
    text = Renderer(store, config, clock=clock).render("")[0].decode()
    assert f'rayslurm_tunnel_state{{job_id="77",site="{SITE}",state="refused",tunnel="dashboard"}} 1.0' in text
    assert f'rayslurm_tunnel_up{{job_id="77",site="{SITE}",tunnel="dashboard"}} 0.0' in text
    assert "rayslurm_tunnel_last_success" not in text.replace("# HELP", "").replace("# TYPE", "")
    clock.now += 3 * 15 + 5 - 0.1
    assert kept(store, clock.now), "a round or two may be missed"
    clock.now += 0.2
    assert kept(store, clock.now) == []
    assert "rayslurm_tunnel" not in Renderer(store, config, clock=clock).render("")[0].decode()


def test_the_last_success_is_remembered_over_a_long_pause(config: Config, store: Store, clock: Clock) -> None:
    with practice_ray() as port:
        launched(store, port)
        keep_secret(config.state_dir, TOKEN, SECRET)
        one_round(config, store, clock)
    up_at = clock.now
    clock.now += 86_400
    with Store(store.path) as again:
        assert kept(again, clock.now) == []
        one_round(config, again, clock)
        (health,) = kept(again, clock.now)
    assert (health.state, health.last_success) == ("refused", up_at)


@pytest.mark.parametrize("state", ["pending", "suspended", "unknown", "completed"])
def test_only_running_jobs_are_probed_and_shown(config: Config, store: Store, clock: Clock, state: str) -> None:
    asked: list[bytes] = []
    with listening(says(raw=http(404), requests=asked)) as port:
        launched(store, port, state=state)
        one_round(config, store, clock)
        assert (asked, kept(store, clock.now)) == ([], [])
        change_state(store, "running")
        one_round(config, store, clock)
        assert len(kept(store, clock.now)) == 1
        change_state(store, state)
        assert kept(store, clock.now) == []


def test_what_is_kept_of_a_job_goes_when_it_has_ended(config: Config, store: Store, clock: Clock) -> None:
    with unused() as port, unused() as other:
        launched(store, port)
        one_round(config, store, clock)
        change_state(store, "completed", final=True)
        launched(store, other, token="other", job_id="78")
        one_round(config, store, clock)
    with store.snapshot() as connection:
        rows = connection.execute("SELECT job_id FROM tunnel_health").fetchall()
    assert [row["job_id"] for row in rows] == ["78"]


def test_a_job_without_a_port_has_no_tunnel(store: Store) -> None:
    launched(store, 1)
    store.write(lambda connection: connection.execute("DELETE FROM leases"))
    with store.snapshot() as connection:
        assert tunnels.to_probe(connection, SITE) == []


def test_the_spec_tells_whether_a_ray_may_be_open(store: Store) -> None:
    launched(store, 1024)
    launched(store, 1025, token="other", job_id="78", may_be_open=True)
    with store.snapshot() as connection:
        found_tunnels = tunnels.to_probe(connection, SITE)
        assert tunnels.to_probe(connection, "elsewhere") == []
    assert [(one.port, one.may_be_open) for one in found_tunnels] == [(1024, False), (1025, True)]


def test_finding_the_tunnels_does_not_walk_through_all_jobs(store: Store) -> None:
    plans = plans_of(
        store,
        lambda connection: tunnels.to_probe(connection, SITE),
        lambda connection: tunnels.current(connection, now=1.0),
    )
    assert not [plan for plan in plans if plan.startswith("SCAN") and not plan.startswith("SCAN h")], plans


def test_a_change_is_logged_once_and_the_secret_never(
    config: Config, store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def rounds() -> None:
        prober = TunnelProber(config, store, clock=clock)
        with practice_ray() as port:
            launched(store, port)
            await prober.round(config.site(SITE))
            keep_secret(config.state_dir, TOKEN, SECRET)
            for _ in range(3):
                await prober.round(config.site(SITE))
        await prober.round(config.site(SITE))

    asyncio.run(rounds())
    told = [record.getMessage() for record in caplog.records if "tunnel dashboard" in record.getMessage()]
    assert [line.rpartition("dashboard: ")[2].split()[0] for line in told] == ["cannot", "up", "refused"]
    assert SECRET not in caplog.text


def test_a_lost_tunnel_is_told_once_each_time(config: Config, store: Store, clock: Clock) -> None:
    lost: list[str] = []

    async def rounds() -> list[int]:
        prober, found = TunnelProber(config, store, lost=lost.append, clock=clock), []
        with practice_ray() as port:
            launched(store, port)
            await prober.round(config.site(SITE))
            keep_secret(config.state_dir, TOKEN, SECRET)
            for _ in range(2):
                await prober.round(config.site(SITE))
                found.append(len(lost))
        for _ in range(2):
            await prober.round(config.site(SITE))
            found.append(len(lost))
        return found

    assert asyncio.run(rounds()) == [0, 0, 1, 1]
    assert lost == [SITE]


# --- beside the web server --------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it is asked of the store, which tells nobody
            await asyncio.sleep(0.02)


def test_it_goes_on_whatever_happens_and_ends_when_it_is_told(
    config_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = config_path.read_text().replace("login.example.org", "127.0.0.1")
    config_path.write_text(text.replace("    project:", "    practice_clock_factor: 60\n    project:"))
    config = load_config(config_path)

    def state(store: Store) -> list[str]:
        with store.snapshot() as connection:
            return [row["state"] for row in connection.execute("SELECT state FROM tunnel_health")]

    async def live(store: Store, port: int) -> None:
        probing = asyncio.create_task(TunnelProber(config, store).run())
        await until(lambda: state(store) == ["up"])
        store.write(lambda connection: connection.execute("ALTER TABLE tracked RENAME TO lost"))
        await until(lambda: "tunnels could not be looked after" in caplog.text)
        store.write(lambda connection: connection.execute("ALTER TABLE lost RENAME TO tracked"))
        secret_path(config.state_dir, TOKEN).write_text("another")
        await until(lambda: state(store) == ["auth"])
        probing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probing

    with Store(config.store_path) as store, practice_ray() as port:
        launched(store, port)
        keep_secret(config.state_dir, TOKEN, SECRET)
        asyncio.run(live(store, port))


def test_rounds_of_a_site_do_not_overlap_nor_come_faster_than_they_may(config_path: Path) -> None:
    text = config_path.read_text().replace("login.example.org", "127.0.0.1")
    config_path.write_text(text.replace("    project:", "    practice_clock_factor: 3600\n    project:"))
    config = load_config(config_path)
    times: list[float] = []

    async def live(store: Store) -> None:
        loop = asyncio.get_running_loop()

        class Counting(TunnelProber):
            under_way = 0

            async def round(self, site: object) -> None:
                del site
                self.under_way += 1
                assert self.under_way == 1
                times.append(loop.time())
                await asyncio.sleep(1.2 if len(times) == 1 else 0.01)
                self.under_way -= 1

        probing = asyncio.create_task(Counting(config, store).run())
        await until(lambda: len(times) == 4)
        probing.cancel()

    with Store(config.store_path) as store:
        asyncio.run(live(store))
    assert all(after - before >= 0.99 for before, after in itertools.pairwise(times)), times
