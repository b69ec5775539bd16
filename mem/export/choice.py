"""Which head of a study is the best, by val alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mem.config import Study
from mem.errors import UserError
from mem.runs.dag import Run, study_runs


@dataclass(frozen=True)
class Choice:
    """A head's run, and why it was chosen."""

    run: Run
    reason: str


def best_head(study: Study, root: Path, variant: str | None = None) -> Choice:
    """The variant with the highest accuracy on val, mean over seeds and class orders, and of it the best run on val.

    Test has no part in it. Of equal ones the first in the study is taken.

    Args:
        study: Its evaluations must be finished.
        root: The folder that `runs/` is in.
        variant: Leave the choice of the variant, which is then this.

    Raises:
        UserError: An evaluation is missing, the variant is unknown, or there is no val split to choose by.
    """
    evaluations = [run for run in study_runs(study) if run.stage == "evaluate"]
    if variant is not None and variant not in study.heads:
        raise UserError(f"Study {study.study} has no head {variant}; it has {', '.join(study.heads)}")
    scores: dict[str, list[tuple[float, Run]]] = {name: [] for name in study.heads if variant in (None, name)}
    for run in evaluations:
        name = str(run.labels["variant"])
        if name in scores:
            scores[name].append((_on_val(root / run.folder), run))
    if variant is None and any(np.isnan(score) for found in scores.values() for score, _ in found):
        raise UserError(
            f"Study {study.study} has no val split to choose a head by, and test is not for choosing: name the head "
            "(--head)"
        )
    means = {name: float(np.mean([score for score, _ in found])) for name, found in scores.items()}
    best = variant or max(means, key=lambda name: means[name])
    score, run = max(scores[best], key=lambda pair: pair[0])
    if np.isnan(score):
        return Choice(run.inputs["head"], f"{best}, as named; there is no val split")
    runs = len(scores[best])
    over = (
        f"{means[best]:.2f} % on val over {runs} runs, this one {score:.2f} %" if runs > 1 else f"{score:.2f} % on val"
    )
    return Choice(run.inputs["head"], f"{best}, {'as named' if variant else 'the best of ' + str(len(means))}: {over}")


def _on_val(folder: Path) -> float:
    try:
        splits = json.loads((folder / "metrics.json").read_text())["splits"]
    except FileNotFoundError:
        raise UserError(f"{folder}/metrics.json: no such file: run the study first") from None
    accuracy = splits["val"]["accuracy"]["all"] if "val" in splits else None
    return float("nan") if accuracy is None else float(accuracy)
