"""Run logs in JSON lines format, written by the stages and read by the MLflow mirror and the report.

Rank 0 writes `log.jsonl`. Every other rank writes the system metrics of its node and GPU to a separate file next to it.

Each line is one event: `{"time": seconds, "event": "start" | "metrics" | "artifact" | "end", ...}`. Each metric is
written once per step. Resumed training recomputes the steps between the checkpoint and the interruption. The recomputed
values are not written again. On a CPU, they are bitwise equal to the first values.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mem import files
from mem.progress import format_duration
from mem.runs.attempts import Attempt, add_event, read_events
from mem.tracking.log_events import MAX_LINE_BYTES, parse_event, read_line

_EVENTS_PER_CHUNK = 5000
"""Maximum number of events in a chunk of `read_chunks`, which limits its memory use."""
SYSTEM = "system/"
"""Prefix of system metrics, which have a separate step counter. MLflow's UI shows them on a separate page."""


@runtime_checkable
class Log(Protocol):
    """Interface that receives the metrics and events of a stage."""

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics of a step."""
        ...

    def artifact(self, path: Path, to: str, step: int) -> None:
        """Log a file of a step, with its destination folder among the MLflow artifacts."""
        ...

    def event(self, kind: str, **fields: Any) -> None:
        """Log an event of another kind."""
        ...


class NullLog:
    """A log that discards everything, for ranks other than 0."""

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        """Discard the metrics."""

    def artifact(self, path: Path, to: str, step: int) -> None:
        """Discard the file."""

    def event(self, kind: str, **fields: Any) -> None:
        """Discard the event."""


class JsonLines:
    """Log file. An existing file is continued after a truncated last line is removed. The class is thread-safe."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._last_step: dict[str, int] = {}
        """Last logged step by metric name or artifact folder."""
        self.attempts: list[Attempt] = []
        """The attempts in the log. The last one is the current attempt if its "start" event was written."""
        self.id = uuid.uuid4().hex
        complete_bytes = 0
        if path.exists():
            complete_bytes = _complete_bytes(path)
            for event in read_events(path):
                self.id = event["id"] if event["event"] == "log" else self.id
                add_event(self.attempts, event)
                for name in event.get("metrics", {}):
                    self._last_step[name] = max(self._last_step.get(name, -1), event["step"])
                if event["event"] == "artifact" and "step" in event:
                    name = _artifacts(event["to"])
                    self._last_step[name] = max(self._last_step.get(name, -1), event["step"])
        self._path = path
        self._file = open(path, "ab", buffering=0)
        self._file.truncate(complete_bytes)
        self._bytes = complete_bytes
        if complete_bytes == 0:
            self._write({"event": "log", "id": self.id})

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        """Append those metrics that were not yet logged at this step or a later one."""
        with self._lock:
            new = {name: float(value) for name, value in metrics.items() if step > self._last_step.get(name, -1)}
            if new:
                self._last_step.update(dict.fromkeys(new, step))
                self._write({"event": "metrics", "step": step, "metrics": new})

    def next_step(self, prefix: str) -> int:
        """Return the step after the last logged step of all metrics whose names start with `prefix`."""
        with self._lock:
            return 1 + max((step for name, step in self._last_step.items() if name.startswith(prefix)), default=-1)

    def artifact(self, path: Path, to: str, step: int) -> None:
        """Append an event for the file, unless a file of this or a later step was already logged to the same folder."""
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
        event = {"time": round(time.time(), 3), **content}
        line = json.dumps(event, allow_nan=True).encode() + b"\n"
        with self._lock, files.naming(self._path):
            try:
                rest = line
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(self._bytes)  # leave no part of a line, to which the next line would be added
                raise
            self._bytes += len(line)
            add_event(self.attempts, event)


def read_identity(path: Path) -> tuple[str | None, dict[str, Any] | None]:
    """Return the id and the first event of a log. Each of the two is None until it is written.

    The first event is "start" or, in the log of a rank other than 0, "beside".

    Raises:
        ValueError: One of the two lines is damaged.
    """
    try:
        with open(path, "rb") as file:
            lines = [line for line in (read_line(file), read_line(file)) if line.endswith(b"\n")]
    except FileNotFoundError:
        return None, None
    if not lines:
        return None, None
    first = parse_event(lines[1]) if len(lines) > 1 else None
    if first is not None and first["event"] not in ("start", "beside"):
        raise ValueError(f"the second line is damaged: the event is {first['event'][:50]!r} instead of 'start'")
    return parse_event(lines[0]).get("id"), first


def read_chunks(path: Path, start: int, metrics_per_chunk: int) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Yield the events after a position in chunks, each with the end position of the chunk.

    Args:
        path: The log.
        start: Start position in bytes.
        metrics_per_chunk: Maximum number of metrics per chunk. A single event may exceed this number.

    Raises:
        ValueError: A line is damaged. The events before this line are yielded first.
    """
    with open(path, "rb") as file:
        file.seek(start)
        events: list[dict[str, Any]] = []
        metrics, end = 0, start
        damage: ValueError | None = None
        while line := read_line(file):
            if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
                break
            try:
                event = parse_event(line)
            except ValueError as error:
                damage = error
                break
            count = len(event.get("metrics", {}))
            if events and (metrics + count > metrics_per_chunk or len(events) >= _EVENTS_PER_CHUNK):
                yield events, end
                events, metrics = [], 0
            events.append(event)
            metrics += count
            end += len(line)
        if events:
            yield events, end
        if damage is not None:
            raise ValueError(f"the line at byte {end} is damaged: {damage}")


def read_curve(path: Path, metric: str) -> list[tuple[int, float]]:
    """Return the steps and values of a metric in the order of the log."""
    return [
        (event["step"], event["metrics"][metric])
        for event in read_events(path)
        if event["event"] == "metrics" and metric in event["metrics"]
    ]


def read_curves(path: Path, metrics: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of several metrics, reading the log once. They are empty if there is no log."""
    curves: dict[str, list[tuple[int, float]]] = {metric: [] for metric in metrics}
    for event in read_events(path) if path.exists() else ():
        if event["event"] == "metrics":
            for metric in curves.keys() & event["metrics"].keys():
                curves[metric].append((event["step"], event["metrics"][metric]))
    return curves


def run_status(path: Path, now: float) -> str:
    """Describe the state of an unfinished run: training progress, throughput, and the age of the last event."""
    if not path.exists():
        return "-"
    steps, step, rate, last = 0, 0, None, {"event": "log", "time": now}
    for event in read_events(path):
        if event["event"] == "metrics" and all(name.startswith(SYSTEM) for name in event["metrics"]):
            continue  # system metrics do not show that the stage makes progress
        last = event
        steps = event["steps"] if event["event"] == "training" else steps
        if event["event"] == "metrics":
            step = max(step, event["step"])
            rate = event["metrics"].get("train/images_per_s", rate)
    if last["event"] == "end" and last["status"] != "finished":
        return last["status"] + (f" at {100 * step // steps} %" if steps else "")
    parts = [f"{100 * step // steps} %"] if steps else ["started"]
    parts += [f"{rate:,.0f} img/s"] if rate else []
    return ", ".join([*parts, f"{format_duration(now - last['time'])} ago"])


def _artifacts(folder: str) -> str:
    """Return the key of an artifact folder in the mapping of last steps."""
    return f"artifacts in {folder}"


def _complete_bytes(path: Path) -> int:
    """Return the number of bytes up to and including the last line break."""
    content = path.read_bytes()
    return content.rfind(b"\n") + 1
