"""Run folders: file names, the lock and the record."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mem import files
from mem.errors import UserError

LOCK_WAIT_SECONDS = 90
"""Default time that a stage waits for the lock. An interrupted training run can save its checkpoint in this time."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of the files in a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        """File with the run's settings, including those that determine its key. It is written before jobs start."""
        return self.path / "config.yaml"

    @property
    def site(self) -> Path:
        """File with the unkeyed settings, which control where and how a stage runs. It is rewritten if they change."""
        return self.path / "site.yaml"

    @property
    def log(self) -> Path:
        """File with the curves and events of the run, as JSON lines."""
        return self.path / "log.jsonl"

    def rank_log(self, rank: int, log_id: str) -> Path:
        """Return the path of the system metrics of a rank other than 0, for the log with the given id."""
        return self.path / f"rank-{rank}-{log_id[:8]}.jsonl"

    @property
    def record(self) -> Path:
        """File with the provenance and results. It is written last: a run is finished if this file exists."""
        return self.path / "run.json"

    @property
    def checkpoints(self) -> Path:
        """Checkpoint folder. It is not a rule output, because Snakemake deletes the outputs of failed jobs."""
        return self.path / "checkpoints"

    @property
    def lock(self) -> Path:
        """Lock file of the stage that is running in the folder."""
        return self.path / "run.lock"

    @property
    def messages(self) -> Path:
        """File with the messages of the jobs of the run, if `path` is relative to the working folder."""
        return Path("logs", *self.path.parts[1:]).with_suffix(".log")

    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.record.is_file()

    @contextmanager
    def locked(self, wait_seconds: float = LOCK_WAIT_SECONDS, say: Callable[[str], None] = print) -> Iterator[bool]:
        """Lock the folder so that no other stage can run in it.

        The kernel releases the lock when the process ends, even if the process is killed.

        Yields:
            Whether another process finished the run while this one waited for the lock. A record that already existed
            when the wait began does not count.

        Raises:
            UserError: Another process still holds the lock after `wait_seconds`. The message identifies the process.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.lock, "a+", encoding="utf-8") as file:
            deadline = time.monotonic() + wait_seconds
            waiting, earlier_record = False, None
            while (locked := files.try_lock(file)) is False:
                file.seek(0)
                holder = file.read().strip() or "another process"
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{self.path} is in use by {holder}. Only one process can work in a run folder. "
                        "Wait until it ends, or stop it and run the command again to resume."
                    )
                if not waiting:
                    waiting, earlier_record = True, self._record_version()
                    say(f"Waiting for {holder}, which is working in {self.path}.")
                time.sleep(0.2)
            if locked is None:
                say(f"{self.path}: the file system does not support locks. Do not start a second process here.")
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            file.flush()
            yield waiting and self._record_version() not in (None, earlier_record)

    def _record_version(self) -> tuple[int, int] | None:
        """Return values that differ between two versions of the record, or None without a record."""
        try:
            status = self.record.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns


def read_record(folder: Path) -> dict[str, Any]:
    """Return the content of the `run.json` of a finished run.

    Raises:
        UserError: The run is not finished, or the file cannot be read.
    """
    path = RunFolder(folder).record
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: this run is not finished (no run.json); `mem run STUDY` computes it") from None
    except ValueError as error:
        raise UserError(f"{path}: cannot read this file: {error}. Delete it and run the stage again") from None


def original_features(features: Path) -> Path:
    """Return the features run that loaded the weights and the images of a features run, which may be the run itself.

    Runs that hold out training images, and runs of several crops, have another features run as their input.

    Raises:
        UserError: As in `read_record`.
    """
    inputs = read_record(features)["inputs"]
    return original_features(Path(inputs["features"])) if "features" in inputs else features
