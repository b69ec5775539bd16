"""Select a study's best head by its scores on val."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mem.config import Study
from mem.errors import UserError
from mem.report.ranking import val_score
from mem.runs.dag import SELECT, Run, study_runs


@dataclass(frozen=True)
class SelectedHead:
    """The run of the selected head, and the reason for the selection as text."""

    run: Run
    reason: str
    evaluation: Run
    """The evaluation of the head, whose predictions the exported model makes."""


def best_head(study: Study, root: Path, variant: str | None = None) -> SelectedHead:
    """Return the variant with the highest score on val, averaged over seeds and class orders, and its best run.

    The score is the mean per-class accuracy, as in the report. Scores on test are not used. In a tie, the first run of
    the study is selected. In a study with `selection`, the scores are those of the branch `select`, and the
    run is the refitted head. A transductive head is selected only by its name, because it was adapted to the test
    images.

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
    # The order of the runs decides in a tie, as in the report.
    names = dict.fromkeys(str(run.labels["variant"]) for run in evaluations)
    selectable = {variant} if variant else {name for name, head in study.heads.items() if not head.transductive}
    if not selectable:
        raise UserError(
            f"Study {study.study} has only transductive heads, which were adapted to the test images and cannot be "
            "selected on val. Specify the head with --head."
        )
    scores: dict[str, list[_RunScore]] = {name: [] for name in names if name in selectable}
    val_runs = {_place(run): run for run in evaluations if run.labels.get("branch") == SELECT}
    for run in evaluations:
        name = str(run.labels["variant"])
        if name in scores and run.labels.get("branch") != SELECT:
            scores[name].append(_run_score(root, run, val_runs.get(_place(run), run)))
    if variant is None and any(math.isnan(score.balanced) for found in scores.values() for score in found):
        raise UserError(
            f"Study {study.study} has no val split to select a head on, and test must not be used for selection. "
            "Specify the head with --head."
        )
    means = {
        name: val_score(
            [score.balanced for score in found],
            [score.image_error for score in found],
            [int(score.run.labels["order"]) for score in found],
        )
        for name, found in scores.items()
    }
    best = variant or max(means, key=lambda name: means[name].mean)
    selected = max(scores[best], key=lambda score: score.balanced)
    if math.isnan(selected.balanced):
        # The branch `select`, whose scores are those on val, has no transductive heads.
        left_out = study.selection is not None and study.heads[best].transductive
        cause = "transductive, so it has no score on val" if left_out else "there is no val split"
        reason = f"{best}, selected with --head; {cause}"
        return SelectedHead(selected.run.inputs["head"], reason, selected.run)
    error = means[best].standard_error
    mean = f"{means[best].mean:.2f} %" + ("" if error is None else f" (standard error {error:.2f})")
    runs = len(scores[best])
    this_run = f", mean of {runs} runs, this run {selected.balanced:.2f} %" if runs > 1 else ""
    selection = "selected with --head" if variant else f"the best of {len(means)}"
    reason = f"{best}, {selection}: mean per-class accuracy on val {mean}{this_run}"
    return SelectedHead(selected.run.inputs["head"], reason, selected.run)


def _place(run: Run) -> tuple[str | int, ...]:
    """Return the head, class order and seed of an evaluation, which the branches of a study have in common."""
    return tuple(run.labels[name] for name in ("variant", "order", "seed"))


class _RunScore(NamedTuple):
    """Mean per-class accuracy of an evaluate run on val, in percent; NaN if there is no val split."""

    run: Run
    balanced: float
    image_error: float
    """Standard error due to the sampling of the val images; NaN if an earlier version evaluated the head."""


def _run_score(root: Path, run: Run, val_run: Run) -> _RunScore:
    """Return the score of a run, which `val_run` computed: the same run, or that of the branch `select`."""
    path = root / val_run.folder / "metrics.json"
    try:
        val = json.loads(path.read_text())["splits"].get("val", {})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run the study first.") from None
    balanced, error = (math.nan if val.get(name) is None else float(val[name]) for name in ("balanced", "balanced_se"))
    return _RunScore(run, balanced, error)
