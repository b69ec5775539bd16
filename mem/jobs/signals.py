"""What the outside asks of a running stage: signals, and the death of the workflow's head."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from mem.errors import Stopped

WORKFLOW_VARIABLE = "MEM_HEAD"
"""Set by the Snakefile for jobs on its own machine: `host pid start-time slurm-job` of the head."""
SAVED_VARIABLE = "SNAKEMAKE_SUBMITIT_SAVED"
"""Set by the executor plugin: the file to write once a checkpoint that SIGUSR2 asked for is on disk."""
_POLL_SECONDS = 1.0


class StopSignals:
    """SIGTERM and SIGINT stop a stage, SIGUSR2 asks for a checkpoint.

    While a training runs (`deferred`) a stop is noted, and the training saves and stops at its next step. At any other
    time it is raised at once, and SIGUSR2 is ignored: there is nothing to save. A second SIGINT ends all at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self.reason = ""
        self._deferred = False
        self._save = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._stop)
        self._before[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Leave it to the body to look at `requested` and `take_save`."""
        self._deferred = True
        signal.signal(signal.SIGUSR2, self._save_asked)
        try:
            yield
        finally:
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            self._deferred = False

    def take_save(self) -> bool:
        """Whether a checkpoint was asked for since the last time."""
        asked = self._save.is_set()
        self._save.clear()
        return asked

    def saved(self) -> None:
        """Tell whoever asked for a checkpoint that it is on disk."""
        if path := os.environ.get(SAVED_VARIABLE):
            Path(path).touch()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = True
        self.reason = self.reason or signal.Signals(number).name
        if not self._deferred:
            raise Stopped("Stopped, as asked; nothing half-written was left.")

    def _save_asked(self, number: int, frame: FrameType | None) -> None:
        self._save.set()


def describe_this_process() -> str:
    """This process, as the value of `HEAD_VARIABLE`."""
    started = psutil.Process().create_time()
    return f"{socket.gethostname()} {os.getpid()} {started} {os.environ.get('SLURM_JOB_ID', '-')}"


def watch_workflow_process(stop: StopSignals) -> None:
    """Ask to stop once the head that started this job is gone: an orphan must not train on beside its successor."""
    described = os.environ.get(WORKFLOW_VARIABLE, "").split()
    if len(described) != 4:
        return
    host, pid, started, job = described
    if host != socket.gethostname() or job != os.environ.get("SLURM_JOB_ID", "-"):
        return

    def wait() -> None:
        while _alive(int(pid), float(started)):
            if gone.wait(_POLL_SECONDS):
                return
        stop.reason = f"the end of the workflow's head (process {pid})"
        os.kill(os.getpid(), signal.SIGTERM)

    gone = threading.Event()
    threading.Thread(target=wait, name="head watch", daemon=True).start()


def _alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
