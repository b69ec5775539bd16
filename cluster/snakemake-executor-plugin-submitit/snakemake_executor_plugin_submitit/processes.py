"""Start, signal and stop the child processes of a rank.

SLURM signals all processes of a step at once: on preemption, on a requeue and before the time limit. By default, a
shell or an inner Snakemake would exit, and Snakemake would delete the job's outputs. The child processes of a rank
therefore start with SIGUSR2, SIGTERM and SIGCONT ignored. Descendants also ignore these signals until they install a
handler.
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

SAVE_SIGNAL = signal.SIGUSR2


class SignalFlags:
    """Flags for the requests to save or stop that this rank has received as signals."""

    def __init__(self) -> None:
        self.save_requested = False
        self.stop_requested = False

    def install(self) -> None:
        """Install handlers that set the flags."""
        signal.signal(SAVE_SIGNAL, self._on_save)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCONT, signal.SIG_IGN)

    def _on_save(self, number: int, frame: FrameType | None) -> None:
        self.save_requested = True

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_requested = True


SIGNALS = SignalFlags()
"""The flags of this process."""


def ignore_signals() -> None:
    """Ignore the signals that SLURM sends to all processes of a step. Called in a child process before its program."""
    for number in (SAVE_SIGNAL, signal.SIGTERM, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN)


def start(
    command: str, shell: str, cwd: str, environment: Mapping[str, str], log: IO[bytes] | None
) -> subprocess.Popen:
    """Start a shell command. Its processes ignore SLURM's signals unless they install handlers."""
    return subprocess.Popen(
        command,
        shell=True,
        executable=shell,
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log and subprocess.STDOUT,
        preexec_fn=ignore_signals,
    )


def process_tree(process: subprocess.Popen) -> list[psutil.Process]:
    """Return a process and all its descendants, oldest first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    return []


def processes_with_handler(process: subprocess.Popen, number: signal.Signals) -> Iterator[psutil.Process]:
    """Yield the processes in a process tree that have a handler for a signal."""
    for member in process_tree(process):
        with contextlib.suppress(OSError, StopIteration, ValueError):
            status = Path(f"/proc/{member.pid}/status").read_text()
            caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
            if int(caught, 16) >> (number - 1) & 1:
                yield member


def handles(process: subprocess.Popen, number: signal.Signals) -> bool:
    """Return whether any process in a process tree has a handler for a signal."""
    return any(True for _ in processes_with_handler(process, number))


def signal_handlers(process: subprocess.Popen, number: signal.Signals) -> bool:
    """Send a signal to all processes in a process tree that handle it. Return whether any process does."""
    found = False
    for member in processes_with_handler(process, number):
        with contextlib.suppress(psutil.Error):  # the process has ended, or it belongs to another user (setuid)
            member.send_signal(number)
            found = True
    return found


def stop(process: subprocess.Popen, grace_seconds: float) -> None:
    """Kill a process tree, after giving programs that handle SIGTERM a grace period to save."""
    members = process_tree(process)
    if signal_handlers(process, signal.SIGTERM):
        deadline = time.monotonic() + grace_seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    for member in {*members, *process_tree(process)}:
        with contextlib.suppress(psutil.Error):
            if member.is_running():
                member.kill()
    process.wait()


def is_alive(pid: int, started: float) -> bool:
    """Return whether the process with this id and creation time is still running."""
    try:
        found = psutil.Process(pid)
        return abs(found.create_time() - started) < 1 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
