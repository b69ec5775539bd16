"""Few-shot test images on which two methods differ, chosen by a rule that does not depend on their content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mem.data.show import evenly_spaced
from mem.longtail import SHOT_NAMES
from mem.metrics.predictions import Predictions
from mem.report.captions import over_runs
from mem.report.chosen_methods import ChosenMethods
from mem.report.page import CaptionedTable
from mem.report.pictures import CaptionedPictures, Picture, PictureGroup
from mem.report.run_predictions import RunPredictions
from mem.report.study_images import StudyImages

PICTURES = 8
"""Maximum number of pictures of each outcome."""
FEW = SHOT_NAMES.index("few")


def outcome_table(runs: Sequence[RunPredictions], chosen: ChosenMethods) -> CaptionedTable:
    """Return how many test images both methods, only one or neither classify correctly, by shot group."""
    assert chosen.baseline is not None
    counts = np.zeros((len(SHOT_NAMES) + 1, 4), dtype=np.int64)
    for run in runs:
        shots = run.shots[run.focus.labels]
        outcomes = np.stack(list(_outcomes(run).values()))
        for group in range(len(SHOT_NAMES)):
            counts[group] += outcomes[:, shots == group].sum(axis=1)
    counts[-1] = counts[:-1].sum(axis=0)
    header = ["shot group", "both right", f"only {chosen.focus}", f"only {chosen.baseline}", "both wrong", "n"]
    lines = [
        [name, *(f"{count:,} ({_percent(count, int(row.sum()))})" for count in row.tolist()), f"{row.sum():,}"]
        for name, row in zip((*SHOT_NAMES, "all"), counts, strict=True)
    ]
    caption = (
        f"Number of test images that both methods, only {chosen.focus} ({chosen.reason}), only {chosen.baseline} or "
        f"neither classify correctly{over_runs(len(runs))}; n is the number of test images."
    )
    return CaptionedTable(f"{chosen.focus} and {chosen.baseline} on the same images", caption, [header, *lines])


def few_shot_pictures(
    runs: Sequence[RunPredictions], chosen: ChosenMethods, names: Sequence[str], images: StudyImages
) -> CaptionedPictures:
    """Return pictures of few-shot test images of the first run, at even intervals for each outcome.

    Args:
        runs: Predictions of the runs; pictures are of the first one.
        chosen: The methods.
        names: Names of the classes.
        images: The images of the study.
    """
    assert chosen.baseline is not None
    run = runs[0]
    few = run.shots[run.focus.labels] == FEW
    titles = {
        "only focus": f"Only {chosen.focus} is right",
        "only baseline": f"Only {chosen.baseline} is right",
        "neither": "Both are wrong",
    }
    groups: list[PictureGroup] = []
    for outcome, title in titles.items():
        members = np.flatnonzero(_outcomes(run)[outcome] & few)
        in_order = members[np.argsort(run.focus.labels[members], kind="stable")].tolist()
        shown = evenly_spaced(in_order, PICTURES)
        share = f"{len(in_order):,} of n = {int(few.sum()):,} few-shot test images"
        groups.append(PictureGroup(title, share, [_picture(run, i, chosen, names, images) for i in shown]))
    caption = (
        f"Few-shot test images of class order {run.order}, seed {run.seed}. For each outcome, the images are sorted by "
        f"class and position in the test split, and up to {PICTURES} at even intervals are shown. Below each picture: "
        "the true class, and the wrong predictions with their probability."
    )
    return CaptionedPictures("Few-shot successes and failures", caption, groups)


def _outcomes(run: RunPredictions) -> Mapping[str, np.ndarray]:
    """Return for each outcome whether an image has it."""
    assert run.baseline is not None
    focus, baseline = run.focus.correct, run.baseline.correct
    return {
        "both": focus & baseline,
        "only focus": focus & ~baseline,
        "only baseline": ~focus & baseline,
        "neither": ~focus & ~baseline,
    }


def _picture(run: RunPredictions, i: int, chosen: ChosenMethods, names: Sequence[str], images: StudyImages) -> Picture:
    assert run.baseline is not None and chosen.baseline is not None
    label = int(run.focus.labels[i])
    wrong = [
        f"{method}: {_named_prediction(predictions, i, names)}"
        for method, predictions in ((chosen.focus, run.focus), (chosen.baseline, run.baseline))
        if not predictions.correct[i]
    ]
    name = "" if run.focus.names is None else run.focus.names[i]
    return Picture(images.picture(run.order, "test", i, label), "\n".join([f"true: {names[label]}", *wrong]), name)


def _named_prediction(predictions: Predictions, i: int, names: Sequence[str]) -> str:
    confidence = 100 * float(predictions.top_probabilities[i, 0])
    return f"{names[predictions.predictions[i]]} ({confidence:.0f}\N{NO-BREAK SPACE}%)"


def _percent(count: int, n: int) -> str:
    return f"{100 * count / n:.1f} %" if n else "-"
