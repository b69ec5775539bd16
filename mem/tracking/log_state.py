"""Which MLflow run the lines of a log are sent to, and how much of the log was sent."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

SENT = "mem.sent."
"""Prefix of the tag that contains the number of sent bytes. The id of the log follows the prefix."""
NOTHING_TO_SEND = sys.maxsize
"""Value of `LogState.sent_bytes` if the user deleted the MLflow run or its experiment. Neither is restored."""
_RECHECK_SECONDS = 30.0
"""Minimum time in seconds after which the server is asked whether the user restored a deleted run."""


@dataclass
class LogState:
    """The MLflow run that a log is sent to, and how much of the log was sent."""

    run_id: str
    """Empty if the run does not exist, because the user deleted its experiment before the run was created."""
    log_id: str
    sent_bytes: int
    inode: int
    """Inode, which identifies the file. A recomputed run starts a new log with the same name."""
    verified: bool = False
    """Whether the MLflow run's history was searched for points that were sent without setting the tag."""
    skipped_size: int = 0
    """Size of the log of a deleted run at the last pass."""
    checked: float = field(default_factory=time.monotonic)
    """Time at which the server was asked last whether the run is deleted."""

    @property
    def is_deleted(self) -> bool:
        """Whether the user deleted the run or its experiment."""
        return self.sent_bytes == NOTHING_TO_SEND

    def is_longer_than(self, size: int) -> bool:
        """Return whether more bytes were sent than the log contains, so that it is another log."""
        return size < self.sent_bytes and not self.is_deleted

    def may_be_restored(self, size: int) -> bool:
        """Return whether to ask the server again whether the run is deleted, because new lines were written."""
        return size != self.skipped_size and time.monotonic() > self.checked + _RECHECK_SECONDS


def state_of(run: Any, log_id: str, inode: int) -> LogState:
    """Return the state of a log as recorded in the tags of its MLflow run."""
    if run.info.lifecycle_stage == "deleted":
        return LogState(run.info.run_id, log_id, NOTHING_TO_SEND, inode)
    return LogState(run.info.run_id, log_id, int(run.data.tags.get(SENT + log_id, 0)), inode)
