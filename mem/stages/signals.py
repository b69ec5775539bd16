"""What the outside asks of a running stage: signals, and the death of the workflow's head."""

from __future__ import annotations

import os
import signal
import socket
import threading
from types import FrameType
from typing import Any

import psutil

HEAD_VARIABLE = "MEM_HEAD"
"""Set by the Snakefile for jobs on its own machine: `host pid start-time slurm-job` of the head."""
_POLL_SECONDS = 1.0


class StopSignals:
    """SIGTERM and SIGINT ask to save and stop, SIGUSR2 to save and go on. A second SIGINT stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self.reason = ""
        self._save = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._stop)
        self._before[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, self._save_asked)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def take_save(self) -> bool:
        """Whether a checkpoint was asked for since the last time."""
        asked = self._save.is_set()
        self._save.clear()
        return asked

    def request(self, reason: str) -> None:
        """Ask to save and stop."""
        self.reason = self.reason or reason
        self.requested = True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.request(signal.Signals(number).name)

    def _save_asked(self, number: int, frame: FrameType | None) -> None:
        self._save.set()


def head_description() -> str:
    """This process, as the value of `HEAD_VARIABLE`."""
    started = psutil.Process().create_time()
    return f"{socket.gethostname()} {os.getpid()} {started} {os.environ.get('SLURM_JOB_ID', '-')}"


def watch_head(stop: StopSignals) -> None:
    """Ask to stop once the head that started this job is gone: an orphan must not train on beside its successor."""
    described = os.environ.get(HEAD_VARIABLE, "").split()
    if len(described) != 4:
        return
    host, pid, started, job = described
    if host != socket.gethostname() or job != os.environ.get("SLURM_JOB_ID", "-"):
        return

    def wait() -> None:
        while _alive(int(pid), float(started)):
            if gone.wait(_POLL_SECONDS):
                return
        stop.request(f"the end of the workflow's head (process {pid})")

    gone = threading.Event()
    threading.Thread(target=wait, name="head watch", daemon=True).start()


def _alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
