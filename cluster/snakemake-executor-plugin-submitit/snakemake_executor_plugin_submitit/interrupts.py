"""Handle Ctrl-C and SIGHUP in the workflow process without interrupting a submission."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupts:
    """Signal handlers of the workflow process.

    SIGHUP ends the workflow process without cancelling its jobs. Snakemake handles SIGINT. Both signals are delayed
    while jobs are being submitted.
    """

    def __init__(self, *, detachable: bool, delay_during_submission: bool) -> None:
        self.hung_up = False
        self._delay_during_submission = delay_during_submission
        self._previous: dict[int, Any] = {}
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        if self._in_main_thread and detachable and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._on_hang_up)

    def _on_hang_up(self, number: int, frame: FrameType | None) -> None:
        self.hung_up = True
        raise SystemExit(128 + signal.SIGHUP)

    @contextlib.contextmanager
    def delayed(self) -> Iterator[None]:
        """Delay SIGINT and SIGHUP until the submitted jobs are recorded. A second signal interrupts the submission."""
        if not self._delay_during_submission or threading.current_thread() is not threading.main_thread():
            yield
            return
        received: list[int] = []

        def remember(number: int, frame: FrameType | None) -> None:
            if received:
                raise KeyboardInterrupt
            received.append(number)

        numbers = [signal.SIGINT, *([signal.SIGHUP] if signal.SIGHUP in self._previous else [])]
        previous = {number: signal.signal(number, remember) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            for number in received:
                signal.raise_signal(number)

    def restore(self) -> None:
        """Restore the previous signal handlers."""
        if self._in_main_thread and threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler)
        self._previous = {}
