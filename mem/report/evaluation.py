"""An evaluate run as it was left on disk, checked before anything is computed from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mem.errors import UserError

Percentage = float | None
"""Null where there are no images to take one from."""


class _Shots(TypedDict):
    many: Percentage
    medium: Percentage
    few: Percentage


class _ShotsAndAll(_Shots):
    all: Percentage


class _ByNorm(TypedDict):
    all: Percentage


_PerShot = tuple[float, float, float]


class _Split(TypedDict):
    images: int
    accuracy: _ShotsAndAll
    oracle: _ShotsAndAll
    group_recall: _Shots
    top5: Percentage
    balanced: Percentage
    ece: Percentage
    wrong_by_group: tuple[_PerShot, _PerShot, _PerShot]
    group_by_norm: NotRequired[_ByNorm]
    norms: NotRequired[list[list[float | None]]]


class _Splits(TypedDict):
    val: NotRequired[_Split]
    test: _Split


class _Metrics(TypedDict):
    thresholds: str
    class_counts: list[int]
    splits: _Splits


class _Inputs(TypedDict):
    head: str


class _Record(TypedDict):
    dataset: str
    backbone: str
    inputs: _Inputs


_FILES = {"run.json": TypeAdapter(_Record), "metrics.json": TypeAdapter(_Metrics)}
"""What a report reads of each file; there may be more in it."""


def read_evaluation(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `run.json` and `metrics.json` of an evaluate run.

    Raises:
        UserError: The run is not finished, or one of its files is damaged or lacks what a report reads.
    """
    record, metrics = (_read(folder, name) for name in _FILES)
    return record, metrics


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        return _FILES[name].validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: this evaluation was not run yet") from None
    except ValidationError as error:
        fault = _first_fault(error)
    except UnicodeDecodeError as error:
        fault = str(error)
    raise UserError(f"{path}: damaged: {fault}. Evaluate again: delete {folder / 'run.json'} and run the workflow")


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else fault["msg"]
