"""Waiting for what a workflow does, as long as it lives."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def wait(condition: Callable[[], object], head: subprocess.Popen | None = None, seconds: float = 120) -> None:
    """Wait until something is true, as long as the head lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert head is None or head.poll() is None, head.communicate()[0]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
