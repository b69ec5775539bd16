"""Checks that need no job: commands, accounting, partition, account, limits, tracking server, disk."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

from cluster.doctor.findings import Finding, fail, ok, warn
from cluster.doctor.site import Site, ask, configuration, fields

NEEDED = ("sbatch", "srun", "squeue", "scontrol", "scancel")
_OLDEST = (20, 11)
_TRIED = "22.05"
_LITTLE_GB = 20.0
_TOO_LITTLE_GB = 1.0
_SERVER_SECONDS = 10.0


def commands() -> Iterator[Finding]:
    """SLURM's commands, their version, and whether the controller answers."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if len(missing) == len(NEEDED):
        yield fail(
            "commands",
            f"this machine ({socket.gethostname()}) has no SLURM: none of {', '.join(NEEDED)} is on PATH",
            "log in to the cluster's login node, or load its SLURM module; without a cluster use "
            "`snakemake --profile local`, to try one here `make slurm-up`",
        )
        return
    if missing:
        yield fail("commands", f"not on PATH: {', '.join(missing)}", "load the site's SLURM module, or ask its support")
        return
    yield ok("commands", f"{', '.join(NEEDED)} in {os.path.dirname(str(shutil.which('sbatch')))}")
    answer = ask("sbatch", "--version")
    said = answer.output or answer.complaint
    version = re.search(r"(\d+)\.(\d+)(\.\S+)?", said)
    if version is None:
        yield warn("version", f"`sbatch --version` says {said!r}", f"the plugin was tried with SLURM {_TRIED}")
    elif (int(version[1]), int(version[2])) < _OLDEST:
        yield warn("version", f"SLURM {version[0]}", f"older than {_OLDEST[0]}.{_OLDEST[1]}; tried with {_TRIED}")
    else:
        yield ok("version", f"SLURM {version[0]}")
    answer = ask("scontrol", "ping")
    if not answer.good or "DOWN" in answer.output:
        yield fail(
            "controller",
            f"it does not answer: {answer.output or answer.complaint}",
            "ask the site's support, or set SLURM_CONF to the right slurm.conf",
        )
    else:
        yield ok("controller", answer.output.splitlines()[0])


def accounting() -> Iterator[Finding]:
    """Whether `sacct` tells how jobs ended."""
    answer = ask("sacct", "-n", "-X", "-o", "JobID")
    if answer.good:
        yield ok("accounting", "sacct answers")
        return
    kept = configuration().get("MinJobAge", "unknown")
    yield warn(
        "accounting",
        f"sacct fails: {answer.complaint}",
        f"states are then asked of squeue and scontrol, which forget a job after MinJobAge ({kept}): let the head "
        "run all the while; docs/how-to/clusters/no-accounting.md",
    )


def partition(site: Site) -> Iterator[Finding]:
    """Whether the partition exists and is up, and what it allows."""
    answer = ask("scontrol", "show", "partition", "--oneliner")
    known = [fields(line) for line in answer.output.splitlines()]
    if not answer.good or not known:
        yield fail("partition", f"scontrol shows none: {answer.complaint}", "ask the site's support")
        return
    names = ", ".join(each["PartitionName"] for each in known)
    wanted = (
        [each for each in known if each["PartitionName"] == site.partition]
        if site.partition
        else [each for each in known if each.get("Default") == "YES"]
    )
    if not wanted:
        found = f"there is no partition {site.partition}" if site.partition else "none is the default"
        yield fail("partition", f"{found}; the site has {names}", "name one: --partition NAME")
        return
    each = wanted[0]
    found = f"{each['PartitionName']}: {each.get('TotalNodes', '?')} nodes, at most {each.get('MaxTime', '?')} a job"
    if each.get("State") != "UP":
        yield fail("partition", f"{found}, state {each.get('State')}", f"name another one of {names}")
    else:
        yield ok("partition", found)


def submission(site: Site) -> Iterator[Finding]:
    """Whether SLURM would take a job with these options, without submitting one."""
    answer = ask("sbatch", "--test-only", "--time=1", f"--nodes={site.nodes}", *site.options(), "--wrap=true")
    job = f"a job of {site.nodes} nodes with {' '.join(site.options()) or 'no options'}"
    if answer.good:
        yield ok("submission", f"{job} is accepted")
        return
    mine = _own_accounts()
    yield fail(
        "submission",
        f"sbatch refuses {job}: {answer.complaint}",
        f"choose --account, --partition, --qos{f' (your accounts: {mine})' if mine else ''}, or fewer --nodes",
    )


def _own_accounts() -> str:
    """The accounts that the database has for this user; empty where it says none."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return ""
    answer = ask("sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", "format=account")
    return ", ".join(sorted(set(answer.output.split()))) if answer.good else ""


def limits() -> Iterator[Finding]:
    """What the site does to jobs."""
    config = configuration()
    if not config:
        return
    hold = re.search(r"cred_expire=(\d+)", config.get("AuthInfo", ""))
    yield ok(
        "limits",
        f"KillWait {config.get('KillWait', '?')}, MaxArraySize {config.get('MaxArraySize', '?')}, "
        f"MaxJobCount {config.get('MaxJobCount', '?')}, preemption {config.get('PreemptMode', '?')}, "
        f"a requeued job waits {hold[1] if hold else 120} s",
    )
    largest = config.get("MaxArraySize", "1001")
    if largest.isdigit() and int(largest) <= 500:
        yield warn(
            "arrays", f"MaxArraySize is {largest}", f"set --submitit-array-size {max(1, int(largest) - 1)} or less"
        )


def tracking(site: Site) -> Iterator[Finding]:
    """Whether the tracking server answers; only the head talks to it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if urlsplit(uri).scheme not in ("http", "https"):
        where = uri or f"sqlite in {site.folder / 'runs'}"
        yield ok("tracking", f"no server: {where}, written by one process beside the head")
        return
    health = f"{uri.rstrip('/')}/health"
    try:
        with urllib.request.urlopen(health, timeout=_SERVER_SECONDS) as response:
            yield ok("tracking", f"{uri} answers with {response.status}")
    except urllib.error.HTTPError as error:
        yield warn(
            "tracking", f"{health} answers with {error.code}", "check MLFLOW_TRACKING_URI and the credentials for it"
        )
    except OSError as error:
        yield warn(
            "tracking",
            f"{uri} does not answer: {getattr(error, 'reason', error)}",
            "training does not need it; start it or mend MLFLOW_TRACKING_URI, then `mem track sync` sends everything",
        )


def disk(site: Site) -> Iterator[Finding]:
    """Free space where runs will be written, and whether one may write."""
    if not os.access(site.folder, os.W_OK):
        yield fail("disk", f"{site.folder} cannot be written to", "start in another folder: --folder, --directory")
        return
    free = shutil.disk_usage(site.folder).free / 1e9
    advice = "free some, or work on the site's scratch file system: --directory"
    if free < _TOO_LITTLE_GB:
        yield fail("disk", f"{free:.1f} GB free in {site.folder}", advice)
    elif free < _LITTLE_GB:
        yield warn("disk", f"{free:.1f} GB free in {site.folder}", advice)
    else:
        yield ok("disk", f"{free:.0f} GB free in {site.folder} (a quota may be lower)")
