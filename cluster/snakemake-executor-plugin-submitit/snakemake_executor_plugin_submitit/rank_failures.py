"""The failures of the ranks of one attempt, as the ranks themselves record and read them."""

from __future__ import annotations

import socket
import time

from snakemake_executor_plugin_submitit import failures
from snakemake_executor_plugin_submitit.rendezvous import RankInfo
from snakemake_executor_plugin_submitit.work import Work


class RankFailed(Exception):
    """This rank's command failed or could not be started."""


class RankFailures:
    """The failure records of a job's current attempt. Each rank writes its own record and reads those of its peers."""

    def __init__(self, work: Work, info: RankInfo) -> None:
        self._title = work.title
        self._rank = info.rank
        self._attempt = work.folder.attempt(info.attempt)
        self._path = work.folder.failure(info.attempt, info.rank)
        self._log = work.folder.rank_log(info.rank)

    def reserve(self) -> None:
        """Create the folder of the attempt, and reserve disk space for this rank's record."""
        self._attempt.mkdir(parents=True, exist_ok=True)
        failures.reserve_record(self._path)

    def record(self, text: str, reason: str = "") -> RankFailed:
        """Record this rank's failure for the workflow process, and return it as an exception."""
        host = socket.gethostname()
        record = {
            "rank": self._rank,
            "host": host,
            "text": text,
            "reason": reason,
            "time": time.time(),
            "log": str(self._log),
        }
        try:
            failures.write_record(self._path, record)
        except OSError as error:
            text += f" (this failure was not recorded in {self._path}: {error})"
        return RankFailed(f"{self._title}: rank {self._rank} on {host}: {text}")

    def exist(self) -> bool:
        """Return whether any rank recorded a failure."""
        return any(self._attempt.glob("failed-*.json"))

    def a_peer_was_stopped(self) -> bool:
        """Return whether another rank was stopped by SIGTERM while this rank's program was running."""
        try:
            records = failures.read_records(self._attempt)
        except OSError:
            return False
        return bool(records) and all(record["reason"] == failures.TERMINATED for record in records)
