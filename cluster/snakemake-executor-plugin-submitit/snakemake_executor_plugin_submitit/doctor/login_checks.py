"""Checks that run on the login node and do not submit jobs."""

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

from snakemake_executor_plugin_submitit.doctor.check_results import CheckResult, fail, ok, warn
from snakemake_executor_plugin_submitit.doctor.site import Site, parse_records, run_command, slurm_configuration

REQUIRED_COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel")
_OLDEST_VERSION = (20, 11)
_TESTED_VERSION = "22.05"
"""Default of `--submitit-array-size`."""
_WARN_FREE_GB = 20.0
_FAIL_FREE_GB = 1.0
_SERVER_SECONDS = 10.0


def check_commands() -> Iterator[CheckResult]:
    """Check that the SLURM commands exist, that their version is supported, and that the controller responds."""
    missing = [name for name in REQUIRED_COMMANDS if shutil.which(name) is None]
    if len(missing) == len(REQUIRED_COMMANDS):
        yield fail(
            "commands",
            f"this machine ({socket.gethostname()}) has no SLURM: none of {', '.join(REQUIRED_COMMANDS)} is on PATH",
            "log in to the cluster's login node, or load its SLURM module; without a cluster, run "
            "`snakemake --profile local`, or start a SLURM cluster on this machine with `make slurm-up`",
        )
        return
    if missing:
        yield fail(
            "commands",
            f"not on PATH: {', '.join(missing)}",
            "load the site's SLURM module, or ask the site's support where these commands are installed",
        )
        return
    yield ok("commands", f"{', '.join(REQUIRED_COMMANDS)} in {os.path.dirname(str(shutil.which('sbatch')))}")
    yield _check_version()
    ping = run_command("scontrol", "ping")
    # One line per controller, or in SLURM before 20.11 one line such as `Slurmctld(primary/backup) at a/b are UP/DOWN`.
    up = [line.strip() for line in ping.output.splitlines() if re.match(r"\s*Slurmctld\(.*\b(is|are)\b.*\bUP\b", line)]
    if not ping.succeeded or not up:
        yield fail(
            "controller",
            f"the controller does not respond: {ping.output or ping.error}",
            "ask the site's support, or set SLURM_CONF to the site's slurm.conf",
        )
    else:
        yield ok("controller", up[0])


def _check_version() -> CheckResult:
    result = run_command("sbatch", "--version")
    text = result.output or result.error
    version = re.search(r"^slurm\S* ((\d+)\.(\d+)(\.\S+)?)", text, re.MULTILINE | re.IGNORECASE)
    if version is None:
        return warn(
            "version",
            f"`sbatch --version` prints no version number: {text!r}",
            f"check that sbatch belongs to SLURM; the plugin is tested with SLURM {_TESTED_VERSION}",
        )
    if (int(version[2]), int(version[3])) < _OLDEST_VERSION:
        return warn(
            "version",
            f"SLURM {version[1]}, expected {_OLDEST_VERSION[0]}.{_OLDEST_VERSION[1]} or later",
            f"try a small study first; the plugin is tested with SLURM {_TESTED_VERSION}",
        )
    return ok("version", f"SLURM {version[1]}")


def check_accounting() -> Iterator[CheckResult]:
    """Check that `sacct` can report how jobs ended."""
    result = run_command("sacct", "-n", "-X", "-o", "JobID")
    if result.succeeded:
        yield ok("accounting", "sacct works")
        return
    min_job_age = slurm_configuration().get("MinJobAge", "unknown")
    yield warn(
        "accounting",
        f"sacct failed: {result.error}",
        "keep the workflow process running: it reads job states from squeue and scontrol instead, which drop ended "
        f"jobs after MinJobAge ({min_job_age}); see docs/how-to/clusters/no-accounting.md",
    )


def check_partition(site: Site) -> Iterator[CheckResult]:
    """Check that the partition exists and is up, and report its size and time limit."""
    result = run_command("scontrol", "show", "partition", "--oneliner")
    partitions = parse_records(result.output, "PartitionName")
    if not result.succeeded or not partitions:
        yield fail(
            "partition", f"`scontrol show partition` lists no partitions: {result.error}", "ask the site's support"
        )
        return
    names = ", ".join(each["PartitionName"] for each in partitions)
    wanted = site.partition or os.environ.get("SBATCH_PARTITION")
    matching = (
        [each for each in partitions if each["PartitionName"] == wanted]
        if wanted
        else [each for each in partitions if each.get("Default") == "YES"]
    )
    if not matching:
        problem = f"partition {wanted} does not exist" if wanted else "there is no default partition"
        yield fail("partition", f"{problem}; available: {names}", "choose one with --partition NAME")
        return
    chosen = matching[0]
    found = f"{chosen['PartitionName']}: {chosen.get('TotalNodes', '?')} nodes, time limit {chosen.get('MaxTime', '?')}"
    if chosen.get("State") != "UP":
        yield fail(
            "partition",
            f"{found}, state {chosen.get('State')}, expected UP",
            f"choose another partition with --partition NAME; the site has {names}",
        )
    else:
        yield ok("partition", found)


