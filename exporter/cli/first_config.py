"""The text of a first rayslurm.yaml: what is known stands in it, what isn't stands there as a comment."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from exporter.config import DEFAULT_PATHS
from exporter.sites import SiteProfile

HOST_KEYS = Path("/etc/ssh")
"""Where OpenSSH's server has its keys."""

_KEY_TYPES = ("ed25519", "ecdsa", "rsa")
"""Of keys, those to be preferred first."""

_PUBLIC_KEY = re.compile(r"((?:ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+={0,3})(?:\s.*)?")


@dataclass(frozen=True, slots=True)
class Chosen:
    """One site as it is to be written.

    Attributes:
        profile: its site file.
        user: the account there.
        host: the login node; None for the site file's.
        project: who pays; None where that isn't known.
        key: a private key, as the file is to name it; None where none was found.
    """

    profile: SiteProfile
    user: str
    host: str | None
    project: str | None
    key: str | None


@dataclass(frozen=True, slots=True)
class Vm:
    """This machine as it is to be written; None of what isn't known.

    Attributes:
        host: the address that compute nodes reach.
        user: who takes the tunnels.
        host_keys: of its sshd, type and base64.
    """

    host: str | None
    user: str | None
    host_keys: Sequence[str]

    @property
    def missing(self) -> list[str]:
        """The keys that must be known before tunnels can be opened, and aren't."""
        values = {"vm.host": self.host, "vm.user": self.user, "vm.host_keys": self.host_keys}
        return [key for key, value in values.items() if not value]


def default_path(named: str | None) -> Path:
    """Returns where a first file goes: where `RAYSLURM_CONFIG` says, else where it is found from any folder.

    Args:
        named: the value of `RAYSLURM_CONFIG`.
    """
    return Path(named) if named else Path(DEFAULT_PATHS[-1]).expanduser()


def guess_key(home: Path, *, certificate: bool) -> str | None:
    """Returns the private key to log in with, below `~`; None where there is none of a usual name.

    Args:
        home: the home folder.
        certificate: whether one with a certificate beside it is to be preferred.
    """
    names = [f"id_{kind}" for kind in _KEY_TYPES if (home / ".ssh" / f"id_{kind}").is_file()]
    if certificate:
        names.sort(key=lambda name: not (home / ".ssh" / f"{name}-cert.pub").is_file())
    return f"~/.ssh/{names[0]}" if names else None


def read_host_keys(folder: Path = HOST_KEYS) -> list[str]:
    """Returns this machine's own host keys, type and base64, those to be preferred first; empty where none is read."""
    found = []
    for kind in _KEY_TYPES:
        try:
            text = (folder / f"ssh_host_{kind}_key.pub").read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            continue
        if match := _PUBLIC_KEY.fullmatch(text.strip()):
            found.append(match[1])
    return found


def first_config(sites: Sequence[Chosen], vm: Vm) -> str:
    """Returns the text of the file."""
    return "\n".join([*_top(), *(line for site in sites for line in _site(site)), *_vm(vm), *_rest()]) + "\n"


def _top() -> Iterator[str]:
    yield "# The configuration of rayslurm; docs/configuration.md tells of every key."
    yield "# A line that begins with # sets nothing: it shows the default, or what is yours to say."
    yield "#"
    yield "# Where the store, the owner's lock and the jobs' secrets are; on a disk of this machine:"
    yield "# state_dir: ~/.local/state/rayslurm"
    yield "# Where `rayslurm serve` listens; others can't reach this address:"
    yield "# listen: 127.0.0.1:9810"
    yield ""
    yield "sites:"


