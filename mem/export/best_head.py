"""Select a study's best head by its scores on val."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mem.config import Study
from mem.errors import UserError
from mem.runs.dag import Run, study_runs


@dataclass(frozen=True)
class SelectedHead:
    """The run of the selected head, and the reason for the selection as text."""

    run: Run
    reason: str


def best_head(study: Study, root: Path, variant: str | None = None) -> SelectedHead:
    """Return the variant with the highest accuracy on val, averaged over seeds and class orders, and its best run.

    Scores on test are not used. In a tie, the first variant or run in the study is selected.

    Args:
        study: A study whose evaluations are finished.
        root: Parent folder of `runs/`.
        variant: Select only among the runs of this variant.

    Raises:
        UserError: An evaluation is missing, the variant is unknown, or there is no val split to select on.
    """
    evaluations = [run for run in study_runs(study) if run.stage == "evaluate"]
    if variant is not None and variant not in study.heads:
        raise UserError(f"Study {study.study} has no head {variant}. Available heads: {', '.join(study.heads)}.")
    accuracies: dict[str, list[tuple[float, Run]]] = {name: [] for name in study.heads if variant in (None, name)}
    for run in evaluations:
        name = str(run.labels["variant"])
        if name in accuracies:
            accuracies[name].append((_val_accuracy(root / run.folder), run))
    if variant is None and any(np.isnan(accuracy) for found in accuracies.values() for accuracy, _ in found):
        raise UserError(
            f"Study {study.study} has no val split to select a head on, and test must not be used for selection. "
            "Specify the head with --head."
        )
    means = {name: float(np.mean([accuracy for accuracy, _ in found])) for name, found in accuracies.items()}
    best = variant or max(means, key=lambda name: means[name])
    accuracy, run = max(accuracies[best], key=lambda pair: pair[0])
    if np.isnan(accuracy):
        return SelectedHead(run.inputs["head"], f"{best}, selected with --head; there is no val split")
    runs = len(accuracies[best])
    scores = (
        f"mean of {runs} runs {means[best]:.2f} % on val, this run {accuracy:.2f} %"
        if runs > 1
        else f"{accuracy:.2f} % on val"
    )
    selection = "selected with --head" if variant else f"the best of {len(means)}"
    return SelectedHead(run.inputs["head"], f"{best}, {selection}: {scores}")


def _val_accuracy(folder: Path) -> float:
    """Return the accuracy on val in percent, or NaN if there is no val split."""
    try:
        splits = json.loads((folder / "metrics.json").read_text())["splits"]
    except FileNotFoundError:
        raise UserError(f"{folder}/metrics.json: no such file. Run the study first.") from None
    accuracy = splits["val"]["accuracy"]["all"] if "val" in splits else None
    return float("nan") if accuracy is None else float(accuracy)