def check_submission(site: Site) -> Iterator[CheckResult]:
    """Check with `sbatch --test-only` that SLURM accepts a job with the site's options."""
    result = run_command("sbatch", "--test-only", "--time=1", f"--nodes={site.nodes}", *site.options(), "--wrap=true")
    job = f"a {site.nodes}-node job with {' '.join(site.options()) or 'no further options'}"
    if result.succeeded:
        yield ok("submission", f"sbatch accepts {job}")
        return
    accounts = _user_accounts()
    yield fail(
        "submission",
        f"sbatch rejects {job}: {result.error}",
        f"choose another --account, --partition or --qos{f' (your accounts: {accounts})' if accounts else ''}, "
        "or fewer --nodes",
    )


def _user_accounts() -> str:
    """Return the user's SLURM accounts as a comma-separated string, which is empty if SLURM lists none."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in some containers, the user id has no name
        return ""
    result = run_command("sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", "format=user,account")
    rows = [line.split("|") for line in result.output.splitlines() if line.startswith(f"{user}|")]
    return ", ".join(sorted({row[1] for row in rows})) if result.succeeded else ""


def check_limits() -> Iterator[CheckResult]:
    """Report the site's job limits, and check that the default array size is allowed."""
    config = slurm_configuration()
    if not config:
        return
    hold = re.search(r"cred_expire=(\d+)", config.get("AuthInfo", ""))
    yield ok(
        "limits",
        f"KillWait {config.get('KillWait', '?')}, MaxArraySize {config.get('MaxArraySize', '?')}, "
        f"MaxJobCount {config.get('MaxJobCount', '?')}, preemption {config.get('PreemptMode', '?')}, "
        f"a requeued job waits {hold[1] if hold else 120} s",
    )


def check_tracking(site: Site) -> Iterator[CheckResult]:
    """Check that the tracking server responds to this machine. Jobs do not connect to it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if urlsplit(uri).scheme not in ("http", "https"):
        where = _shown(uri) or f"an SQLite database in {site.folder / 'runs'}"
        yield ok("tracking", f"no tracking server is set; a process on the login node writes to {where}")
        return
    health = f"{uri.rstrip('/')}/health"
    try:
        with urllib.request.urlopen(health, timeout=_SERVER_SECONDS) as response:
            yield ok("tracking", f"{_shown(uri)} responds with HTTP status {response.status}")
    except urllib.error.HTTPError as error:
        yield warn(
            "tracking",
            f"{_shown(health)} responds with HTTP status {error.code}, expected 200",
            "check MLFLOW_TRACKING_URI and its credentials",
        )
    except OSError as error:
        yield warn(
            "tracking",
            f"{_shown(uri)} does not respond: {getattr(error, 'reason', error)}",
            "start the server or correct MLFLOW_TRACKING_URI; training does not need the server, and `mem track sync` "
            "uploads the logs later",
        )


def _shown(uri: str) -> str:
    """Return an address without user name, password and query, which can contain secrets."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def check_disk(site: Site) -> Iterator[CheckResult]:
    """Check that the working directory is writable and has enough free space."""
    if not os.access(site.folder, os.W_OK):
        yield fail(
            "disk",
            f"{site.folder} is not writable",
            "work in a different folder (snakemake --directory FOLDER), and run the doctor again with --folder FOLDER",
        )
        return
    free = shutil.disk_usage(site.folder).free / 1e9
    found = f"{free:.1f} GB free in {site.folder}"
    advice = "free some space, or work on the site's scratch file system (snakemake --directory FOLDER)"
    if free < _FAIL_FREE_GB:
        yield fail("disk", f"{found}, expected at least {_FAIL_FREE_GB:.0f} GB", advice)
    elif free < _WARN_FREE_GB:
        yield warn("disk", f"{found}, expected at least {_WARN_FREE_GB:.0f} GB", advice)
    else:
        yield ok("disk", f"{free:.0f} GB free in {site.folder} (your quota may be lower)")
