"""The figures in a study's report, with their titles and captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mem import config, longtail
from mem.report import figures
from mem.report.ablation import find_ablations
from mem.report.captions import error_bars, summed_over_runs
from mem.report.collect import StudyResults
from mem.report.crop_marks import crops_mark
from mem.report.page import CaptionedFigure
from mem.report.ranking import variants_to_plot
from mem.report.results import summarise
from mem.report.tables import ORACLE
from mem.report.transductive import marked_text, transductive_heads
from mem.runs.dag import Run, data_run

MAX_METHODS = 12
"""Maximum number of methods in the figure of accuracies by shot group."""
FITTED_AXIS = " The accuracy axis is fitted to the data and does not start at 0."
MAX_PANELS = 9
"""Maximum number of methods in figures with one panel per method."""
FIGURE_SECTIONS = {
    "shots": "accuracy",
    "confusion": "shot-groups",
    "oracle": "shot-groups",
    "norms": "shot-groups",
    "ablations": "ablations",
    "histogram": "training",
}
"""Section of the page that contains each figure."""


def build_figures(
    study: config.Study, runs: Sequence[Run], manifest: Mapping[str, Any], results: StudyResults
) -> list[CaptionedFigure]:
    """Return the figures of a study's report, most important first.

    Args:
        study: The study.
        runs: All runs of the study except the report.
        manifest: Recorded results of the convert run.
        results: Scores of all heads.
    """
    rows = results.rows
    point_variants, panel_variants = variants_to_plot(rows, MAX_METHODS), variants_to_plot(rows, MAX_PANELS)
    summary = summarise(rows, "test")
    oracle = summarise(rows, "test", ORACLE)
    omitted = len(summary) - len(point_variants)
    selection = (
        f" The figure shows CE, the reference and the best methods on val; the tables list {omitted} more."
        if omitted
        else ""
    )
    bars = error_bars(rows)
    transductive = transductive_heads(rows)
    label = {variant: marked_text(variant, transductive) for variant in summary}
    errors = {label[v]: (results.wrong_counts[v], results.shot_images.get(v)) for v in panel_variants}
    report_figures = [
        CaptionedFigure(
            "shots",
            "Accuracy by shot group",
            f"Accuracy on test, as in the paper's figure 3. The accuracy of a shot group is the mean over its classes "
            f"({study.shots}); `all` is the accuracy over all images.{FITTED_AXIS}{bars}{selection}",
            figures.shot_points({label[variant]: summary[variant] for variant in point_variants}),
        ),
        CaptionedFigure(
            "confusion",
            "Distribution of errors over shot groups",
            "Rows are the true shot groups of misclassified test images, columns the shot groups of their predictions, "
            "as in the paper's figure 1a: number of images, and percent of the errors of the row. n is the number of "
            f"test images of the shot group.{summed_over_runs(rows)}",
            figures.error_matrices(errors),
        ),
        CaptionedFigure(
            "oracle",
            "Accuracy with and without the oracle",
            "Accuracy with predictions among all classes, and with predictions restricted to the classes of the "
            f"image's true shot group (oracle), as in the paper's figure 1b.{FITTED_AXIS}{bars}",
            figures.oracle_points(
                {label[variant]: summary[variant] for variant in panel_variants},
                {label[variant]: oracle[variant] for variant in panel_variants},
            ),
        ),
    ]
    if results.mean_norms:
        report_figures.append(_norms(study, results, panel_variants))
    report_figures += _ablations(study, results)
    of_scores = [replace(figure, title=figure.title + crops_mark(rows)) for figure in report_figures]
    return [*of_scores, _histogram(study, runs, manifest)]


def _norms(study: config.Study, results: StudyResults, preferred: Sequence[str]) -> CaptionedFigure:
    variants = [v for v in preferred if v in results.mean_norms] or list(results.mean_norms)[:MAX_PANELS]
    group_names: dict[str, Sequence[str]] = {}
    for variant in variants:
        head = study.heads[variant]
        by_shot = isinstance(head, config.Mem) and head.partition == "shot"
        groups = len(results.mean_norms[variant])
        group_names[variant] = longtail.SHOT_NAMES if by_shot else [str(group) for group in range(groups)]
    return CaptionedFigure(
        "norms",
        "Norms of MEM's sub-networks",
        "Mean norm of each sub-network on the test images of each group of MEM's partition, averaged over seeds and "
        "class orders. A dominant diagonal means that the norms identify the group."
        f"{shared_norms(results.mean_norms)}",
        figures.norm_matrices({variant: results.mean_norms[variant] for variant in variants}, group_names),
    )


def shared_norms(mean_norms: Mapping[str, np.ndarray]) -> str:
    """Name the sets of heads whose norms agree to 0.1 %; empty if there are none.

    With the usual settings, the regularisation objective has a much larger gradient in the sub-networks than the
    classification loss (see docs/explanation/mem.md).
    """
    sets: list[list[str]] = []
    for variant, norms in mean_norms.items():
        for variants in sets:
            other = mean_norms[variants[0]]
            if other.shape == norms.shape and np.allclose(other, norms, rtol=1e-3, atol=0, equal_nan=True):
                variants.append(variant)
                break
        else:
            sets.append([variant])
    shared = "; ".join(", ".join(variants) for variants in sets if len(variants) > 1)
    return (
        f" These heads have the same norms to 0.1 %: {shared}. Almost only the regularisation objective trains their "
        "sub-networks, so their readings differ only in the fusion and the classifier."
        if shared
        else ""
    )


def _ablations(study: config.Study, results: StudyResults) -> list[CaptionedFigure]:
    summary = summarise(results.rows, "test")
    panels = {
        ablation.setting: (ablation.values, [summary[variant] for variant in ablation.variants])
        for ablation in find_ablations(study.heads)
    }
    if not panels:
        return []
    caption = (
        "MEM heads that differ in only one setting, as in the paper's figure 4. All other settings are those of the "
        f"head `mem`, or of the largest set of such heads.{FITTED_AXIS}{error_bars(results.rows)}"
    )
    return [CaptionedFigure("ablations", "One setting at a time", caption, figures.ablation_panels(panels))]


def _histogram(study: config.Study, runs: Sequence[Run], manifest: Mapping[str, Any]) -> CaptionedFigure:
    counts = training_counts(manifest, study)
    order = f" Class order {data_run(runs).labels['order']}." if len(study.orders) > 1 else ""
    return CaptionedFigure(
        "histogram",
        "Training images per class",
        f"{counts.sum():,} training images{' before the holdout' * has_holdout(study)} in {len(counts)} classes; "
        f"imbalance factor {counts.max() / max(counts.min(), 1):.0f}.{order}",
        figures.class_histogram(counts.tolist(), longtail.shot_groups(counts, study.shots), manifest["classes"]),
    )


def has_holdout(study: config.Study) -> bool:
    """Return whether the val split of a study is a holdout of its training images."""
    return not isinstance(study.dataset, config.FeatureFiles) and study.dataset.holdout is not None


def training_counts(manifest: Mapping[str, Any], study: config.Study) -> np.ndarray:
    """Return the number of training images of each class before a holdout, which define the shot groups.

    Args:
        manifest: Recorded results of the convert run or of a check of precomputed features.
        study: The study.
    """
    splits = ("train", "val") if has_holdout(study) else ("train",)
    return np.sum([manifest["splits"][split]["counts"] for split in splits], axis=0)
