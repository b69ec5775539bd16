"""Requests to a running stage, which are sent by signals or caused by the exit of the workflow process."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from mem.errors import Stopped

WORKFLOW_VARIABLE = "MEM_HEAD"
"""Set by the Snakefile for jobs on the same machine: `host pid start-time slurm-job` of the workflow process."""
SAVED_VARIABLE = "SNAKEMAKE_SUBMITIT_SAVED"
"""Set by the executor plugin: the file to create when the checkpoint that SIGUSR2 requested is on disk."""
_POLL_SECONDS = 1.0


def _ignore(handled: bool) -> None:
    """Tell nobody."""


announce_save_handler: Callable[[bool], None] = _ignore
"""Called when a stage begins or ceases to handle SIGUSR2. `mem.jobs.fork` replaces it."""


class StopSignals:
    """Signal handlers of a stage: SIGTERM and SIGINT stop the stage, SIGUSR2 requests a checkpoint.

    Within `deferred`, a stop signal only sets `requested`, and the training loop saves and stops after the current
    step. Elsewhere, a stop signal raises `Stopped` immediately, and SIGUSR2 is ignored because there is nothing to
    save. A SIGINT after an earlier stop signal raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.requested = False
        self.reason = ""
        self._deferred = False
        self._held = False
        self._save_requested = threading.Event()
        self._previous_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous_handlers[number] = signal.signal(number, self._on_stop)
        self._previous_handlers[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Record requests without acting on them. The body of the context checks `requested` and `take_save`."""
        self._deferred = True
        signal.signal(signal.SIGUSR2, self._on_save)
        announce_save_handler(True)
        try:
            yield
        finally:
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            announce_save_handler(False)
            self._deferred = False

    def hold(self) -> None:
        """From now on, record requests without acting on them: the results are complete, and only get their names."""
        self._held = True

    def take_save(self) -> bool:
        """Return whether a checkpoint was requested since the last call."""
        requested = self._save_requested.is_set()
        self._save_requested.clear()
        return requested

    def saved(self) -> None:
        """Acknowledge that the requested checkpoint is on disk by creating the file specified by `SAVED_VARIABLE`."""
        if path := os.environ.get(SAVED_VARIABLE):
            Path(path).touch()

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = True
        self.reason = self.reason or signal.Signals(number).name
        if not self._deferred and not self._held:
            raise Stopped("Stopped on request. No incomplete output was left.")

    def _on_save(self, number: int, frame: FrameType | None) -> None:
        self._save_requested.set()


def describe_this_process() -> str:
    """Return the value of `WORKFLOW_VARIABLE` for this process."""
    started = psutil.Process().create_time()
    return f"{socket.gethostname()} {os.getpid()} {started} {os.environ.get('SLURM_JOB_ID', '-')}"


def watch_workflow_process(stop: StopSignals) -> None:
    """Stop the stage when the workflow process that started it exits.

    Otherwise, an orphaned stage would continue while a restarted workflow runs the same stage. A stage on another
    machine or in another SLURM job than the workflow process is not affected.
    """
    description = os.environ.get(WORKFLOW_VARIABLE, "").split()
    if len(description) != 4:
        return
    host, pid, started, job = description
    if host != socket.gethostname() or job != os.environ.get("SLURM_JOB_ID", "-"):
        return

    def wait_and_stop() -> None:
        while _alive(int(pid), float(started)):
            time.sleep(_POLL_SECONDS)
        stop.reason = f"workflow process {pid} exited"
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_and_stop, name="workflow watch", daemon=True).start()


def _alive(pid: int, started: float) -> bool:
    """Return whether the process is still running. The start time distinguishes it from a reused process ID."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
