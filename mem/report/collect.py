"""What a report needs of a study's evaluations, read once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mem.errors import UserError
from mem.report.evaluation import read_evaluation
from mem.report.results import Row, rows_of


@dataclass
class StudyResults:
    """Scores of all evaluations; matrices are sums or means over seeds and class orders."""

    rows: list[Row] = field(default_factory=list)
    wrong: dict[str, np.ndarray] = field(default_factory=dict)
    """Of each variant: wrong test images of shot i that were predicted as shot j."""
    norms: dict[str, np.ndarray] = field(default_factory=dict)
    """Of each MEM variant: mean norm on test, true group x sub-network."""
    folders: dict[tuple[str, int, int], Path] = field(default_factory=dict)
    """The evaluate run of each (variant, order, seed)."""

    def confusion(self, variants: Iterable[str]) -> dict[str, np.ndarray]:
        """Of the wrong test images of each shot, the percentage that landed in each shot: the paper's figure 1a."""
        with np.errstate(invalid="ignore"):
            return {v: 100 * self.wrong[v] / self.wrong[v].sum(axis=1, keepdims=True) for v in variants}


def collect(study: str, evaluations: Iterable[tuple[Mapping[str, Any], Path]]) -> StudyResults:
    """Read a study's evaluate runs.

    Args:
        study: The study's name.
        evaluations: What this study calls each run, and the run's folder. Runs are shared by studies, and keep in their
            record what the first one called them.

    Raises:
        UserError: One is not finished or damaged, or evaluations of several data sets were mixed.
    """
    found = StudyResults()
    first: dict[int, tuple[Path, object]] = {}
    norms: dict[str, list[np.ndarray]] = {}
    for labels, folder in evaluations:
        record, metrics = read_evaluation(folder)
        _check_same_data(first.setdefault(labels["order"], (folder, _data_of(metrics))), (folder, _data_of(metrics)))
        record = {**record, "labels": labels}
        found.rows += rows_of(study, [(record, metrics)])
        variant, test = labels["variant"], metrics["splits"]["test"]
        found.folders[variant, labels["order"], labels["seed"]] = folder
        found.wrong[variant] = found.wrong.get(variant, 0) + np.asarray(test["wrong_by_group"], dtype=np.float64)
        if "norms" in test:
            norms.setdefault(variant, []).append(np.array(test["norms"], dtype=np.float64))
    datasets = sorted({row.dataset for row in found.rows})
    if len(datasets) > 1:
        raise UserError(f"Evaluations of different data sets cannot stand in one report: {', '.join(datasets)}")
    found.norms = {variant: np.mean(several, axis=0) for variant, several in norms.items()}
    return found


def _data_of(metrics: Mapping[str, Any]) -> tuple[list[int], dict[str, int]]:
    """What tells data sets and class orders apart: training images of each class, images of each split."""
    return metrics["class_counts"], {name: scores["images"] for name, scores in metrics["splits"].items()}


def _check_same_data(first: tuple[Path, Any], other: tuple[Path, Any]) -> None:
    """Heads of one class order were evaluated on the same images."""
    if first[1] != other[1]:
        (counts, images), (other_counts, other_images) = first[1], other[1]
        raise UserError(
            f"{first[0] / 'metrics.json'} is of {len(counts):,} classes with {sum(counts):,} training images and "
            f"scores {_listed(images)}, {other[0] / 'metrics.json'} of {len(other_counts):,} classes with "
            f"{sum(other_counts):,} and {_listed(other_images)}: they are of different data sets or class orders, and "
            f"cannot stand in one report. Evaluate the wrong one again: delete its folder and run the workflow"
        )


def _listed(images: Mapping[str, int]) -> str:
    return " and ".join(f"{number:,} images of {split}" for split, number in images.items())
