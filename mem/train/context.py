"""Context of a training run: processes, checkpoints, log and messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mem.distributed import SINGLE_PROCESS, World
from mem.tracking.log import Log, NullLog
from mem.train.checkpoints import Checkpoints, NoCheckpoints
from mem.train.stop import NeverStop, StopRequests


@dataclass(frozen=True)
class FitContext:
    """Processes, log and checkpoints of a training run. By default, there is one process and nothing is saved."""

    title: str
    """Label of the progress bar."""
    world: World = SINGLE_PROCESS
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)
    log: Log = field(default_factory=NullLog)
    stop: StopRequests = field(default_factory=NeverStop)
    say: Callable[[str], None] = lambda text: None
    """Function that displays a message to the user."""
    quiet: bool = False
    """Whether to hide the progress bar."""
    name: str = ""
    """Name of the trained model in error messages."""
