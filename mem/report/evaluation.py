"""Read and validate the files of an evaluate run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mem.errors import UserError
from mem.metrics.predictions import PREDICTIONS_FILE, read_predictions
from mem.metrics.scores import added_scores

Percentage = float | None
"""A score in percent; `null` if there are no images to compute it from."""


class _Shots(TypedDict):
    many: Percentage
    medium: Percentage
    few: Percentage


class _ShotsAndAll(_Shots):
    all: Percentage


class _ByNorm(TypedDict):
    all: Percentage


_CountPerShot = tuple[float, float, float]


class _Split(TypedDict):
    """Scores of a split. `mem.metrics.scores.added_scores` computes those that earlier evaluations do not have."""

    images: int
    accuracy: _ShotsAndAll
    oracle: _ShotsAndAll
    group_recall: _Shots
    top5: Percentage
    balanced: Percentage
    ece: Percentage
    wrong_by_group: tuple[_CountPerShot, _CountPerShot, _CountPerShot]
    by_group: NotRequired[tuple[_CountPerShot, _CountPerShot, _CountPerShot]]
    group_by_norm: NotRequired[_ByNorm]
    group_by_class: NotRequired[_ByNorm]
    balanced_se: NotRequired[Percentage]
    interval: NotRequired[dict[str, tuple[Percentage, Percentage]]]
    """95 % interval of the accuracy by shot group, over images."""
    experts_used: NotRequired[_ShotsAndAll]
    """Mean numbers, not percentages."""
    norms: NotRequired[list[list[float | None]]]
    per_class: NotRequired[list[Percentage]]


class _Splits(TypedDict):
    val: NotRequired[_Split]
    test: NotRequired[_Split]


class _TemperatureScores(TypedDict):
    nll: list[float | None]
    ece: list[float]


class _Calibration(TypedDict):
    """Scores of each split at several temperatures."""

    temperatures: list[float]
    splits: dict[str, _TemperatureScores]


class _Crops(TypedDict):
    number: int
    resize: int


class _Metrics(TypedDict):
    thresholds: str
    class_counts: list[int]
    splits: _Splits
    interval_strata: NotRequired[str]
    """Present since the bootstrap of `interval` is stratified by class."""
    transductive: NotRequired[bool]
    """Present and true if the head was adapted to the test images."""
    crops: NotRequired[_Crops]
    """Present if the logits are means over several crops."""
    counts_before_holdout: NotRequired[list[int]]
    """Present with a holdout."""
    calibration: NotRequired[_Calibration]
    """Evaluations of earlier versions do not have it."""


class _Inputs(TypedDict):
    head: str


class _Record(TypedDict):
    dataset: str
    backbone: str
    inputs: _Inputs


_FILES = {"run.json": TypeAdapter(_Record), "metrics.json": TypeAdapter(_Metrics)}
"""Required keys of each file that the report reads. Files may contain additional keys."""


def read_evaluation(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the contents of `run.json` and `metrics.json` of an evaluate run.

    Scores that an earlier version did not compute are computed from the predictions.

    Raises:
        UserError: The run is unfinished, or a file is damaged or lacks a key that the report needs.
    """
    record, metrics = (_read(folder, name) for name in _FILES)
    if any("balanced_se" not in scores for scores in metrics["splits"].values()):
        about, splits = read_predictions(folder / PREDICTIONS_FILE)
        for name, predictions in splits.items():
            metrics["splits"][name] |= added_scores(predictions, about)
    return record, metrics


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        return _FILES[name].validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: this evaluation is not finished. Run the workflow.") from None
    except ValidationError as error:
        fault = _first_fault(error)
    except UnicodeDecodeError as error:
        fault = str(error)
    raise UserError(
        f"{path} is damaged: {fault}. To evaluate again, delete {folder / 'run.json'} and run the workflow."
    )


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    return f"{key}: {fault['msg']}" if key else fault["msg"]
