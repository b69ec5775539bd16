"""Figures of the report, in the style of `mem.style`. Each function returns one figure as SVG and PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mem.data.show import histogram
from mem.longtail import SHOT_NAMES
from mem.metrics import Interval
from mem.report.plot_elements import (
    INK,
    WIDTH,
    RenderedFigure,
    grouped_points,
    is_crowded,
    lines_by_shot,
    matrix,
    panels,
    points_by_row,
    render,
    score_limits,
    shared_labels,
    single_axes,
    style,
    title_size,
)
from mem.report.results import SHOTS
from mem.style import SERIES, SHOT_COLOURS

Summary = Mapping[str, Mapping[str, Interval]]
"""Scores by variant and column, as returned by `mem.report.results.summarise`."""


def class_histogram(counts: Sequence[int], groups: np.ndarray, names: Sequence[str]) -> RenderedFigure:
    """Plot the training images per class on a logarithmic axis, sorted by frequency and coloured by shot group."""
    with style():
        return render(histogram(np.asarray(counts), groups, names))


def shot_points(summary: Summary) -> RenderedFigure:
    """Plot the accuracy of each method by shot group, as in the paper's figure 3. Long names are the labels of rows."""
    series = {shot: [scores[shot] for scores in summary.values()] for shot in SHOTS}
    with style():
        if is_crowded(list(summary), WIDTH):
            figure, axes = single_axes(WIDTH, 1.0 + 0.42 * len(summary))
            points_by_row(axes, list(summary), series)
            axes.set_xlabel("accuracy on test, %")
        else:
            figure, axes = single_axes(WIDTH, 3.4)
            grouped_points(axes, list(summary), series, dict(SHOT_COLOURS))
            axes.set_ylabel("accuracy on test, %")
        figure.legend(*axes.get_legend_handles_labels(), ncols=len(SHOTS), loc="outside upper center")
        return render(figure)