def _site(site: Chosen) -> Iterator[str]:
    profile = site.profile
    yield f"  {profile.name}:  # {profile.title}; `rayslurm sites show {profile.name}` tells what is known of it"
    if profile.closing is not None:
        after = f"; its successor is {profile.closing.successor}" if profile.closing.successor else ""
        yield f"    # No job runs there from {profile.closing.compute} on ({profile.closing.source}){after}."
    if site.project is None:
        yield "    # The Slurm account that pays, where a spec names none:"
        yield "    # project: PROJECT"
    else:
        yield f"    project: {_scalar(site.project)}"
    yield "    # The partition, where a spec names none:"
    if known := ", ".join(partition.name for partition in profile.partitions):
        yield from textwrap.wrap(f"(known: {known})", 100, initial_indent="    # ", subsequent_indent="    #   ")
    yield "    # partition: PARTITION"
    yield "    # How many commands an hour it may be asked, and how many of them are kept back for you:"
    yield "    # budget: {commands_per_hour: 120, reserved_for_people: 20}"
    yield "    ssh:"
    yield f"      user: {_scalar(site.user)}"
    if site.host is None:
        yield "      # The login node; this is the site file's:"
        yield f"      # host: {profile.login_host}"
    else:
        yield f"      host: {_scalar(site.host)}"
    yield from _login(site)


def _login(site: Chosen) -> Iterator[str]:
    profile = site.profile
    if (certificate := profile.certificate) is not None:
        yield f"      # A certificate from {certificate.signed_by} must lie beside the key, as KEY-cert.pub."
    if site.key is None:
        yield "      # The private key; without it the SSH agent's keys are tried:"
        yield "      # key: ~/.ssh/id_ed25519"
    else:
        yield f"      key: {_scalar(site.key)}"
    host = site.host or profile.login_host
    yield f"      # The file that must have the host key of {host}, compared before it is put there"
    if keys := profile.host_keys:
        yield f"      # with what is published ({keys[0].source}):"
        for key in keys:
            yield f"      #   {key.type} SHA256:{key.sha256}"
    else:
        yield "      # with what the site publishes:"
    yield "      # known_hosts: ~/.ssh/known_hosts"
    yield ""


def _vm(vm: Vm) -> Iterator[str]:
    off = "# " if vm.missing else ""
    yield "# This machine as compute nodes reach it: where jobs open their tunnels to."
    if vm.missing:
        yield "# Without it jobs run, but their Ray can't be seen from here."
        yield f"# Still to be said: {', '.join(vm.missing)};"
        yield "# then take `# ` away at the beginning of each line from vm to the last of host_keys."
    yield f"{off}vm:"
    yield "  # The address at which compute nodes reach its sshd:"
    yield f"{off}  host: {_scalar(vm.host) if vm.host else 'ADDRESS'}"
    yield "  # The account that takes the tunnels; each job's key is put into its ~/.ssh/authorized_keys:"
    yield f"{off}  user: {_scalar(vm.user) if vm.user else 'ACCOUNT'}"
    yield f"  # Its own host keys, as in {HOST_KEYS}/ssh_host_ed25519_key.pub:"
    yield f"{off}  host_keys:"
    for line in vm.host_keys or ["ssh-ed25519 BASE64"]:
        yield f"{off}    - {_scalar(line)}"
    yield "  # Whether others have accounts here too, who reach what listens on its loopback:"
    yield "  # shared: true"
    yield "  # Ports of the loopback for the tunnels, below those that the kernel hands out:"
    yield "  # dashboard_ports: 8100-8150"
    yield "  # client_ports: 8151-8200"
    yield "  # metrics_ports: 8201-8300"
    yield "  # serve_ports: 8301-8400"
    yield ""


def _rest() -> Iterator[str]:
    yield "# The S3 bucket in which what jobs left behind is kept; nothing is kept without it. See docs/archive.md."
    yield "# archive:"
    yield "#   endpoint: https://SERVICE"
    yield "#   bucket: NAME"
    yield "#   credentials_file: ~/.config/rayslurm/s3-credentials  # mode 0600"


def _scalar(text: str) -> str:
    """Returns a text as YAML has it on one line, in quotes where it would be read as something else."""
    return str(yaml.safe_dump(text, width=float("inf"), default_flow_style=True)).removesuffix("\n...\n").rstrip("\n")
