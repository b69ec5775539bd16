"""Node names in /etc/hosts. Ranks connect to nodes by name, and they wait forever if a name does not resolve."""

from __future__ import annotations

import contextlib
import fcntl
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.throwaway.daemons import wait_until
from cluster.throwaway.packages import ThrowawayError

HOSTS = Path("/etc/hosts")
_LOCK_SECONDS = 600.0
# Lines that earlier versions wrote have the same mark.
_MARK = "# throw-away SLURM; removed by `make slurm-down`"


def add(names: Sequence[str], hosts: Path = HOSTS) -> None:
    """Make the names resolve to this machine.

    The file is modified in place, because container runtimes mount it and a mounted file cannot be replaced.

    Raises:
        ThrowawayError: A name already resolves to another machine.
    """
    remove(hosts)
    for name in names:
        address = _address(name)
        if address is not None and not address.startswith("127."):
            raise ThrowawayError(
                f"The name {name} already resolves to {address}, but the throwaway SLURM cluster needs it for a node. "
                "Run the throwaway SLURM cluster in a container."
            )
    text = hosts.read_text()
    end = "" if text.endswith("\n") or not text else "\n"
    hosts.write_text(f"{text}{end}127.0.0.1 {' '.join(names)}  {_MARK}\n")


def contains(hosts: Path = HOSTS) -> bool:
    """Return whether the file contains the line that `add` writes."""
    return _MARK in hosts.read_text()


def remove(hosts: Path = HOSTS) -> None:
    """Remove only the line that `add` wrote."""
    text = hosts.read_text()
    kept = "".join(line for line in text.splitlines(keepends=True) if _MARK not in line)
    if kept != text:
        hosts.write_text(kept)


@contextlib.contextmanager
def locked(hosts: Path = HOSTS) -> Iterator[None]:
    """Allow only one `up` or `down` at a time on the machine.

    The lock is on an existing file, so that no lock file remains.

    Raises:
        ThrowawayError: Another process holds the lock for too long. All users can lock a file that they can read.
    """

    def lock() -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    with open(hosts) as file:
        problem = f"{hosts} is locked by another process (find it with `lslocks` and end it): it was not released"
        wait_until(lock, _LOCK_SECONDS, problem)
        yield


def _address(name: str) -> str | None:
    try:
        return socket.gethostbyname(name)
    except OSError:
        return None
