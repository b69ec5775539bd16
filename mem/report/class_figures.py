"""Figures of the sections about classes: accuracy against training images, and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mem.longtail import SHOT_NAMES
from mem.report.class_accuracy import ClassScores, smooth_curve
from mem.report.plot_elements import WIDTH, RenderedFigure, panels, render, style
from mem.style import SERIES, SHOT_COLOURS

MAX_VECTOR_POINTS = 400
"""Maximum number of points of a panel that are drawn as vectors. More points are drawn as pixels, in a smaller file."""
LINE_COLOURS = ("#D55E00", "#009E73", "#56B4E9", "#4D4D4D")
"""Colours of the smooth lines, none of which is the colour of a shot group."""
LOG_FROM = 50
"""Ratio of the largest to the smallest value from which an axis of training curves is logarithmic."""
DASHES = ("-", "--", ":", "-.")
"""Styles of the lines of further methods, if there are more methods than colours."""
Curve = Sequence[tuple[float, float]]


def accuracy_by_class(scores: Sequence[ClassScores], variants: Sequence[str]) -> RenderedFigure:
    """Plot the accuracy of each class against its number of training images.

    The first panel compares the smooth lines of the methods. Each method has a further panel with one point per class
    and class order, coloured by shot group, and its smooth line.

    Args:
        scores: Accuracies of the classes for each class order.
        variants: The methods to plot.
    """
    images = np.concatenate([of_order.training_images for of_order in scores])
    shots = np.concatenate([of_order.shots for of_order in scores])
    accuracy = {v: np.concatenate([of_order.accuracy[v] for of_order in scores]) for v in variants}
    lines = {variant: smooth_curve(images, values) for variant, values in accuracy.items()}
    colours = {variant: LINE_COLOURS[i % len(LINE_COLOURS)] for i, variant in enumerate(variants)}
    lowest = min((float(np.nanmin(values)) for values in accuracy.values() if np.isfinite(values).any()), default=0.0)
    number = len(variants) + 1 if len(variants) > 1 else 1
    columns = 2 if number in (2, 4) else min(number, 3)
    with style():
        figure = Figure(figsize=(WIDTH, 0.8 + 2.2 * -(-number // columns)), layout="constrained")
        drawn = list(panels(figure, number, columns))
        for axes in drawn:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(
                LogLocator(subs=(1.0, 2.0, 5.0) if images.max() < 30 * images.min() else (1.0,))
            )
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlim(max(images.min(), 1) / 1.2, images.max() * 1.2)
            axes.set_ylim(10 * (lowest // 10) - 2, 102)
            axes.tick_params(labelsize=8)
        if len(variants) > 1:
            for variant in variants:
                drawn[0].plot(*lines[variant], color=colours[variant], linewidth=1.8, label=variant)
            drawn[0].set_title("smooth lines", fontsize=10)
            drawn[0].legend(fontsize=8, loc="lower right")
        for axes, variant in zip(drawn[-len(variants) :], variants, strict=True):
            _points(axes, images, accuracy[variant], shots)
            axes.plot(*lines[variant], color=colours[variant], linewidth=1.8)
            axes.set_title(variant, fontsize=10)
        handles = drawn[-1].get_legend_handles_labels()
        legend = figure.legend(*handles, ncols=len(SHOT_NAMES), loc="outside upper center", markerscale=1.5, fontsize=9)
        for handle in legend.legend_handles:
            handle.set_alpha(1)  # type: ignore[union-attr]
        figure.supxlabel("training images of the class", fontsize=9)
        figure.supylabel("accuracy on test, %", fontsize=9)
        return render(figure)


def _points(axes: Axes, images: np.ndarray, accuracies: np.ndarray, shots: np.ndarray) -> None:
    many = len(images) > MAX_VECTOR_POINTS
    for group, shot in enumerate(SHOT_NAMES):
        members = shots == group
        if members.any():
            axes.scatter(
                np.maximum(images[members], 1),
                accuracies[members],
                s=6 if many else 14,
                color=SHOT_COLOURS[shot],
                alpha=0.12 if many else 0.8,
                linewidths=0,
                rasterized=many,
                label=f"{shot}-shot class",
            )


def line_styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the colour and the dashes of each method's line. Methods of the same colour have different dashes."""
    return {
        name: {"color": SERIES[i % len(SERIES)], "linestyle": DASHES[i // len(SERIES) % len(DASHES)]}
        for i, name in enumerate(methods)
    }


def curve_panels(lines: Mapping[str, Sequence[tuple[str, Curve]]], labels: Mapping[str, str]) -> RenderedFigure:
    """Plot metrics during training, with one panel per metric and one line per run, coloured by method.

    Args:
        lines: For each metric, the method and the points of each run: epoch and value.
        labels: Axis label of each metric.
    """
    methods = list(dict.fromkeys(name for runs in lines.values() for name, _ in runs))
    styles = line_styles(methods)
    with style():
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        for axes, (metric, runs) in zip(panels(figure, len(lines)), lines.items(), strict=True):
            alpha = 1.0 if len(runs) <= len(methods) else 0.45
            for name, points in runs:
                axes.plot(*zip(*points, strict=True), **styles[name], linewidth=1.4, alpha=alpha)
            values = [value for _, points in runs for _, value in points]
            if min(values) > 0 and max(values) / min(values) > LOG_FROM:
                axes.set_yscale("log")
            axes.set_ylabel(labels[metric])
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        if len(methods) > 1:
            handles = [figure.axes[0].plot([], [], **styles[name], label=name)[0] for name in methods]
            figure.legend(handles=handles, ncols=min(len(methods), 4), loc="outside upper center", fontsize=9)
        return render(figure)
