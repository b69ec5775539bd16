"""Requests to a running training loop: save a checkpoint, or save and stop."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable


@runtime_checkable
class StopRequests(Protocol):
    """Source of requests to the training loop. The implementation for stages is `mem.jobs.signals.StopSignals`."""

    @property
    def requested(self) -> bool:
        """Whether training should save a checkpoint and stop."""
        ...

    def take_save(self) -> bool:
        """Whether a checkpoint was requested since the last call."""
        ...

    def saved(self) -> None:
        """Acknowledge that the requested checkpoint is on disk."""
        ...

    def deferred(self) -> AbstractContextManager[None]:
        """Return a context in which the loop handles requests. Outside it, requests raise exceptions immediately."""
        ...


class NeverStop:
    """A source without requests, for training within a user's program. Ctrl-C raises KeyboardInterrupt as usual."""

    requested = False

    def take_save(self) -> bool:
        """Return False."""
        return False

    def saved(self) -> None:
        """Do nothing."""

    def deferred(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return contextlib.nullcontext()
