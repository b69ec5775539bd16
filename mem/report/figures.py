"""Figures, as SVG, in the style of mem.style."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mem.data.show import histogram
from mem.longtail import SHOT_NAMES
from mem.report.results import SHOTS, Interval
from mem.style import MATPLOTLIB, SERIES, SHOT_COLOURS

Curve = Sequence[tuple[float, float]]


def class_histogram(counts: Sequence[int], groups: np.ndarray, names: Sequence[str]) -> str:
    """Training images per class, most frequent first, coloured by shot, on a logarithmic axis."""
    with mpl.rc_context(MATPLOTLIB):
        return _svg(histogram(np.asarray(counts), groups, names))


def shot_bars(summary: Mapping[str, Mapping[str, Interval]]) -> str:
    """Accuracy of each method by shot, with intervals: the paper's figure 3."""
    with mpl.rc_context(MATPLOTLIB):
        figure, axes = _figure(6.4, 3.4)
        width = 0.8 / len(SHOTS)
        for s, shot in enumerate(SHOTS):
            means = np.array([scores[shot].mean for scores in summary.values()])
            errors = np.array([scores[shot].half_width or 0.0 for scores in summary.values()])
            places = np.arange(len(summary)) + (s - (len(SHOTS) - 1) / 2) * width
            axes.bar(places, means, width * 0.92, color=SHOT_COLOURS[shot], label=shot)
            if errors.any():
                axes.errorbar(places, means, errors, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
        axes.set_xticks(range(len(summary)), [*summary])
        axes.set_ylabel("accuracy on test, %")
        axes.set_ylim(0, 100)
        axes.grid(axis="x", visible=False)
        axes.legend(ncols=len(SHOTS), loc="upper center", bbox_to_anchor=(0.5, 1.16))
        return _svg(figure)


def curves(lines: Mapping[str, Curve], x: str, y: str) -> str:
    """Curves of one metric, one line a run."""
    with mpl.rc_context(MATPLOTLIB):
        figure, axes = _figure(6.4, 2.8)
        for i, (name, points) in enumerate(lines.items()):
            horizontal, vertical = zip(*points, strict=True) if points else ((), ())
            axes.plot(horizontal, vertical, color=SERIES[i % len(SERIES)], linewidth=1.6, label=name)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if len(lines) > 1:
            axes.legend()
        return _svg(figure)


def group_confusion(shares: Mapping[str, np.ndarray]) -> str:
    """Where each shot's wrong predictions land, in percent, one panel a method: the paper's figure 1a."""
    columns = min(len(shares), 3)
    rows = -(-len(shares) // columns)
    with mpl.rc_context({**MATPLOTLIB, "axes.grid": False}):
        figure = Figure(figsize=(6.4, 0.5 + 2.1 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for axes, (name, share) in zip(panels.flat, shares.items(), strict=False):
            _confusion_panel(axes, name, share)
        figure.supylabel("true shot", fontsize=9)
        figure.supxlabel("shot of the wrong prediction", fontsize=9)
        return _svg(figure)


def _confusion_panel(axes: Axes, name: str, share: np.ndarray) -> None:
    axes.set_axis_on()
    axes.imshow(np.nan_to_num(share), cmap="Blues", vmin=0, vmax=100)
    for i, j in np.ndindex(share.shape):
        if not np.isnan(share[i, j]):
            colour = "white" if share[i, j] > 55 else "#222222"
            axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", color=colour)
    axes.set_title(name, fontsize=10)
    axes.set_xticks(range(len(SHOT_NAMES)), SHOT_NAMES, fontsize=8)
    axes.set_yticks(range(len(SHOT_NAMES)), SHOT_NAMES, fontsize=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    content = text.getvalue()
    return content[content.index("<svg") :]
