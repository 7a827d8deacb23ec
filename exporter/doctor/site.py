"""One look at each site, booked in its budget like every command; where `serve` owns the sites, what it last saw."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from exporter.config import Config, Site
from exporter.doctor import remote
from exporter.doctor.finding import Finding, look, well, wrong
from exporter.errors import BudgetExhaustedError, OwnerError, RefusedError, SiteError, StoreError
from exporter.owner.lock import is_held, read_holder
from exporter.owner.owner import acting_alone, probe_context
from exporter.probes import ProbeContext
from exporter.store.db import Store
from exporter.store.probe_runs import ProbeRun, runs

NAME = "doctor"
"""What the command is counted under."""

_SKEW_LOOK_SECONDS = 10
_SKEW_WRONG_SECONDS = 300
_OLDEST_PYTHON = (3, 6)


def check_sites(config: Config, sites: Sequence[Site]) -> Iterator[Finding]:
    """Yields what is to be said of the sites: one command is sent to each, unless somebody else owns them."""
    try:
        with Store(config.store_path) as store:
            who = read_holder(config.state_dir) if is_held(config.state_dir) else None
            if who is not None and who.role == "serve":
                yield from told_by_probes(store, sites, now=time.time())
                return
            with acting_alone(config, store, NAME):
                for site in sites:
                    yield from check_site(probe_context(site, store))
    except OwnerError as error:
        yield look("site", f"was not asked: {error}", "run `rayslurm doctor` again when that has ended")
    except StoreError as error:
        yield wrong("site", f"was not asked, since no command can be counted: {error}", "see what is said of the store")


def told_by_probes(store: Store, sites: Sequence[Site], *, now: float) -> Iterator[Finding]:
    """Yields how each site's probes last went in `serve`, beside which nobody else logs in."""
    with store.snapshot() as connection:
        found = runs(connection)
    for site in sites:
        own = [run for run in found if run.site == site.name]
        failed = [run for run in own if not run.success]
        for run in failed:
            level = look if run.reason == BudgetExhaustedError.reason else wrong
            yield level("probe", _failure(run, now), "see /probes on the page of `rayslurm serve`", site=site.name)
        if not own:
            yield look("probe", "serve runs, but has not asked yet", "look again in a minute", site=site.name)
        elif not failed:
            newest = max(run.at for run in own)
            yield well(
                "probe", f"serve asks it: {len(own)} probes went well, the last {_ago(now - newest)}", site=site.name
            )


def check_site(context: ProbeContext) -> Iterator[Finding]:
    """Yields what one command at the site tells; the client is closed afterwards."""
    site = context.site
    try:
        with context.client.for_person():
            answer = context.client.run(NAME, remote.command(site))
        received = context.clock()
    except RefusedError as error:
        yield look("login", f"was not tried: {error}", "run `rayslurm doctor` again later", site=site.name)
        return
    except SiteError as error:
        ssh = site.settings.ssh
        by_hand = f"try it by hand: ssh -p {ssh.port} {ssh.user}@{site.login_host} true"
        yield wrong("login", str(error), by_hand, site=site.name)
        return
    finally:
        context.client.close()
    told = remote.read(answer.stdout)
    if not told.whole:
        said = (answer.stderr.strip().splitlines() or ["nothing"])[-1]
        yield wrong(
            "login",
            f"works, but no shell runs commands there: exit status {answer.exit_status}, it said: {said}",
            "the account must be allowed to run commands over SSH, and its shell to run /bin/sh",
            site=site.name,
        )
        return
    yield well("login", f"{site.settings.ssh.user}@{site.login_host} works", site=site.name)
    yield from judge(site, told, received - answer.duration_seconds, received)


def judge(site: Site, told: remote.Told, sent: float, received: float) -> Iterator[Finding]:
    """Yields what a site's answer means.

    Args:
        site: the site.
        told: what it answered.
        sent: when it was asked, epoch seconds; `received` when all of the answer was there.
        received: as above.
    """
    yield from _commands(site, told)
    yield _accounting(site, told)
    yield from _balance(site, told)
    yield _clock(site, told, sent, received)
    yield _folder(site, told)
    yield _python(site, told)