def oracle_points(accuracy: Summary, oracle: Summary) -> RenderedFigure:
    """Plot the accuracy and the oracle accuracy of each method by shot group, as in the paper's figure 1b.

    Each method has its own panel.
    """
    with style():
        figure = Figure(figsize=(WIDTH, 0.6 + 2.0 * -(-len(accuracy) // 3)), layout="constrained")
        method_panels = list(panels(figure, len(accuracy)))
        scores = [
            score for summary in (accuracy, oracle) for variant in accuracy for score in summary[variant].values()
        ]
        limits = score_limits(scores)
        for axes, variant in zip(method_panels, accuracy, strict=True):
            series = {
                "all classes": [accuracy[variant][shot] for shot in SHOTS],
                "shot given": [oracle[variant][f"oracle_{shot}"] for shot in SHOTS],
            }
            grouped_points(axes, list(SHOTS), series, {"all classes": SERIES[0], "shot given": SERIES[4]})
            axes.set_ylim(limits)
            axes.set_title(variant, fontsize=title_size(variant))
            axes.tick_params(labelsize=8)
            axes.tick_params(axis="x", labelsize=7)
        figure.legend(*method_panels[0].get_legend_handles_labels(), ncols=2, loc="outside upper center")
        figure.supylabel("accuracy on test, %", fontsize=9)
        return render(figure)


def paper_figure1(
    variant: str,
    error_shares: np.ndarray,
    accuracy: Mapping[str, Interval],
    oracle: Mapping[str, Interval],
    mem: tuple[str, Mapping[str, Interval]] | None = None,
) -> RenderedFigure:
    """Plot how a method's errors are distributed over shot groups, and its oracle accuracy, as in the paper's figure 1.

    Args:
        variant: Name of the method.
        error_shares: Percentage of misclassified images by true shot group (rows) and predicted shot group (columns).
        accuracy: Accuracy of the method when it predicts any class.
        oracle: Accuracy of the method when its predictions are restricted to the true shot group.
        mem: Name and accuracy of a MEM head, for the third series of points.
    """
    with style({"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
        matrix(left, f"{variant}: errors of each shot, %", error_shares, 100, "{:.1f}", SHOT_NAMES, SHOT_NAMES)
        left.title.set_fontsize(9)
        left.set_ylabel("true shot")
        left.set_xlabel("shot of the wrong prediction")
        series = {
            variant: [accuracy[shot] for shot in SHOTS],
            f"{variant}, shot given": [oracle[f"oracle_{shot}"] for shot in SHOTS],
        }
        colours: dict[str, str] = dict(zip(series, (SERIES[0], SERIES[4]), strict=True))
        if mem is not None:
            name, scores = mem
            series[name], colours[name] = [scores[shot] for shot in SHOTS], SERIES[2]
        grouped_points(right, list(SHOTS), series, colours)
        right.set_ylabel("accuracy on test, %")
        right.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.2), fontsize=9, columnspacing=1.2)
        return render(figure)


def error_matrices(errors: Mapping[str, tuple[np.ndarray, np.ndarray | None]]) -> RenderedFigure:
    """Plot how the errors of each shot group are distributed over shot groups, as in the paper's figure 1a.

    Each method has its own panel. A cell has the number of images and their percentage of the errors of the row.

    Args:
        errors: For each method, the numbers of errors by true (rows) and predicted (columns) shot group, and the number
            of test images of each true shot group, if known.
    """
    with style({"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 0.5 + 2.3 * -(-len(errors) // 3)), layout="constrained")
        for axes, (name, (counts, images)) in zip(panels(figure, len(errors)), errors.items(), strict=True):
            with np.errstate(invalid="ignore"):
                shares = 100 * counts / counts.sum(axis=1, keepdims=True)
            rows = [f"{shot}\nerrors: {row.sum():,.0f}" for shot, row in zip(SHOT_NAMES, counts, strict=True)]
            if images is not None:
                rows = [f"{row}\nn = {number:,.0f}" for row, number in zip(rows, images, strict=True)]
            matrix(axes, name, shares, 100, "", rows, SHOT_NAMES)
            axes.set_aspect("auto")
            for i, j in np.ndindex(counts.shape):
                if not np.isnan(shares[i, j]):
                    colour = "white" if shares[i, j] > 55 else INK
                    text = f"{counts[i, j]:,.0f}\n{shares[i, j]:.0f} %"
                    axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
        shared_labels(figure, "shot of the wrong prediction", "true shot")
        return render(figure)


def norm_matrices(mean_norms: Mapping[str, np.ndarray], group_names: Mapping[str, Sequence[str]]) -> RenderedFigure:
    """Plot the mean norm of each MEM sub-network on the images of each group, with one panel per head."""
    with style({"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 0.5 + 2.1 * -(-len(mean_norms) // 3)), layout="constrained")
        for axes, (variant, values) in zip(panels(figure, len(mean_norms)), mean_norms.items(), strict=True):
            maximum = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
            matrix(axes, variant, values, maximum, "{:.1f}", group_names[variant], group_names[variant])
        shared_labels(figure, "sub-network", "true group")
        return render(figure)


def ablation_panels(
    ablations: Mapping[str, tuple[Sequence[object], Sequence[Mapping[str, Interval]]]],
) -> RenderedFigure:
    """Plot accuracy by shot group over the values of a setting, as in the paper's figure 4, with one panel per setting.

    Args:
        ablations: The values of each setting, and the scores for each value. Numbers are plotted as lines, all other
            values as bars.
    """
    with style():
        columns = min(2, len(ablations))
        rows = -(-len(ablations) // columns)
        figure = Figure(figsize=(WIDTH, 0.5 + 2.5 * rows), layout="constrained")
        setting_panels = list(panels(figure, len(ablations), columns))
        for axes, (setting, (values, scores)) in zip(setting_panels, ablations.items(), strict=True):
            scores_by_shot = {shot: [score[shot] for score in scores] for shot in SHOTS}
            if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
                numbers = [float(value) for value in values if isinstance(value, int | float)]
                lines_by_shot(axes, numbers, scores_by_shot)
            else:
                grouped_points(axes, [str(value) for value in values], scores_by_shot, dict(SHOT_COLOURS))
            axes.set_xlabel(setting)
        figure.legend(*setting_panels[0].get_legend_handles_labels(), ncols=len(SHOTS), loc="outside upper center")
        figure.supylabel("accuracy on test, %", fontsize=9)
        return render(figure)


def placeholder(reason: str) -> RenderedFigure:
    """Return a figure that contains only text: the reason why there is nothing to plot."""
    with style({"axes.grid": False}):
        figure, axes = single_axes(WIDTH, 1.4)
        axes.set_axis_off()
        axes.text(0.5, 0.5, textwrap.fill(reason, 70), ha="center", va="center", color="#5f6368")
        return render(figure)
