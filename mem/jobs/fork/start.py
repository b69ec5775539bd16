"""Start a fork server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from mem.jobs.fork.client import SERVER_VARIABLE

_END_SECONDS = 10.0


class ForkServer:
    """A fork server, which ends when this object is closed or this process ends.

    Args:
        log: File for the messages of the server, or None for the error output of this process.

    Raises:
        OSError: The server cannot be started.
    """

    def __init__(self, log: Path | None) -> None:
        name = f"mem-{os.urandom(16).hex()}"
        command = [sys.executable, "-P", "-m", "mem.cli.fork_server", name]  # -P: no modules from the working folder
        errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666) if log else os.dup(2)
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        finally:
            os.close(errors)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise OSError(f"the fork server ended with status {self._process.wait()}")
        self.variable = f"{name} {socket.gethostname()} {os.environ.get('SLURM_JOB_ID', '-')}"
        """Value of `SERVER_VARIABLE` for the commands that use the server."""

    def close(self) -> None:
        """End the server. Its runs continue."""
        try:
            self._process.communicate(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def exec(self, command: list[str]) -> None:
        """Replace this process by a command whose child processes use the server. The server ends with the command.

        Raises:
            OSError: The command cannot be started.
        """
        assert self._process.stdin is not None
        os.set_inheritable(self._process.stdin.fileno(), True)
        os.environ[SERVER_VARIABLE] = self.variable
        os.execvp(command[0], command)
