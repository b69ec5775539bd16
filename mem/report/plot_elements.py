"""Plot elements shared by the report's figures: grouped bars, lines, matrices, panel grids, and rendering."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mem.metrics import Interval
from mem.style import MATPLOTLIB_SETTINGS, SHOT_COLOURS

PNG_DPI = 160
WIDTH = 6.4
"""Default width of a figure in inches."""
MAX_VALUE_TICKS = 8
"""Maximum number of values for which an axis has a tick at each value."""
INK = "#222222"


@dataclass(frozen=True)
class RenderedFigure:
    """A figure as SVG and PNG."""

    svg: str
    png: bytes


@contextmanager
def style(changes: Mapping[str, object] | None = None) -> Iterator[None]:
    """Apply the style defined in `mem.style`, with the given changes, to all figures created in the context."""
    with mpl.rc_context(MATPLOTLIB_SETTINGS | dict(changes or {})):
        yield


def render(figure: Figure) -> RenderedFigure:
    """Render a figure without dates and version numbers, so that equal figures produce identical files."""
    text, pixels = io.StringIO(), io.BytesIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    # The layout in relative coordinates is known now; computing it again takes as long as drawing.
    figure.set_layout_engine("none")
    figure.savefig(pixels, format="png", dpi=PNG_DPI, metadata={"Software": None})
    content = text.getvalue()
    return RenderedFigure(content[content.index("<svg") :], pixels.getvalue())


def single_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure with a single Axes. Width and height are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def panels(figure: Figure, number: int, max_columns: int = 3) -> Iterator[Axes]:
    """Yield the given number of Axes on a grid. Unused grid cells stay empty."""
    columns = min(number, max_columns)
    grid = figure.subplots(-(-number // columns), columns, squeeze=False)
    for i, axes in enumerate(grid.flat):
        if i < number:
            yield axes
        else:
            axes.set_axis_off()


def shared_labels(figure: Figure, x: str, y: str) -> None:
    """Add shared axis labels for all panels. A single panel gets its own labels."""
    if len(figure.axes) == 1:
        figure.axes[0].set_xlabel(x, fontsize=9)
        figure.axes[0].set_ylabel(y, fontsize=9)
    else:
        figure.supxlabel(x, fontsize=9)
        figure.supylabel(y, fontsize=9)


def score_limits(scores: Iterable[Interval]) -> tuple[float, float]:
    """Return limits of an axis in percent that are fitted to scores and their intervals."""
    bounds = [
        bound
        for score in scores
        if not np.isnan(score.mean)
        for bound in (score.mean - (score.half_width or 0.0), score.mean + (score.half_width or 0.0))
    ]
    if not bounds:
        return 0.0, 100.0
    low, high = max(0.0, min(bounds)), min(100.0, max(bounds))
    margin = max(0.08 * (high - low), 0.5)
    # Up to 100 and down to 0, a margin keeps the markers complete.
    return low - margin, high + margin


def grouped_points(
    axes: Axes, positions: Sequence[str], series: Mapping[str, Sequence[Interval]], colours: Mapping[str, str]
) -> None:
    """Plot one point per series at each position, with intervals as error bars.

    The score axis is fitted to the data. Points are plotted instead of bars, whose length misleads on such an axis.

    Args:
        axes: Axes to plot on.
        positions: Labels of the positions.
        series: Scores of each series, one per position.
        colours: Colour of each series.
    """
    width = 0.7 / len(series)
    for i, (name, scores) in enumerate(series.items()):
        means = np.array([score.mean for score in scores])
        errors = np.array([score.half_width or 0.0 for score in scores])
        at = np.arange(len(positions)) + (i - (len(series) - 1) / 2) * width
        axes.errorbar(
            at, means, errors if errors.any() else None, fmt="o", markersize=5, color=colours[name], label=name,
            elinewidth=1.4, capsize=2,
        )  # fmt: skip
    axes.set_xticks(range(len(positions)), [str(position).replace("_", "\n") for position in positions])
    if is_crowded(positions, float(axes.get_figure(root=True).get_figwidth())):  # type: ignore[union-attr]
        for label in axes.get_xticklabels():
            label.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.5, len(positions) - 0.5)
    axes.set_ylim(*score_limits(score for scores in series.values() for score in scores))
    axes.set_xticks(np.arange(len(positions) - 1) + 0.5, minor=True)
    axes.tick_params(axis="x", which="both", length=0)
    axes.grid(axis="x", which="major", visible=False)
    axes.grid(axis="x", which="minor", visible=True)


def is_crowded(positions: Sequence[str], width: float) -> bool:
    """Return whether labels of positions overlap side by side in a figure of the given width in inches."""
    return bool(sum(map(len, positions)) > 11 * width)


def points_by_row(axes: Axes, rows: Sequence[str], series: Mapping[str, Sequence[Interval]]) -> None:
    """Plot the same as `grouped_points`, by shot group and with one row per position, for many or long names."""
    height = 0.7 / len(series)
    at = np.arange(len(rows))
    for i, (shot, scores) in enumerate(series.items()):
        means = np.array([score.mean for score in scores])
        errors = np.array([score.half_width or 0.0 for score in scores])
        axes.errorbar(
            means, at + (i - (len(series) - 1) / 2) * height, xerr=errors if errors.any() else None, fmt="o",
            markersize=4, color=SHOT_COLOURS[shot], label=shot, elinewidth=1.2, capsize=1.5,
        )  # fmt: skip
    axes.set_yticks(at, list(rows), fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(*score_limits(score for scores in series.values() for score in scores))
    axes.set_yticks(at[:-1] + 0.5, minor=True)
    axes.tick_params(axis="y", which="both", length=0)
    axes.grid(axis="y", which="major", visible=False)
    axes.grid(axis="y", which="minor", visible=True)


def lines_by_shot(axes: Axes, values: Sequence[float], scores_by_shot: Mapping[str, Sequence[Interval]]) -> None:
    """Plot one line per shot group over the values of a setting.

    The axis is logarithmic if the ratio of the largest to the smallest value is at least 8.
    """
    for shot, scores in scores_by_shot.items():
        means = [score.mean for score in scores]
        errors = [score.half_width or 0.0 for score in scores]
        axes.errorbar(values, means, errors, color=SHOT_COLOURS[shot], marker="o", markersize=4, capsize=2, label=shot)
    smallest, largest = min(values), max(values)
    if smallest > 0 and largest / smallest >= 8:
        axes.set_xscale("log")
    if len(values) <= MAX_VALUE_TICKS:
        axes.set_xticks(list(values), [f"{value:g}" for value in values])
        axes.minorticks_off()


def title_size(title: str) -> float:
    """Return a font size with which the title of one of three panels side by side fits above its panel."""
    return 10 if len(title) < 18 else max(4.5, min(7, 190 / len(title)))


def matrix(
    axes: Axes,
    title: str,
    values: np.ndarray,
    maximum: float,
    number_format: str,
    row_names: Sequence[str],
    column_names: Sequence[str],
) -> None:
    """Plot a matrix as a grid of shaded cells annotated with their values. NaN cells stay empty."""
    axes.imshow(np.nan_to_num(values), cmap="Blues", vmin=0, vmax=maximum)
    for i, j in np.ndindex(values.shape):
        if not np.isnan(values[i, j]):
            colour = "white" if values[i, j] > 0.55 * maximum else INK
            axes.text(j, i, number_format.format(values[i, j]), ha="center", va="center", color=colour)
    axes.set_title(title, fontsize=title_size(title))
    axes.set_xticks(range(len(column_names)), column_names, fontsize=8)
    axes.set_yticks(range(len(row_names)), row_names, fontsize=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
