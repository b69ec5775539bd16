"""The state of each run of a study, from its folder, its log and its lock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mem import files
from mem.progress import RECORD_FILE
from mem.runs.attempts import read_events, total_seconds
from mem.runs.dag import Run
from mem.runs.folder import RunFolder
from mem.runs.outputs import missing_files
from mem.tracking.log import SYSTEM

StateName = Literal["done", "running", "waiting", "interrupted", "failed"]
_QUIET_SECONDS = 120.0
"""Time without an event after which a run counts as ended if its lock cannot be examined, in seconds."""


@dataclass(frozen=True)
class RunState:
    """The state of a run."""

    run: Run
    state: StateName
    seconds: float = 0.0
    """Duration of a finished run, or time since the start of a running one."""
    ended: float = 0.0
    """Time of the end of a finished run in seconds since 1970; 0 if it is unknown."""
    share: float | None = None
    """Completed share of a run that is not finished; None if it is unknown."""
    seconds_left: float | None = None
    """Estimated remaining time of a running run, or of an interrupted one when it is resumed; None if it is unknown."""
    reason: str = ""
    """Why a run failed or was interrupted."""

    @property
    def name(self) -> str:
        """Stage, head, class order and seed."""
        labels = self.run.labels
        words = [self.run.stage, labels.get("variant"), labels.get("finetuning"), labels.get("branch")]
        numbers = [f"{name} {labels[name]}" for name in ("order", "seed") if name in labels]
        return " ".join([*(str(word) for word in words if word is not None), *numbers])

    @property
    def log(self) -> Path:
        """File with the messages of the run, relative to the working folder."""
        return RunFolder(self.run.folder).messages


def run_state(run: Run, now: float, root: Path = Path()) -> RunState:
    """Return the state of a run.

    Args:
        run: The run.
        now: The current time in seconds since 1970.
        root: The working folder.
    """
    folder = RunFolder(root / run.folder)
    if folder.finished():
        missing = missing_files(run, root)
        if missing:
            return RunState(run, "waiting", reason=f"{missing[0]} was deleted")
        return _finished(run, folder)
    if not folder.log.is_file():
        return _without_log(run, folder, root)
    return _Progress(folder).state(run, now)


def is_locked(path: Path) -> bool | None:
    """Return whether a process holds the lock in a file, or None if this cannot be found out."""
    try:
        with open(path, "rb") as file:
            locked = files.try_lock(file, shared=True)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return None if locked is None else not locked


def _finished(run: Run, folder: RunFolder) -> RunState:
    try:
        record = json.loads(folder.record.read_text(encoding="utf-8"))
        return RunState(run, "done", total_seconds(record, folder.log), folder.record.stat().st_mtime)
    except (OSError, ValueError, KeyError):
        return RunState(run, "done")


def _without_log(run: Run, folder: RunFolder, root: Path) -> RunState:
    """Return the state of a run that has not written to its log."""
    if is_locked(folder.lock):
        return RunState(run, "running")
    waiting = RunState(run, "waiting")
    try:
        messages = (root / waiting.log).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return waiting
    # The stage ended before it could open its log, for example because an input is missing.
    reason = next((line for line in reversed(messages) if line.strip()), "")
    return RunState(run, "failed", reason=reason) if reason else waiting


class _Progress:
    """What the log of an unfinished run says about its last attempt."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.started = 0.0
        self.last = 0.0
        self.end: dict[str, Any] | None = None
        self.steps = self.step = self.first_step = 0
        self.step_time = self.first_time = 0.0
        for event in _events(folder.log):
            self._add(event)

    def _add(self, event: dict[str, Any]) -> None:
        kind, time = event["event"], event["time"]
        self.last = max(self.last, time)
        if kind == "start":
            self.started, self.end, self.step, self.first_step, self.steps = time, None, 0, 0, 0
        elif kind == "end":
            self.end = event
        elif kind == "training":
            self.steps, self.first_time = event["steps"], time
        elif kind == "resumed":
            self.step = self.first_step = event["step"]
        elif kind == "metrics" and not all(name.startswith(SYSTEM) for name in event["metrics"]):
            self.step, self.step_time = max(self.step, event["step"]), time

    def state(self, run: Run, now: float) -> RunState:
        """Return the state of the run."""
        reason = "" if self.end is None else str(self.end.get("reason", ""))
        share, left = self._recorded(self.last) or self._trained(self.last)
        if self.end is not None and self.end["status"] == "failed":
            return RunState(run, "failed", share=share, reason=reason)
        if self.end is not None:
            return RunState(run, "interrupted", share=share, seconds_left=left, reason=reason)
        locked = is_locked(self.folder.lock)
        if locked is False or (locked is None and now - self.last > _QUIET_SECONDS):
            reason = "the process ended without a message, for example because it was killed"
            return RunState(run, "interrupted", share=share, seconds_left=left, reason=reason)
        share, left = self._recorded(now) or self._trained(now)
        return RunState(run, "running", max(0.0, now - self.started), share=share, seconds_left=left)

    def _recorded(self, now: float) -> tuple[float | None, float | None] | None:
        """Return the completed share and the remaining seconds from the file that a stage writes while it counts."""
        try:
            record = json.loads((self.folder.path / RECORD_FILE).read_text(encoding="utf-8"))
            done, total, rate, time = (float(record[name]) for name in ("done", "total", "rate", "time"))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if time < self.started or total <= 0:
            return None
        return done / total, max(0.0, (total - done) / rate - (now - time)) if rate > 0 else None

    def _trained(self, now: float) -> tuple[float | None, float | None]:
        """Return the completed share and the remaining seconds from the steps in the log."""
        if not self.steps:
            return None, None
        seconds, steps = self.step_time - self.first_time, self.step - self.first_step
        left = (self.steps - self.step) * seconds / steps if steps > 0 and seconds > 0 else None
        return self.step / self.steps, None if left is None else max(0.0, left - (now - self.step_time))


def _events(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log up to the first damaged line."""
    try:
        yield from read_events(log)
    except (OSError, ValueError):
        return
