"""The log of a run: JSON lines, appended by the stage alone, read by the MLflow mirror and the report.

What other ranks than the first see of their nodes and GPUs stands in files of their own beside it.

Each line is one event: `{"time": seconds, "event": "start" | "metrics" | "artifact" | "end", ...}`. A step's metrics
are written once: what a resumed training computes again, between its checkpoint and where it broke off, is the same
to the bit on a CPU and is passed over.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mem.progress import clock

SYSTEM = "system/"
"""Begins the names of what a machine does, which counts its own steps; MLflow's UI has a page for them."""


@runtime_checkable
class Log(Protocol):
    """Where a stage puts its numbers."""

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics at a step."""
        ...

    def artifact(self, path: Path, to: str, step: int) -> None:
        """A file that shows how things stood at a step, and the folder of MLflow's artifacts that it belongs to."""
        ...

    def event(self, kind: str, **fields: Any) -> None:
        """Anything else that happened."""
        ...


class NullLog:
    """A log that keeps nothing: for ranks other than the first."""

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        """Forget the metrics."""

    def artifact(self, path: Path, to: str, step: int) -> None:
        """Forget the file."""

    def event(self, kind: str, **fields: Any) -> None:
        """Forget the event."""


class JsonLines:
    """A log file. An existing one is continued; a half-written last line is cut off. Threads may share it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._last_step: dict[str, int] = {}
        self.attempts = 0
        self.id = uuid.uuid4().hex
        whole = 0
        if path.exists():
            whole = _whole_lines(path)
            for event in read_events(path):
                self.id = event["id"] if event["event"] == "log" else self.id
                self.attempts += event["event"] == "start"
                for name in event.get("metrics", {}):
                    self._last_step[name] = max(self._last_step.get(name, -1), event["step"])
                if event["event"] == "artifact" and "step" in event:
                    name = _artifacts(event["to"])
                    self._last_step[name] = max(self._last_step.get(name, -1), event["step"])
        self._file = open(path, "ab")
        self._file.truncate(whole)
        if whole == 0:
            self._write({"event": "log", "id": self.id})

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        """Append the metrics that were not yet logged at this step."""
        with self._lock:
            new = {name: float(value) for name, value in metrics.items() if step > self._last_step.get(name, -1)}
            if new:
                self._last_step.update(dict.fromkeys(new, step))
                self._write({"event": "metrics", "step": step, "metrics": new})

    def next_step(self, prefix: str) -> int:
        """The step after the last one at which a metric of such a name was logged: for what counts its own steps."""
        with self._lock:
            return 1 + max((step for name, step in self._last_step.items() if name.startswith(prefix)), default=-1)

    def artifact(self, path: Path, to: str, step: int) -> None:
        """Append the file, unless one of this step or a later one was logged for the same folder."""
        with self._lock:
            if step > self._last_step.get(_artifacts(to), -1):
                self._last_step[_artifacts(to)] = step
                self._write({"event": "artifact", "path": str(path), "to": to, "step": step})

    def event(self, kind: str, **fields: Any) -> None:
        """Append an event."""
        self._write({"event": kind, **fields})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, content: dict[str, Any]) -> None:
        line = json.dumps({"time": round(time.time(), 3), **content}, allow_nan=True)
        with self._lock:
            self._file.write(line.encode() + b"\n")
            self._file.flush()


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a log; a half-written last one is left out."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def read_curve(path: Path, metric: str) -> list[tuple[int, float]]:
    """Step and value of a metric, as logged."""
    return [
        (event["step"], event["metrics"][metric])
        for event in read_events(path)
        if event["event"] == "metrics" and metric in event["metrics"]
    ]


def run_status(path: Path, now: float) -> str:
    """Where an unfinished run stands, in words: how far its training is, how fast, and when it last said so."""
    if not path.exists():
        return "-"
    steps, step, rate, last = 0, 0, None, {"event": "log", "time": now}
    for event in read_events(path):
        if event["event"] == "metrics" and all(name.startswith(SYSTEM) for name in event["metrics"]):
            continue  # the machine lives; that says nothing of the run
        last = event
        steps = event["steps"] if event["event"] == "training" else steps
        if event["event"] == "metrics":
            step = max(step, event["step"])
            rate = event["metrics"].get("train/images_per_s", rate)
    if last["event"] == "end" and last["status"] != "finished":
        return last["status"] + (f" at {100 * step // steps} %" if steps else "")
    parts = [f"{100 * step // steps} %"] if steps else ["begun"]
    parts += [f"{rate:,.0f} img/s"] if rate else []
    return ", ".join([*parts, f"{clock(now - last['time'])} ago"])


def _artifacts(folder: str) -> str:
    """Stands among the metrics' names for a folder of artifacts."""
    return f"artifacts in {folder}"


def _whole_lines(path: Path) -> int:
    """Bytes up to and with the last line break."""
    content = path.read_bytes()
    return content.rfind(b"\n") + 1
