"""Handle Ctrl-C, SIGTERM and SIGHUP in the workflow process without interrupting a submission."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupts:
    """Signal handlers of the workflow process.

    SIGHUP and SIGTERM end the workflow process. Jobs that outlive it are not cancelled, because a login node that
    shuts down also sends SIGTERM. Other jobs are stopped. Snakemake handles SIGINT; it would handle SIGTERM by waiting
    until all running jobs are complete. The signals are delayed while jobs are being submitted.
    """

    def __init__(self, *, detachable: bool, delay_during_submission: bool) -> None:
        self.detached = False
        self._detachable = detachable
        self._delay_during_submission = delay_during_submission
        self._previous: dict[int, Any] = {}
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        if self._in_main_thread and detachable and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._on_hang_up)

    def _on_hang_up(self, number: int, frame: FrameType | None) -> None:
        self.detached = True
        raise SystemExit(128 + signal.SIGHUP)

    def handle_termination(self, scheduler: object) -> None:
        """Replace the handler of SIGTERM that Snakemake's scheduler has installed after it created the executor.

        A handler of the workflow (`onstart`) is called after the jobs were marked as detached. It must raise an
        exception.
        """
        number = signal.SIGTERM
        found = signal.getsignal(number)
        if not self._in_main_thread or number in self._previous or found is signal.SIG_IGN:
            return
        of_workflow = found if callable(found) and getattr(found, "__self__", None) is not scheduler else None

        def terminate(number: int, frame: FrameType | None) -> None:
            self.detached = self._detachable
            if of_workflow is not None:
                of_workflow(number, frame)
            raise SystemExit(128 + number)

        self._previous[number] = signal.signal(number, terminate)

    @contextlib.contextmanager
    def delayed(self) -> Iterator[None]:
        """Delay signals until the submitted jobs are recorded. A second signal interrupts the submission."""
        if not self._delay_during_submission or threading.current_thread() is not threading.main_thread():
            yield
            return
        received: list[int] = []

        def remember(number: int, frame: FrameType | None) -> None:
            if received:
                raise KeyboardInterrupt
            received.append(number)

        numbers = [signal.SIGINT, *self._previous]
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
