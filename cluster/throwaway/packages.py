"""Debian's packages of SLURM, MUNGE and MariaDB: found, or installed without their daemons being started."""

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
"""Each program that is needed, and the package that has it."""
_POLICY = Path("/usr/sbin/policy-rc.d")
_SERVICES = {
    "munge": ["munge"],
    "mariadb-server": ["mariadb"],
    "slurmdbd": ["slurmdbd"],
    "slurm-wlm": ["slurmctld", "slurmd"],
}
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


class ThrowawayError(Exception):
    """The throw-away SLURM cannot do what was asked; the message says why, and what to do."""


class NotToBeHad(ThrowawayError):
    """There can be no throw-away SLURM on this machine: no root, or the packages cannot be installed."""


def program(name: str) -> str:
    """Full path of a program, also where the user's PATH lacks the system folders.

    Raises:
        ThrowawayError: It is not installed.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_FOLDERS}")
    if found is None:
        raise ThrowawayError(f"{name} is not installed; it is in the package {PROGRAMS.get(name, name)}.")
    return found


def missing() -> list[str]:
    """The packages whose programs are lacking."""
    path = f"{os.environ.get('PATH', '')}:{_SYSTEM_FOLDERS}"
    return sorted({package for name, package in PROGRAMS.items() if shutil.which(name, path=path) is None})


def obstacle() -> str | None:
    """Why a throw-away SLURM cannot run here, or None."""
    if os.geteuid() != 0:
        return (
            "A throw-away SLURM needs root: its nodes n1, n2 must stand in /etc/hosts, and jobs start as their user. "
            "Run it as root in a container: docker run -it -v $PWD:/mem -w /mem debian:12"
        )
    if missing() and shutil.which("apt-get") is None:
        return (
            f"These packages are missing, and there is no apt-get to install them: {' '.join(missing())}. "
            "A throw-away SLURM is made for Debian 12 and Ubuntu; elsewhere install SLURM, MUNGE and MariaDB yourself."
        )
    return None


def install(say: Callable[[str], None]) -> None:
    """Install what is missing; no daemon is started, now or at the next boot.

    Raises:
        NotToBeHad: Not root, no apt-get, or apt-get failed; with its last lines.
    """
    reason = obstacle()
    if reason is not None:
        raise NotToBeHad(reason)
    packages = missing()
    if not packages:
        return
    say(f"Installing {' '.join(packages)} (half a minute)")
    with _services_held_back([service for package in packages for service in _SERVICES[package]]):
        _apt("update", "-qq")
        _apt("install", "-y", "-qq", "--no-install-recommends", *packages)
    still = missing()
    if still:
        raise NotToBeHad(f"apt-get installed {' '.join(packages)}, but programs of {' '.join(still)} are lacking.")


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
        raise NotToBeHad(f"`{' '.join(command)}` failed with status {done.returncode}:\n{last}")


@contextlib.contextmanager
def _services_held_back(services: list[str]) -> Iterator[None]:
    """Packages installed meanwhile start nothing: Debian's policy-rc.d says so, and is put back afterwards."""
    before = _POLICY.read_bytes() if _POLICY.exists() else None
    mode = _POLICY.stat().st_mode & 0o777 if before is not None else 0o755
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            _POLICY.unlink()
        else:
            _POLICY.write_bytes(before)
            _POLICY.chmod(mode)
        if Path("/run/systemd/system").is_dir() and shutil.which("systemctl"):
            subprocess.run(["systemctl", "disable", "--quiet", *services], check=False)
