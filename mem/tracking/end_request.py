"""The request to end a mirror, and the time limit that starts with it."""

from __future__ import annotations

import signal
from types import FrameType

import psutil

from mem.tracking import limits

_REPEAT_SECONDS = 1.0
"""Interval at which `OutOfTime` is raised again, in case a library caught it."""


class OutOfTime(BaseException):
    """The time limit has passed. Libraries that handle `Exception` do not catch it."""


class EndRequest:
    """Signal handlers of the mirror. SIGTERM and the exit of the parent process request its end.

    `OutOfTime` is raised in the main thread, also during a request to a server, when `limits.LAST_PASS_SECONDS` have
    passed since the request. SIGINT is ignored, because the workflow process stops the mirror.

    Args:
        parent: Process ID of the parent process, or None if only SIGTERM requests the end.
    """

    def __init__(self, parent: int | None) -> None:
        self._received = False
        self._has_parent = parent is not None
        self._parent = _find_process(parent)
        signal.signal(signal.SIGALRM, _raise_out_of_time)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # The workflow process blocks SIGTERM, so that a request during the start of the mirror is not lost.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def received(self) -> bool:
        """Return whether the mirror must end."""
        if not self._received and self._has_parent and not _is_running(self._parent):
            self._start_time_limit()
        return self._received

    def cancel_time_limit(self) -> None:
        """Raise no more exceptions."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._received:
            self._start_time_limit()

    def _start_time_limit(self) -> None:
        self._received = True
        signal.setitimer(signal.ITIMER_REAL, limits.LAST_PASS_SECONDS, _REPEAT_SECONDS)


def _raise_out_of_time(number: int, frame: FrameType | None) -> None:
    raise OutOfTime


def _find_process(pid: int | None) -> psutil.Process | None:
    try:
        return None if pid is None else psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _is_running(process: psutil.Process | None) -> bool:
    """Return whether the process runs. A process that its parent has not waited for yet (a zombie) does not run."""
    try:
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
