"""Figures in the style of mem.style: each function gives one picture, as SVG and PNG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mem.data.show import histogram
from mem.longtail import SHOT_NAMES
from mem.metrics import Interval
from mem.report.results import SHOTS
from mem.style import MATPLOTLIB, SERIES, SHOT_COLOURS

Curve = Sequence[tuple[float, float]]
Summary = Mapping[str, Mapping[str, Interval]]
PNG_DPI = 160
WIDTH = 6.4
TICKS = 8
"""Up to so many values of a setting have a tick each."""
_INK = "#222222"


@dataclass(frozen=True)
class Picture:
    """A drawn figure."""

    svg: str
    png: bytes


def class_histogram(counts: Sequence[int], groups: np.ndarray, names: Sequence[str]) -> Picture:
    """Training images per class, most frequent first, coloured by shot, on a logarithmic axis."""
    with _style():
        return _picture(histogram(np.asarray(counts), groups, names))


def shot_bars(summary: Summary) -> Picture:
    """Accuracy of each method by shot, with intervals: the paper's figure 3."""
    with _style():
        figure, axes = _figure(max(WIDTH, 0.75 * len(summary)), 3.4)
        grouped = {shot: [scores[shot] for scores in summary.values()] for shot in SHOTS}
        _grouped_bars(axes, list(summary), grouped, dict(SHOT_COLOURS))
        axes.set_ylabel("accuracy on test, %")
        axes.legend(ncols=len(SHOTS), loc="upper center", bbox_to_anchor=(0.5, 1.16))
        return _picture(figure)


