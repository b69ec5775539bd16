"""Curves of the training of backbones and heads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mem.report import class_figures
from mem.report.chosen_methods import ChosenMethods
from mem.report.cost import run_label
from mem.report.page import CaptionedFigure
from mem.runs.dag import Run
from mem.runs.folder import RunFolder
from mem.tracking.log import read_curves

MAX_RUNS = 60
"""Maximum number of runs in a figure. Logs of further runs are not read, because long ones take time."""
LABELS = {"train/loss": "loss", "val/acc1": "accuracy on val, %"}
"""Axis labels of the metrics that are drawn."""
EPOCH = "train/epoch"
MAX_POINTS = 100
"""Maximum number of points of a line. If there are more, they are averaged over equal parts of the training."""
Curve = Sequence[tuple[float, float]]


def training_curves(runs: Sequence[Run], chosen: ChosenMethods) -> list[CaptionedFigure]:
    """Return the curves of pretraining, of finetuning and of the chosen heads that are trained.

    Figures have the loss on train and, if it was logged, the accuracy on val.
    """
    pretrained, finetuned, heads = (
        [run for run in runs if run.stage == stage] for stage in ("pretrain", "finetune", "train_head")
    )
    heads = [run for run in heads if run.labels["variant"] in chosen.shown]
    figures = [
        _figure("pretrain", "Pretraining", [(run, "reconstruction") for run in pretrained]),
        _figure("finetune", "Finetuning", [(run, str(run.labels.get("finetuning", "finetune"))) for run in finetuned]),
        _figure("heads", "Training of heads", [(run, str(run.labels["variant"])) for run in heads]),
    ]
    return [figure for figure in figures if figure is not None]


def _figure(name: str, title: str, names: Sequence[tuple[Run, str]]) -> CaptionedFigure | None:
    """Return a figure with one line per run, in the colour of its name; None if no run has a curve."""
    drawn = [(run, method, curves) for run, method in names[:MAX_RUNS] if any((curves := _curves(run)).values())]
    if not drawn:
        return None
    lines = {
        metric: [(method, curves[metric]) for _, method, curves in drawn if curves[metric]]
        for metric in LABELS
        if any(curves[metric] for *_, curves in drawn)
    }
    methods = dict.fromkeys(method for _, method, _ in drawn)
    shown = " on the training images" + " and accuracy on val" * ("val/acc1" in lines)
    sentences = [f"{'Reconstruction loss' if name == 'pretrain' else 'Loss'}{shown} by epoch."]
    if len(methods) > 1:
        sentences.append("Losses of different methods are not comparable.")
    if len(drawn) > len(methods):
        sentences.append(f"One line per run ({_first_and_last([run for run, *_ in drawn])}).")
    if len(names) > MAX_RUNS:
        sentences.append(f"The other {len(names) - MAX_RUNS} runs are not drawn.")
    if without := sorted({method for _, method in names[:MAX_RUNS]} - methods.keys()):
        sentences.append(f"Without training: {', '.join(without)}.")
    return CaptionedFigure(name, title, " ".join(sentences), class_figures.curve_panels(lines, LABELS))


def _first_and_last(runs: Sequence[Run]) -> str:
    labels = [run_label(run) for run in (runs[0], runs[-1])]
    return " to ".join(dict.fromkeys(labels))


def _curves(run: Run) -> dict[str, Curve]:
    """Return the loss and the accuracy on val by epoch; empty curves if the log is damaged."""
    try:
        found = read_curves(RunFolder(run.folder).log, (*LABELS, EPOCH))
    except (KeyError, TypeError, ValueError):
        return {metric: [] for metric in LABELS}
    epochs = found.pop(EPOCH)
    steps_per_epoch = epochs[-1][0] / epochs[-1][1] if epochs and epochs[-1][1] else 0.0
    if not steps_per_epoch:
        return {metric: [] for metric in LABELS}
    return {
        metric: _thinned([(step / steps_per_epoch, value) for step, value in points])
        for metric, points in found.items()
    }


def _thinned(points: Curve) -> Curve:
    if len(points) <= MAX_POINTS:
        return points
    edges = [round(i * len(points) / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    parts = [points[start:end] for start, end in itertools.pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
