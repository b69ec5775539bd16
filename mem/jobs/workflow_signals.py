"""Signals of the workflow process: SIGINT and SIGTERM stop its jobs, and a second signal ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType

import psutil

_STOPPING = "\nStopping. Jobs on this machine save their progress and end. Press Ctrl-C to exit at once.\n"
_EXITED = (
    "\nmem: exited at once. Jobs on this machine save their progress and end by themselves. Jobs on SLURM may "
    "continue. Run the same command to resume.\n"
)
_POLL_SECONDS = 0.5
_START_SECONDS = 30.0
"""Time in which a stage imports its modules and installs its signal handlers."""


class WorkflowSignals:
    """Signal handlers of the workflow process.

    Snakemake passes neither signal on: Ctrl-C reaches the jobs only through the terminal, and after SIGTERM Snakemake
    waits until all running jobs are complete. Here, the first SIGINT or SIGTERM stops the jobs of this machine, which
    save their progress, and interrupts Snakemake. The second one ends the process without a traceback.

    Args:
        stop_jobs: Whether the jobs are child processes that receive SIGTERM. If an executor plugin runs the jobs, the
            plugin stops them.
    """

    def __init__(self, *, stop_jobs: bool) -> None:
        self.received = False
        self._stop_jobs = stop_jobs
        self._finished = threading.Event()

    def install(self) -> None:
        """Install the handlers. A signal that this process ignores, for example due to `nohup`, stays ignored."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def finish(self) -> None:
        """Stop sending signals to child processes, because all jobs have ended."""
        self._finished.set()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            _print(_EXITED)
            os._exit(128 + number)
        self.received = True
        if not self._finished.is_set():
            _print(_STOPPING)
            if self._stop_jobs:
                threading.Thread(target=self._stop_children, name="stop jobs", daemon=True).start()
        raise KeyboardInterrupt

    def _stop_children(self) -> None:
        """Send SIGTERM once to each job, also to jobs that start later or that are not yet ready to handle it."""
        signalled: set[tuple[int, float]] = set()
        while True:
            for process in jobs_of(psutil.Process()):
                with contextlib.suppress(psutil.Error):
                    identity = (process.pid, process.create_time())
                    if identity not in signalled:
                        signalled.add(identity)
                        process.send_signal(signal.SIGTERM)
            if self._finished.wait(_POLL_SECONDS):
                return


def _print(text: str) -> None:
    """Write to stderr without its buffer, because a handler can interrupt code that holds the lock of the buffer."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def jobs_of(parent: psutil.Process) -> Iterator[psutil.Process]:
    """Yield the processes below `parent` that handle SIGTERM, and programs that start and do not handle it yet.

    A shell does not handle SIGTERM. If it received the signal, Snakemake would consider its job as failed while the
    stage still saves. The child processes of a stage are left to the stage. A stage that has just finished does not
    handle the signal any more and must not be killed, because Snakemake would delete its outputs. Processes in another
    session do not belong to a job, for example the MLflow mirror.
    """
    try:
        children = parent.children()
    except psutil.Error:
        return
    for child in children:
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(child.pid) != os.getsid(0):
                continue
            if handles(child.pid, signal.SIGTERM):
                yield child
            elif child.children():
                yield from jobs_of(child)
            elif time.time() - child.create_time() < _START_SECONDS:
                yield child


def handles(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def hide_interrupt_traceback(default: Callable[..., object] = sys.excepthook) -> None:
    """Print one line instead of a traceback if Ctrl-C interrupts Snakemake, for example while it plans the jobs."""

    def report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("\nmem: interrupted", file=sys.stderr)
        else:
            default(kind, error, traceback)

    sys.excepthook = report
