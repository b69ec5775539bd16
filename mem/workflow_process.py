"""The head of a workflow: one per folder, with the MLflow mirror beside it while it runs."""

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

_MIRROR_SECONDS = 120
"""How long the mirror may take to send the rest."""


class WorkflowProcess:
    """Takes the folder's lock and starts the mirror when jobs are to run; stops the mirror when they have.

    The lock is the kernel's and goes with the process, so that a head that was killed leaves nothing to unlock.
    Snakemake's own lock stays behind in that case; profiles/default turns it off.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock: IO[str] | None = None
        self._mirror: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Take the lock, tell jobs who their head is, start the mirror.

        Raises:
            UserError: Another head is alive in this folder; says which.
        """
        self._take_lock()
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
        """Let the mirror send the rest and end; say so where it could not."""
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
                "MLflow does not have everything yet (see logs/mlflow-mirror.log). The runs' logs do; "
                "`mem track sync` sends what is missing.",
                file=sys.stderr,
            )

    def _take_lock(self) -> None:
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
                f"A workflow runs in this folder already: {holder}. Two heads would start every job twice. "
                "Wait for it, stop it (Ctrl-C there), or work in another folder with --directory."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        self._lock = file
