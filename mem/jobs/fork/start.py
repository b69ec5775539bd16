"""Start a fork server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_END_SECONDS = 10.0


class ForkServer:
    """A fork server, which ends when this object is closed or this process ends.

    Args:
        log: File for the messages of the server.

    Raises:
        OSError: The server cannot be started.
    """

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-P", "-m", "mem.cli.fork_server"]  # -P: no modules from the working folder
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        assert self._process.stdout is not None
        _, found, self.variable = os.fsdecode(self._process.stdout.readline()).strip().partition("=")
        """Value of `SERVER_VARIABLE` for the commands that use the server."""
        if not found:
            raise OSError(f"the fork server ended with status {self._process.wait()}; see {log}")

    def close(self) -> None:
        """End the server. Its runs continue."""
        try:
            self._process.communicate(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
