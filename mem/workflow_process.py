"""Folder lock and MLflow mirror of the Snakemake process that drives a workflow."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from mem.errors import UserError
from mem.jobs.signals import WORKFLOW_VARIABLE, describe_this_process
from mem.runs.working_folder import claim_runs

_MIRROR_SECONDS = 120
"""Time that the mirror has to send the remaining points before it is killed, in seconds."""


class WorkflowProcess:
    """Working-folder lock and MLflow mirror for the duration of a workflow.

    The kernel releases this lock when the process ends, even if the process is killed. Snakemake's built-in lock would
    remain in this case, so profiles/default disables it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock: IO[str] | None = None
        self._mirror: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Acquire the lock, claim `runs/`, describe this process to its jobs in a variable, and start the mirror.

        Raises:
            UserError: Another workflow process holds the lock (the message identifies the process), or another working
                folder has the same `runs/`.
        """
        self._lock_folder()
        claim_runs(self.root)
        os.environ[WORKFLOW_VARIABLE] = describe_this_process()
        log = self.root / "logs" / "mlflow-mirror.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as out:
            self._mirror = subprocess.Popen(
                [sys.executable, "-m", "mem.cli", "track", "follow", "--parent", str(os.getpid())],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Let the mirror send the remaining points, then stop it. Print a warning if the mirror fails."""
        if self._mirror is None:
            return
        self._mirror.send_signal(signal.SIGTERM)
        try:
            status = self._mirror.wait(_MIRROR_SECONDS)
        except subprocess.TimeoutExpired:
            self._mirror.kill()
            status = self._mirror.wait()
        self._mirror = None
        if status != 0:
            print(
                "Some points were not sent to MLflow (see logs/mlflow-mirror.log). They are in the run logs. "
                "Run `mem track sync` to send them.",
                file=sys.stderr,
            )

    def _lock_folder(self) -> None:
        folder = self.root / ".snakemake"
        folder.mkdir(exist_ok=True)
        file = open(folder / "mem-head.lock", "a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            file.close()
            raise UserError(
                f"Another workflow process is running in this folder: {holder}. Two processes would start every job "
                "twice. Wait until it ends, stop it with Ctrl-C, or use another folder with --directory."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        self._lock = file
