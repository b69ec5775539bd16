"""Requests from outside a training: save a checkpoint, or save and stop."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable


@runtime_checkable
class StopRequests(Protocol):
    """Source of the requests that the loop handles. A stage uses `mem.jobs.signals.StopSignals`."""

    @property
    def requested(self) -> bool:
        """Whether the training should save and stop."""
        ...

    def take_save(self) -> bool:
        """Whether a checkpoint was requested since the last call."""
        ...

    def saved(self) -> None:
        """Acknowledge that the requested checkpoint is on disk."""
        ...

    def deferred(self) -> AbstractContextManager[None]:
        """Within this context the loop handles requests; outside it a request raises immediately."""
        ...


class NeverStop:
    """No requests. For training inside a user's own program, where Ctrl-C raises KeyboardInterrupt as usual."""

    requested = False

    def take_save(self) -> bool:
        """Return False."""
        return False

    def saved(self) -> None:
        """Do nothing."""

    def deferred(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return contextlib.nullcontext()
