"""The files that the configuration names: whether they are there, and for their owner alone."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from exporter.config import Config


def own_name() -> str:
    """Returns the name of the account that runs this, or its number where that has none here."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # as in a container that runs with the number of somebody outside
        return f"uid {os.geteuid()}"


def check_files(config: Config) -> list[str]:
    """Returns what is wrong with the files that the configuration names, one line each; empty where all is well."""
    faults: list[str] = []
    if (vm := config.vm) is not None and vm.identity_file is None and vm.authorized_keys is None:
        me = own_name()
        if vm.user != me:
            faults.append(
                f"vm.user: {vm.user} is another account than {me}, who runs this; name its authorized_keys file in "
                "vm.authorized_keys, or a key of yours at the site in vm.identity_file"
            )
    if (archive := config.archive) is not None:
        if archive.credentials_file is not None:
            faults += _key_faults("archive.credentials_file", archive.credentials_file)
        if archive.ca_bundle is not None and not archive.ca_bundle.is_file():
            faults.append(f"archive.ca_bundle: {archive.ca_bundle} is missing")
    for name, site in config.resolved_sites.items():
        ssh = site.settings.ssh
        if ssh.key is not None:
            faults += _key_faults(f"sites.{name}.ssh.key", ssh.key)
        elif not ssh.agent:
            faults.append(f"sites.{name}.ssh: neither key nor agent; name a key or set agent: true")
        if not ssh.known_hosts.is_file():
            faults.append(
                f"sites.{name}.ssh.known_hosts: {ssh.known_hosts} is missing; put the host key of {site.login_host} "
                "there after comparing it with the one the site publishes"
            )
    return faults


def _key_faults(key: str, path: Path) -> list[str]:
    if not path.is_file():
        return [f"{key}: {path} is missing"]
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return [f"{key}: {path} can be read by others (mode {mode:04o}); run: chmod 600 {path}"]
    return []
