"""Check the lines of a run log, which may come from another machine or may be damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import IO, Any, TypeGuard

MAX_LINE_BYTES = 64 * 2**20
"""Maximum length of a line."""
_MAX_DEPTH = 50
"""Maximum depth of nested values."""
_MAX_TIME = 1e11
"""Upper limit of times in seconds since 1970. MLflow stores milliseconds as integers."""
_MAX_INTEGER = 2**63 - 1
STATUSES = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
"""MLflow run status by the status in an "end" event."""
_FIELDS: Mapping[str, Mapping[str, type]] = {
    "log": {"id": str},
    "beside": {"log": str},
    "start": {
        "stage": str,
        "key": str,
        "dataset": str,
        "backbone": str,
        "labels": dict,
        "settings": dict,
        "inputs": dict,
        "git": dict,
        "machine": dict,
    },
    "metrics": {"step": int, "metrics": dict},
    "artifact": {"path": str, "to": str},
    "model": {"path": str, "name": str, "alias": str, "key": str, "tags": dict},
    "end": {"status": str},
}
"""Fields of each kind of event that the mirror uses, with the type of their values."""
_TYPE_NAMES = {str: "text", dict: "a mapping", int: "an integer"}


def read_line(file: IO[bytes]) -> bytes:
    """Return the next line, or at most one byte more than `MAX_LINE_BYTES` of it."""
    return file.readline(MAX_LINE_BYTES + 1)


def parse_event(line: bytes) -> dict[str, Any]:
    """Return the event in a line of a log.

    Raises:
        ValueError: The line is not a valid event. The message says what was expected.
    """
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"it is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        event = json.loads(line)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    if not isinstance(event, dict):
        raise ValueError("expected a mapping")
    kind, time = event.get("event"), event.get("time")
    if not isinstance(kind, str):
        raise ValueError("the field `event` is missing or is not text")
    if not _is_number(time) or not 0 <= time < _MAX_TIME:
        raise ValueError("the field `time` is missing or is not a time in seconds")
    for name, expected in _FIELDS.get(kind, {}).items():
        if type(event.get(name)) is not expected:
            raise ValueError(f"the field `{name}` is missing or is not {_TYPE_NAMES[expected]}")
    _check_content(kind, event)
    return event


def _check_content(kind: str, event: Mapping[str, Any]) -> None:
    if kind == "metrics":
        if abs(event["step"]) > _MAX_INTEGER:
            raise ValueError("the field `step` is too large")
        for name, value in event["metrics"].items():
            if not _is_number(value):
                raise ValueError(f"the value of the metric {name[:50]!r} is not a number")
    elif kind == "start":
        _check_depth(event)
        if not all(isinstance(folder, str) for folder in event["inputs"].values()):
            raise ValueError("the field `inputs` contains a value that is not text")
        if not {"commit", "dirty"} <= event["git"].keys():
            raise ValueError("the field `git` has no commit")
        machine = event["machine"]
        if not isinstance(machine.get("host"), str) or not isinstance(machine.get("slurm"), dict | None):
            raise ValueError("the field `machine` has no host, or its SLURM job is not a mapping")
    elif kind == "model" and not all(isinstance(value, str) for value in event["tags"].values()):
        raise ValueError("the field `tags` contains a value that is not text")
    elif kind == "end" and event["status"] not in STATUSES:
        raise ValueError(f"the field `status` is none of {', '.join(STATUSES)}")


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a number that fits into 64 bits, or NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or math.log2(abs(value) + 1) < 1023


def _check_depth(value: Any) -> None:
    level: Iterable[Any] = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _inner_values(outer)]
        if not level:
            return
    raise ValueError("its values are nested too deeply")


def _inner_values(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
