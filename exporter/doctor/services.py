"""What stands beside rayslurm: the address it listens on, Prometheus and Alertmanager, the archive."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from exporter.config import Config
from exporter.doctor.finding import Finding, look, well, wrong
from exporter.doctor.http import said_over_http
from exporter.errors import ArchiveError, ConfigError

NEIGHBOURS = {"Prometheus": 9090, "Alertmanager": 9093}
"""The ports that they listen on by themselves."""


def check_listen(config: Config) -> Iterator[Finding]:
    """Yields whether others reach what `serve` shows."""
    host, _ = config.listen_address
    if ipaddress.ip_address(host).is_loopback:
        yield well("listen", f"{config.listen} is reached from this machine only")
    else:
        yield look(
            "listen",
            f"{config.listen} can be reached by others, and asks for no password (allow_remote)",
            "see that something else keeps them out, or write 127.0.0.1",
        )


def check_neighbours(ports: Mapping[str, int] | None = None) -> Iterator[Finding]:
    """Yields whether Prometheus and Alertmanager answer on this machine.

    Args:
        ports: where each is looked for; `NEIGHBOURS` where left out.
    """
    for name, port in (NEIGHBOURS if ports is None else ports).items():
        answer = said_over_http("127.0.0.1", port, "/-/healthy")
        if answer is None:
            yield look(name.lower(), f"isn't running here (nothing listens on 127.0.0.1:{port})")
        elif "is Healthy" in answer or answer.strip() == "OK":  # the one's words, and the other's
            yield well(name.lower(), f"answers on 127.0.0.1:{port}")
        else:
            yield look(name.lower(), f"something listens on 127.0.0.1:{port}, but it doesn't say that it is healthy")


def check_archive(config: Config, *, offline: bool) -> Iterator[Finding]:
    """Yields whether the archive's bucket can be used, as `rayslurm archive check` finds.

    Args:
        config: with `archive`, or there is nothing to say.
        offline: ask nobody.
    """
    settings = config.archive
    if settings is None:
        return
    where = f"bucket {settings.bucket} at {settings.endpoint}"
    if offline:
        yield well("archive", f"{where} was not asked")
        return
    from exporter.archive.bucket import Bucket  # noqa: PLC0415 - boto3 is large

    try:
        Bucket(settings).check()
    except (ArchiveError, ConfigError) as error:
        yield wrong("archive", str(error), "see docs/archive.md; `rayslurm archive check` looks again")
    else:
        yield well("archive", f"{where} can be used, and nothing says that others can")
