"""Find the Debian packages of SLURM, MUNGE and MariaDB, or install them without starting their daemons."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = {
    "munged": "munge",
    "mungekey": "munge",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
    "slurmdbd": "slurmdbd",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "sacctmgr": "slurm-wlm",
}
"""Required programs, mapped to the packages that contain them."""
_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\n# Written by cluster.throwaway while it installs packages.\nexit 101\n"
_SERVICES = {
    "munge": ["munge"],
    "mariadb-server": ["mariadb"],
    "slurmdbd": ["slurmdbd"],
    "slurm-wlm": ["slurmctld", "slurmd"],
}
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


class ThrowawayError(Exception):
    """An operation on the throwaway SLURM cluster failed. The message states the reason and, if known, the fix."""


class Unavailable(ThrowawayError):
    """This machine cannot run a throwaway SLURM cluster: the user is not root, or packages cannot be installed."""


def find_program(name: str) -> str:
    """Return the full path of a program. The search includes system folders that are not on the user's PATH.

    Raises:
        ThrowawayError: The program is not installed.
    """
    found = shutil.which(name, path=_search_path())
    if found is None:
        raise ThrowawayError(f"{name} is not installed. Install the package {PROGRAMS.get(name, name)}.")
    return found


def missing_packages() -> list[str]:
    """Return the names of the required packages whose programs are not installed."""
    path = _search_path()
    return sorted({package for name, package in PROGRAMS.items() if shutil.which(name, path=path) is None})


def unavailable_reason() -> str | None:
    """Return why this machine cannot run a throwaway SLURM cluster, or None if it can."""
    if os.geteuid() != 0:
        return (
            "A throwaway SLURM cluster needs root: it adds its nodes to /etc/hosts and runs jobs as their owner. "
            "Run it as root in a container: docker run -it -v $PWD:/mem -w /mem debian:12"
        )
    if missing_packages() and shutil.which("apt-get") is None:
        return (
            f"These packages are missing, and apt-get is not available to install them: "
            f"{' '.join(missing_packages())}. Use Debian 12 or Ubuntu, or install SLURM, MUNGE and MariaDB yourself."
        )
    return None


def install_packages(log: Callable[[str], None]) -> None:
    """Install the missing packages without letting them start daemons, now or at the next boot.

    Raises:
        Unavailable: The user is not root, apt-get is not available, or apt-get failed. In the last case, the message
            contains the end of apt-get's output.
    """
    reason = unavailable_reason()
    if reason is not None:
        raise Unavailable(reason)
    packages = missing_packages()
    if not packages:
        return
    log(f"Installing {' '.join(packages)} (takes about half a minute)")
    with _services_disabled([service for package in packages for service in _SERVICES[package]]):
        _apt("update", "-qq")
        _apt("install", "-y", "-qq", "--no-install-recommends", *packages)
    missing = missing_packages()
    if missing:
        raise Unavailable(
            f"apt-get installed {' '.join(packages)}, but programs from {' '.join(missing)} are still missing. "
            "Install SLURM, MUNGE and MariaDB yourself."
        )


def _search_path() -> str:
    folders = f"{os.environ.get('PATH', '')}:{_SYSTEM_FOLDERS}".split(":")
    return ":".join(folder for folder in folders if os.path.isabs(folder))  # an empty entry is the working directory


def _apt(*arguments: str) -> None:
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=900", *arguments]
    done = subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-10:])
        raise Unavailable(f"`{' '.join(command)}` failed with status {done.returncode}:\n{last}")


@contextlib.contextmanager
def _services_disabled(services: list[str]) -> Iterator[None]:
    """Prevent packages from starting services on installation (with Debian's policy-rc.d) and at the next boot."""
    before = _POLICY.with_name(f"{_POLICY.name}.before-throwaway")
    if os.path.lexists(_POLICY) and (_POLICY.is_symlink() or _POLICY.read_text() != _POLICY_TEXT):
        _POLICY.rename(before)  # not modified in place: it may be a symbolic link to a program
    _POLICY.unlink(missing_ok=True)  # an installation was killed before it removed the file
    with open(os.open(_POLICY, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
        os.fchmod(file.fileno(), 0o755)
        file.write(_POLICY_TEXT)
    try:
        yield
    finally:
        _POLICY.unlink()
        if os.path.lexists(before):
            before.rename(_POLICY)
        if Path("/run/systemd/system").is_dir() and shutil.which("systemctl"):
            subprocess.run(["systemctl", "disable", "--quiet", *services], check=False)