def _commands(site: Site, told: remote.Told) -> Iterator[Finding]:
    missing = [name for name in remote.SLURM if name not in told.commands]
    if missing:
        yield wrong(
            "commands",
            f"{', '.join(missing)}: not found by the shell that rayslurm gets there",
            "see that a shell that is no login shell finds them (its PATH, in ~/.bashrc for example)",
            site=site.name,
        )
    wanted = remote.tools(site)
    areas = site.profile.workspaces
    optional = [name for name in ("seff", areas.command[0] if areas else "") if name in wanted]
    absent = [name for name in optional if name not in told.commands]
    if absent:
        yield look(
            "commands",
            f"{', '.join(absent)}: not found, so what it would tell stays unknown",
            f"if the site has none, say so: sites.{site.name}.seff: none, workspaces: none",
            site=site.name,
        )
    if not missing and not absent:
        yield well("commands", f"{', '.join((*remote.SLURM, *optional))} are there", site=site.name)


def _accounting(site: Site, told: remote.Told) -> Finding:
    if told.sacct_status == 0:
        return well("sacct", "accounting answers", site=site.name)
    said = f": {told.sacct_said}" if told.sacct_said else ""
    return wrong(
        "sacct",
        f"accounting doesn't answer, sacct ended with {told.sacct_status}{said}",
        "jobs are followed again when it does; ask the site where that lasts",
        site=site.name,
    )


def _balance(site: Site, told: remote.Told) -> Iterator[Finding]:
    balance = site.profile.balance
    if balance is None:
        return
    if told.balance_file:
        yield well("balance", "the project's file can be read", site=site.name)
    elif balance.command[0] in told.commands:
        yield well("balance", f"{balance.command[0]} is there", site=site.name)
    else:
        yield look(
            "balance",
            f"neither its file nor {balance.command[0]} is there, so no balance is known",
            f"is sites.{site.name}.project right?",
            site=site.name,
        )


def _clock(site: Site, told: remote.Told, sent: float, received: float) -> Finding:
    if told.time is None:
        return look("clock", "the site doesn't tell its time", site=site.name)
    # It was read at some moment while we waited, and tells whole seconds.
    ahead, behind = told.time - received, sent - (told.time + 1)
    off = max(ahead, behind, 0.0)
    if off <= _SKEW_LOOK_SECONDS:
        return well("clock", "the site's goes as this machine's", site=site.name)
    text = f"the site's is {off:.0f} s {'ahead of' if ahead > behind else 'behind'} this machine's"
    cure = "see which of the two is right, and let NTP keep this machine's"
    return (wrong if off > _SKEW_WRONG_SECONDS else look)("clock", text, cure, site=site.name)


def _folder(site: Site, told: remote.Told) -> Finding:
    folder = remote.jobs_folder(site)
    if folder is None:
        return look(
            "work_dir",
            f"{site.work_dir} hangs on the project, and none is set",
            f"write sites.{site.name}.project, unless each spec names its own",
            site=site.name,
        )
    if told.writable:
        there = "" if told.folder == folder else f" is made below {told.folder}, which"
        return well("work_dir", f"{folder}{there} can be written", site=site.name)
    return wrong(
        "work_dir",
        f"{folder} can't be made or written: {told.folder or '?'} can't be written",
        f"is sites.{site.name}.project right, and are you a member? Else write another sites.{site.name}.work_dir",
        site=site.name,
    )


def _python(site: Site, told: remote.Told) -> Finding:
    if told.python is not None and told.python >= _OLDEST_PYTHON:
        return well("python", f"{site.python} is {told.python[0]}.{told.python[1]}", site=site.name)
    found = "isn't found" if told.python is None else f"is {told.python[0]}.{told.python[1]}"
    return look(
        "python",
        f"{site.python} {found} on the login node; jobs need 3.6 or newer on theirs",
        f"see what nodes have; name another in sites.{site.name}.python, or load one in its environment",
        site=site.name,
    )


def _failure(run: ProbeRun, now: float) -> str:
    last = "never went well" if run.last_success is None else f"last went well {_ago(now - run.last_success)}"
    return f"{run.probe} failed {_ago(now - run.at)}, and {last}: {run.error}"


def _ago(seconds: float) -> str:
    return f"{max(0, int(seconds))} s ago"
