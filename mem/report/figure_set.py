"""Which figures a report has, from what a study's runs left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mem import config, longtail
from mem.report import figures
from mem.report.ablation import ablations
from mem.report.collect import StudyResults
from mem.report.cost import words
from mem.report.differences import shown
from mem.report.page import Figure, Photo
from mem.report.results import SHOTS, summarised
from mem.runs.dag import Run, data_run
from mem.runs.folder import RunFolder
from mem.tracking.log import read_curve

BARS = 12
"""Methods of the bar chart."""
PANELS = 9
"""Methods of figures with a panel each."""
ORACLE = tuple(f"oracle_{shot}" for shot in SHOTS)
RECONSTRUCTIONS = "reconstructions"


def build_figures(
    study: config.Study, runs: Sequence[Run], manifest: Mapping[str, Any], found: StudyResults
) -> list[Figure]:
    """The figures of a study's report, most wanted first."""
    rows = found.rows
    barred, panelled = shown(rows, BARS), shown(rows, PANELS)
    summary = summarised(rows, "test")
    left_out = len(summary) - len(barred)
    of_many = f" CE, the reference and the best on val; {left_out} more are in the tables." if left_out else ""
    drawn = [
        Figure(
            "shots",
            "Accuracy by shot",
            f"Mean over the classes of each shot ({study.shots}), and over all images of the test split (the paper's "
            f"figure 3).{of_many}",
            figures.shot_bars({variant: summary[variant] for variant in barred}),
        ),
        Figure(
            "confusion",
            "Where wrong predictions land",
            "Of the test images of each shot that are wrong, the percentage predicted as a class of each shot "
            "(the paper's figure 1a), summed over seeds and orders.",
            figures.group_confusion(found.confusion(panelled)),
        ),
        Figure(
            "oracle",
            "What knowing the shot would be worth",
            "Accuracy by shot among all classes, and when the image's shot is given, so that only its classes compete "
            "(the paper's figure 1b).",
            figures.oracle_bars(
                {variant: summary[variant] for variant in panelled},
                {
                    variant: scores
                    for variant, scores in summarised(rows, "test", ORACLE).items()
                    if variant in panelled
                },
            ),
        ),
    ]
    if found.norms:
        drawn.append(_norms(study, found, panelled))
    drawn += _ablations(study, found)
    drawn.append(_histogram(study, runs, manifest))
    return drawn + _curves(runs)


def reconstruction_photos(runs: Sequence[Run]) -> list[Photo]:
    """The first and the last picture of reconstructions of the first pretraining that kept some."""
    for run in runs:
        sheets = sorted((run.folder / RECONSTRUCTIONS).glob("step-*.png")) if run.stage == "pretrain" else []
        if sheets:
            where = "Original, masked and reconstructed training images"
            chosen = dict.fromkeys((sheets[0], sheets[-1]))
            return [
                Photo(f"{where}, {sheet.stem.replace('-', ' ')}; {words(run)}.", sheet.read_bytes()) for sheet in chosen
            ]
    return []


def _norms(study: config.Study, found: StudyResults, preferred: Sequence[str]) -> Figure:
    chosen = [variant for variant in preferred if variant in found.norms] or list(found.norms)[:PANELS]
    names: dict[str, Sequence[str]] = {}
    for variant in chosen:
        head = study.heads[variant]
        by_shot = isinstance(head, config.Mem) and head.partition == "shot"
        names[variant] = longtail.SHOT_NAMES if by_shot else [str(g) for g in range(len(found.norms[variant]))]
    return Figure(
        "norms",
        "What the sub-networks tell apart",
        "Mean norm of each sub-network on the test images of each group of MEM's partition, over seeds and orders: "
        "where the diagonal stands out, the norms know the group.",
        figures.norms({variant: found.norms[variant] for variant in chosen}, names),
    )


def _ablations(study: config.Study, found: StudyResults) -> list[Figure]:
    summary = summarised(found.rows, "test")
    panels = {
        one.setting: (one.values, [summary[variant] for variant in one.variants]) for one in ablations(study.heads)
    }
    if not panels:
        return []
    caption = (
        "MEM heads that differ in one setting only, all else as in the head that is named mem, or in the largest such "
        "family (the paper's figure 4)."
    )
    return [Figure("ablations", "One setting at a time", caption, figures.ablation_panels(panels))]


def _histogram(study: config.Study, runs: Sequence[Run], manifest: Mapping[str, Any]) -> Figure:
    counts = np.asarray(manifest["splits"]["train"]["counts"])
    order = data_run(runs).labels["order"]
    several = f" Class order {order}." if len(study.orders) > 1 else ""
    return Figure(
        "histogram",
        "The data",
        f"{counts.sum():,} training images in {len(counts)} classes, imbalance {manifest['imbalance']:.0f}.{several}",
        figures.class_histogram(counts.tolist(), longtail.shot_groups(counts, study.shots), manifest["classes"]),
    )


def _curves(runs: Sequence[Run]) -> list[Figure]:
    drawn: list[Figure] = []
    for stage, metric, title, what in (
        ("pretrain", "train/loss", "Pretraining", "reconstruction loss"),
        ("finetune", "val/acc1", "Finetuning", "accuracy on val, %"),
    ):
        # Without val there is no curve of the accuracy on it.
        lines = {words(run): line for run in runs if run.stage == stage and (line := _by_epoch(run, metric))}
        if lines:
            caption = f"{what[0].upper() + what[1:]} over the epochs of {title.lower()}."
            drawn.append(Figure(stage, title, caption, figures.curves(lines, "epoch", what)))
    return drawn


def _by_epoch(run: Run, metric: str) -> list[tuple[float, float]]:
    log = RunFolder(run.folder).log
    epochs = read_curve(log, "train/epoch")
    if not epochs:
        return []
    steps_per_epoch = epochs[-1][0] / epochs[-1][1]
    return [(step / steps_per_epoch, value) for step, value in read_curve(log, metric)]