def oracle_bars(plain: Summary, oracle: Summary) -> Picture:
    """Accuracy among all classes, and among those of the true shot: the paper's figure 1b, one panel a method."""
    with _style():
        figure = Figure(figsize=(WIDTH, 0.6 + 2.0 * -(-len(plain) // 3)), layout="constrained")
        panels = list(_panels(figure, len(plain)))
        for axes, variant in zip(panels, plain, strict=True):
            both = {
                "all classes": [plain[variant][shot] for shot in SHOTS],
                "shot given": [oracle[variant][f"oracle_{shot}"] for shot in SHOTS],
            }
            _grouped_bars(axes, list(SHOTS), both, {"all classes": SERIES[0], "shot given": SERIES[4]})
            axes.set_title(variant, fontsize=10)
            axes.tick_params(labelsize=8)
            axes.tick_params(axis="x", labelsize=7)
        figure.legend(*panels[0].get_legend_handles_labels(), ncols=2, loc="outside upper center")
        figure.supylabel("accuracy on test, %", fontsize=9)
        return _picture(figure)


def halves(
    variant: str,
    share: np.ndarray,
    plain: Mapping[str, Interval],
    oracle: Mapping[str, Interval],
    mem: tuple[str, Mapping[str, Interval]] | None = None,
) -> Picture:
    """The paper's figure 1: where a method's errors land, and what knowing the shot would be worth.

    Args:
        variant: The method's name.
        share: Of the wrong images of each shot, the percentage in each shot.
        plain: Its accuracy among all classes.
        oracle: Its accuracy with the shot given.
        mem: A MEM head's name and accuracy: the paper's third column.
    """
    with _style({"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
        _matrix(left, f"{variant}: errors of each shot, %", share, 100, "{:.1f}", SHOT_NAMES, SHOT_NAMES)
        left.title.set_fontsize(9)
        left.set_ylabel("true shot")
        left.set_xlabel("shot of the wrong prediction")
        columns = {
            variant: [plain[shot] for shot in SHOTS],
            f"{variant}, shot given": [oracle[f"oracle_{shot}"] for shot in SHOTS],
        }
        colours: dict[str, str] = dict(zip(columns, (SERIES[0], SERIES[4]), strict=True))
        if mem is not None:
            name, scores = mem
            columns[name], colours[name] = [scores[shot] for shot in SHOTS], SERIES[2]
        _grouped_bars(right, list(SHOTS), columns, colours)
        right.set_ylabel("accuracy on test, %")
        right.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.2), fontsize=9, columnspacing=1.2)
        return _picture(figure)


def curves(lines: Mapping[str, Curve], x: str, y: str) -> Picture:
    """Curves of one metric, one line a run; many runs are drawn alike, without names."""
    few = len(lines) <= len(SERIES)
    with _style():
        figure, axes = _figure(WIDTH, 2.8)
        for i, (name, points) in enumerate(lines.items()):
            horizontal, vertical = zip(*points, strict=True) if points else ((), ())
            colour = SERIES[i % len(SERIES)] if few else SERIES[0]
            axes.plot(horizontal, vertical, color=colour, linewidth=1.6, alpha=1 if few else 0.4, label=name)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        if 1 < len(lines) and few:
            axes.legend()
        return _picture(figure)


def group_confusion(shares: Mapping[str, np.ndarray]) -> Picture:
    """Where each shot's wrong predictions land, in percent, one panel a method: the paper's figure 1a."""
    with _style({"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 0.5 + 2.1 * -(-len(shares) // 3)), layout="constrained")
        for axes, (name, share) in zip(_panels(figure, len(shares)), shares.items(), strict=True):
            _matrix(axes, name, share, 100, "{:.0f}", SHOT_NAMES, SHOT_NAMES)
        _label_all(figure, "shot of the wrong prediction", "true shot")
        return _picture(figure)


def norms(means: Mapping[str, np.ndarray], names: Mapping[str, Sequence[str]]) -> Picture:
    """Mean norm of each of MEM's sub-networks on the images of each group, one panel a head."""
    with _style({"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 0.5 + 2.1 * -(-len(means) // 3)), layout="constrained")
        for axes, (variant, values) in zip(_panels(figure, len(means)), means.items(), strict=True):
            top = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
            _matrix(axes, variant, values, top, "{:.1f}", names[variant], names[variant])
        _label_all(figure, "sub-network", "true group")
        return _picture(figure)


def ablation_panels(panels: Mapping[str, tuple[Sequence[object], Sequence[Mapping[str, Interval]]]]) -> Picture:
    """Accuracy by shot over the values of one setting, a panel a setting: the paper's figure 4.

    Args:
        panels: For each setting its values, and the scores of each. Numbers make lines, anything else bars.
    """
    with _style():
        columns = min(2, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(WIDTH, 0.5 + 2.5 * rows), layout="constrained")
        drawn = list(_panels(figure, len(panels), columns))
        for axes, (setting, (values, scores)) in zip(drawn, panels.items(), strict=True):
            by_shot = {shot: [score[shot] for score in scores] for shot in SHOTS}
            if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
                _lines_over(axes, [float(value) for value in values if isinstance(value, int | float)], by_shot)
            else:
                _grouped_bars(axes, [str(value) for value in values], by_shot, dict(SHOT_COLOURS))
            axes.set_xlabel(setting)
        figure.legend(*drawn[0].get_legend_handles_labels(), ncols=len(SHOTS), loc="outside upper center")
        figure.supylabel("accuracy on test, %", fontsize=9)
        return _picture(figure)


def nothing(text: str) -> Picture:
    """A figure that says why there is none."""
    with _style({"axes.grid": False}):
        figure, axes = _figure(WIDTH, 1.4)
        axes.set_axis_off()
        axes.text(0.5, 0.5, textwrap.fill(text, 70), ha="center", va="center", color="#5f6368")
        return _picture(figure)


# --- parts ---------------------------------------------------------------------------------------------


def _grouped_bars(
    axes: Axes, places: Sequence[str], groups: Mapping[str, Sequence[Interval]], colours: Mapping[str, str]
) -> None:
    width = 0.8 / len(groups)
    for i, (name, scores) in enumerate(groups.items()):
        means = np.array([score.mean for score in scores])
        errors = np.array([score.half_width or 0.0 for score in scores])
        at = np.arange(len(places)) + (i - (len(groups) - 1) / 2) * width
        axes.bar(at, means, width * 0.92, color=colours[name], label=name)
        if errors.any():
            axes.errorbar(at, means, errors, fmt="none", ecolor=_INK, elinewidth=1, capsize=2)
    crowded = sum(map(len, places)) > 11 * axes.get_figure(root=True).get_figwidth()  # type: ignore[union-attr]
    axes.set_xticks(range(len(places)), [str(place).replace("_", "\n") for place in places])
    if crowded:
        for label in axes.get_xticklabels():
            label.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_ylim(0, 100)
    axes.grid(axis="x", visible=False)


def _lines_over(axes: Axes, values: Sequence[float], by_shot: Mapping[str, Sequence[Interval]]) -> None:
    for shot, scores in by_shot.items():
        means = [score.mean for score in scores]
        errors = [score.half_width or 0.0 for score in scores]
        axes.errorbar(values, means, errors, color=SHOT_COLOURS[shot], marker="o", markersize=4, capsize=2, label=shot)
    smallest, largest = min(values), max(values)
    if smallest > 0 and largest / smallest >= 8:
        axes.set_xscale("log")
    if len(values) <= TICKS:
        axes.set_xticks(list(values), [f"{value:g}" for value in values])
        axes.minorticks_off()


def _matrix(
    axes: Axes,
    title: str,
    values: np.ndarray,
    top: float,
    text: str,
    rows: Sequence[str],
    columns: Sequence[str],
) -> None:
    axes.imshow(np.nan_to_num(values), cmap="Blues", vmin=0, vmax=top)
    for i, j in np.ndindex(values.shape):
        if not np.isnan(values[i, j]):
            colour = "white" if values[i, j] > 0.55 * top else _INK
            axes.text(j, i, text.format(values[i, j]), ha="center", va="center", color=colour)
    axes.set_title(title, fontsize=10 if len(title) < 18 else 7)
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _panels(figure: Figure, number: int, most: int = 3) -> Iterator[Axes]:
    """So many axes on a grid; the rest of the grid stays empty."""
    columns = min(number, most)
    grid = figure.subplots(-(-number // columns), columns, squeeze=False)
    for i, axes in enumerate(grid.flat):
        if i < number:
            yield axes
        else:
            axes.set_axis_off()


def _label_all(figure: Figure, x: str, y: str) -> None:
    """Labels that all panels share; a single panel in the middle has them beside it."""
    if len(figure.axes) == 1:
        figure.axes[0].set_xlabel(x, fontsize=9)
        figure.axes[0].set_ylabel(y, fontsize=9)
    else:
        figure.supxlabel(x, fontsize=9)
        figure.supylabel(y, fontsize=9)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


@contextmanager
def _style(changes: Mapping[str, object] | None = None) -> Iterator[None]:
    with mpl.rc_context(MATPLOTLIB | dict(changes or {})):
        yield


def _picture(figure: Figure) -> Picture:
    text, pixels = io.StringIO(), io.BytesIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    figure.savefig(pixels, format="png", dpi=PNG_DPI, metadata={"Software": None})
    content = text.getvalue()
    return Picture(content[content.index("<svg") :], pixels.getvalue())
