"""Ctrl-C, hang-ups, and the moments in which neither may cut a submission in two."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupts:
    """SIGHUP ends the head and leaves its jobs; SIGINT is Snakemake's own affair, but waits for a submission's end."""

    def __init__(self, *, detachable: bool, holds: bool) -> None:
        self.hung_up = False
        self._holds = holds
        self._before: dict[int, Any] = {}
        self._main = threading.current_thread() is threading.main_thread()
        if self._main and detachable and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._hang_up)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        self.hung_up = True
        raise SystemExit(128 + signal.SIGHUP)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Deliver SIGINT and SIGHUP afterwards: what was submitted is then on record. A second one is not held."""
        if not self._holds or threading.current_thread() is not threading.main_thread():
            yield
            return
        kept: list[int] = []

        def keep(number: int, frame: FrameType | None) -> None:
            if kept:
                raise KeyboardInterrupt
            kept.append(number)

        numbers = [signal.SIGINT, *([signal.SIGHUP] if signal.SIGHUP in self._before else [])]
        before = {number: signal.signal(number, keep) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for number in kept:
                signal.raise_signal(number)

    def restore(self) -> None:
        """Give the signals back."""
        if self._main and threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)
        self._before = {}
