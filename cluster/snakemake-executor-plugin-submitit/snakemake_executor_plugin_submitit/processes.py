"""The processes that a rank starts, and the signals that reach them.

SLURM signals every process of a step at once: on preemption, on a requeue and before the time limit. A shell or an
inner Snakemake would die of it, and a dying Snakemake deletes the outputs. So a rank's children start with USR2, TERM
and CONT ignored, which processes inherit until they install a handler of their own.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

SAVE = signal.SIGUSR2


class Asked:
    """What signals asked of this rank since it started."""

    def __init__(self) -> None:
        self.to_save = False
        self.to_stop = False

    def listen(self) -> None:
        """Take over from submitit's own handlers."""
        signal.signal(SAVE, self._save)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCONT, signal.SIG_IGN)

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.to_save = True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.to_stop = True


def _deaf() -> None:
    for number in (SAVE, signal.SIGTERM, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN)


def start(
    command: str, shell: str, cwd: str, environment: Mapping[str, str], log: IO[bytes] | None
) -> subprocess.Popen:
    """Start a shell command whose processes are deaf to SLURM's signals unless they listen themselves."""
    return subprocess.Popen(
        command,
        shell=True,
        executable=shell,
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log and subprocess.STDOUT,
        preexec_fn=_deaf,
    )


def tree(process: subprocess.Popen) -> list[psutil.Process]:
    """A process and all that descend from it, oldest first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    return []


def listeners(process: subprocess.Popen, number: signal.Signals) -> Iterator[psutil.Process]:
    """Processes of a tree that have a handler for a signal."""
    for member in tree(process):
        with contextlib.suppress(OSError, StopIteration, ValueError):
            status = Path(f"/proc/{member.pid}/status").read_text()
            caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
            if int(caught, 16) >> (number - 1) & 1:
                yield member


def ask(process: subprocess.Popen, number: signal.Signals) -> bool:
    """Send a signal to those processes of a tree that have a handler for it; whether there was one."""
    found = False
    for member in listeners(process, number):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(number)
            found = True
    return found


def stop(process: subprocess.Popen, grace_seconds: float) -> None:
    """End a tree: those who listen to TERM may save first."""
    members = tree(process)
    if ask(process, signal.SIGTERM):
        deadline = time.monotonic() + grace_seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    for member in {*members, *tree(process)}:
        with contextlib.suppress(psutil.NoSuchProcess):
            if member.is_running():
                member.kill()
    process.wait()


def alive(pid: int, started: float) -> bool:
    """Whether a process lives that had this id since then."""
    try:
        found = psutil.Process(pid)
        return abs(found.create_time() - started) < 1 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
