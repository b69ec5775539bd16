"""The attempts of a run, read from its log: the time that each attempt worked, and its peak memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Attempt:
    """One start of a stage that obtained the lock of its run folder."""

    start: float
    """Time of the attempt's "start" event. The wait for the lock is earlier."""
    last: float
    """Time of the attempt's "end" event or, if the process was killed, of its last event."""
    ended: bool = False
    peak_memory_gb: float = 0.0
    """Peak memory use, or 0 if the log does not contain it."""

    @property
    def seconds(self) -> float:
        """Duration, which is a lower bound if the process was killed."""
        return round(max(0.0, self.last - self.start), 3)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log. A truncated last line is ignored."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def add_event(attempts: list[Attempt], event: Mapping[str, Any]) -> None:
    """Add the next event of a log to the attempts that the log contains.

    Events between the end of an attempt and the next start do not count, such as the last system metrics. The
    registration of a model does not count either, because `mem register` appends it later.
    """
    if event["event"] == "start":
        attempts.append(Attempt(event["time"], event["time"]))
    elif attempts and not attempts[-1].ended and event["event"] != "model":
        attempts[-1].last = max(attempts[-1].last, event["time"])
        attempts[-1].ended = event["event"] == "end"
        attempts[-1].peak_memory_gb = event.get("peak_memory_gb", 0.0)


def read_attempts(log: Path) -> list[Attempt]:
    """Return the attempts in a log, in the order of their starts."""
    attempts: list[Attempt] = []
    for event in read_events(log):
        add_event(attempts, event)
    return attempts


def total_seconds(record: Mapping[str, Any], log: Path) -> float:
    """Return the time that all attempts of a finished run worked.

    Earlier versions recorded only the last attempt, including its wait for the lock. For these records, the time is
    read from the log. If the log is missing or is not the log of this run, the recorded time is returned.
    """
    if "attempt_seconds" in record or not log.is_file():
        return record["seconds"]
    attempts = read_attempts(log)
    if len(attempts) != record.get("attempts"):
        return record["seconds"]
    return round(sum(attempt.seconds for attempt in attempts), 3)
