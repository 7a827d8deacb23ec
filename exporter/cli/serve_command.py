"""`rayslurm serve`."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from types import FrameType
from typing import TYPE_CHECKING

import typer
import uvicorn

from exporter.cli.context import ConfigOption, add_command, open_store, read_config
from exporter.config import Config
from exporter.config_files import check_files
from exporter.errors import ConfigError, RayslurmError
from exporter.metrics.render import Renderer
from exporter.owner.owner import Owner
from exporter.store.db import Store
from exporter.tunnels.keeper import Keeper
from exporter.tunnels.prober import TunnelProber
from exporter.web.app import make_app
from exporter.web.discovery import Discovery
from exporter.web.pages import Pages

if TYPE_CHECKING:
    from exporter.archive.uploading import Archiver


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, serve)


def serve(config: ConfigOption = None) -> None:
    """Follow the jobs of all sites and serve /metrics, until interrupted.

    Raises:
        ConfigError: the configuration is wrong, or a file that it names is.
        OwnerError: another process owns the sites.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    for chatty in ("uvicorn.error", "apscheduler"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    path, settings = read_config(config)
    if faults := check_files(settings):
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults))
    with open_store(settings) as store:
        _serve(settings, store)


def _serve(config: Config, store: Store) -> None:
    owner = Owner(config, store)
    listener = _listen(config)
    archiver = _archiver(config, store)
    told = Renderer(store, config), Pages(store, config), Discovery(store, config)
    app = make_app(*told, owner.ready, local_only=not config.allow_remote)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2)
    )
    host, port = listener.getsockname()[:2]
    # uvicorn ends its own work on a signal and then raises it again; SIGTERM must not skip what comes after.
    signal.signal(signal.SIGTERM, _interrupt)
    owner.start()
    if archiver is not None:
        archiver.start()
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    typer.echo(f"rayslurm: serving {url}/metrics, and {url}/ for people")
    sys.stdout.flush()
    try:
        asyncio.run(_run(server, listener, TunnelProber(config, store, lost=owner.look_early), Keeper(config, store)))
    except KeyboardInterrupt:
        pass
    finally:
        if archiver is not None:
            archiver.stop()
        owner.stop()


def _archiver(config: Config, store: Store) -> Archiver | None:
    """Returns what brings things to the archive; None where none is configured, and nothing of it is loaded then."""
    if config.archive is None:
        return None
    from exporter.archive.uploading import Archiver, open_counters  # noqa: PLC0415 - boto3 is large

    open_counters(store)
    return Archiver(config, store)


async def _run(server: uvicorn.Server, listener: socket.socket, prober: TunnelProber, keeper: Keeper) -> None:
    """Serves, and looks after the tunnels, their keys and their ports meanwhile."""
    beside = [asyncio.create_task(prober.run()), asyncio.create_task(keeper.run())]
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in beside:
            task.cancel()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _listen(config: Config) -> socket.socket:
    """Binds the address before anything else is started, so that a second serve fails at once."""
    host, port = config.listen_address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named in full: asyncio turns Nagle's delay off only on sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        cure = "something else listens there, so write another `listen`"
        raise RayslurmError(f"{config.listen}: {error.strerror}; {cure}") from None
    return listener
