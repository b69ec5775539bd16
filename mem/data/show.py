"""Plots of a dataset: a class histogram and a contact sheet, as PNG files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from jaxtyping import Int64, UInt8
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from mem import files
from mem.config import Shots, Study
from mem.data.datasets import ImageSplit, read_dataset
from mem.data.datasets.problems import printable
from mem.errors import UserError
from mem.longtail import SHOT_NAMES, class_counts, shot_groups
from mem.style import MATPLOTLIB_SETTINGS, SHOT_COLOURS

ROWS_PER_GROUP = 4
"""Number of classes per shot group on a contact sheet."""
COLUMNS = 10
"""Number of images per class on a contact sheet."""
TILE = 96
"""Width and height of an image on a contact sheet, in pixels."""
_GAP = 6
"""Gap between images on a contact sheet, in pixels."""
_DPI = 150
_NAME_SIZE = 8
_NAME_WIDTH = 118
"""Font size and maximum width of class names in a contact sheet, in points."""
_MAX_CLASS_NAMES = 20
"""Maximum number of classes for which the histogram shows class names."""
_MAX_BARS = 60
"""Maximum number of classes for which the histogram shows individual bars.

For more classes, it shows one outline per shot group.
"""
Tile = UInt8[np.ndarray, "side side 3"]


def show(study: Study, order: int | None) -> list[Path]:
    """Plot a study's dataset from its image files and save the plots in `results/<study>/data/`.

    Args:
        study: The study.
        order: Class order. None selects the study's first class order.

    Returns:
        Paths of the PNG files.

    Raises:
        UserError: The dataset or one of the plotted images cannot be read.
    """
    images = read_dataset(study.dataset, study.orders[0] if order is None else order)

    def tile(i: int) -> Tile:
        return thumbnail(_read_image(images.train, i))

    suffix = "" if order is None else f"-order{order}"
    counts = images.counts_before_holdout
    folder = Path("results", study.study, "data")
    return _plot(folder, suffix, images.classes, images.train.labels, shot_groups(counts, study.shots), counts, tile)


def write_figures(folder: Path) -> list[Path]:
    """Plot a converted dataset from its `.beton` file and save the plots in its run folder.

    Returns:
        Paths of the PNG files.
    """
    from mem.data.beton.reader import Beton

    manifest = json.loads((folder / "dataset.json").read_text())
    train = Beton(folder / "train.beton")
    before = manifest.get("counts_before_holdout")
    counts = class_counts(train.labels, len(manifest["classes"])) if before is None else np.array(before)

    def tile(i: int) -> Tile:
        height, width = int(train.heights[i]), int(train.widths[i])
        image = np.empty((height, width, 3), dtype=np.uint8)
        train.crop(i, 0, 0, height, width, image)
        return thumbnail(image)

    return _plot(folder, "", manifest["classes"], train.labels, shot_groups(counts, Shots()), counts, tile)


def _plot(
    folder: Path,
    suffix: str,
    classes: Sequence[str],
    labels: Int64[np.ndarray, " images"],
    groups: Int64[np.ndarray, " classes"],
    counts: Int64[np.ndarray, " classes"],
    tile: Callable[[int], Tile],
) -> list[Path]:
    """Write the plots and return their paths. `counts` are the training images of each class before a holdout."""
    with mpl.rc_context(MATPLOTLIB_SETTINGS):
        figures = {
            "histogram": histogram(counts, groups, classes),
            "contact_sheet": contact_sheet(select_rows(labels, counts, groups, classes, tile)),
        }
        paths = [folder / f"{name}{suffix}.png" for name in figures]
        for path, figure in zip(paths, figures.values(), strict=True):
            with files.atomic(path, "wb") as file:
                figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return paths


def _read_image(split: ImageSplit, i: int) -> UInt8[np.ndarray, "height width 3"]:
    from mem.data.codecs.decode import Unreadable, decode

    try:
        content = split.read(i)
        return content if isinstance(content, np.ndarray) else decode(content)
    except OSError as error:
        raise UserError(
            f"{split.names[i]}: {error.strerror}. Run `mem data check` to list the missing files."
        ) from None
    except Unreadable as error:
        raise UserError(f"{split.names[i]}: {error}. Run `mem data check --deep` to list them.") from None


# --- histogram -----------------------------------------------------------------------------------------


def histogram(counts: Int64[np.ndarray, " classes"], groups: np.ndarray, names: Sequence[str]) -> Figure:
    """Plot the number of training images per class on a logarithmic axis, most frequent class first."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    by_frequency = np.argsort(-counts, kind="stable")
    for g, shot in enumerate(SHOT_NAMES):
        positions = np.flatnonzero(groups[by_frequency] == g)
        if not len(positions):
            continue
        heights = counts[by_frequency][positions]
        label = f"{shot}: {len(positions):,} classes,\n{heights.sum():,} images"
        if len(counts) <= _MAX_BARS:
            axes.bar(positions, heights, width=0.85, color=SHOT_COLOURS[shot], label=label)
        else:
            edges = np.append(positions, positions[-1] + 1) - 0.5
            axes.stairs(heights, edges, baseline=0.7, fill=True, color=SHOT_COLOURS[shot], label=label)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:,.0f}" if value >= 1 else "")
    axes.set_ylabel("training images")
    axes.margins(x=0.01)
    axes.grid(axis="x", visible=False)
    if len(names) <= _MAX_CLASS_NAMES:
        long = max(map(len, names)) > 2
        axes.set_xticks(range(len(names)), [_escape_math(names[int(k)]) for k in by_frequency])
        for text in axes.get_xticklabels():
            text.set(
                rotation=35 if long else 0, horizontalalignment="right" if long else "center", rotation_mode="anchor"
            )
    else:
        axes.xaxis.set_major_formatter(lambda value, position: f"{value:,.0f}")
        axes.set_xlabel(f"{len(counts):,} classes, most frequent first")
    figure.legend(ncols=len(SHOT_NAMES), loc="outside upper center", fontsize=8, handlelength=1.2, columnspacing=1.4)
    return figure


# --- contact sheet -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One class on a contact sheet."""

    name: str
    shot: str
    count: int
    """Number of training images in the class."""
    tiles: tuple[Tile, ...]


def select_rows(
    labels: Int64[np.ndarray, " images"],
    counts: Int64[np.ndarray, " classes"],
    groups: np.ndarray,
    classes: Sequence[str],
    tile: Callable[[int], Tile],
) -> list[Row]:
    """Select classes from each shot group, most frequent first, and images from each class.

    Classes and images are selected at even intervals, so the selection is deterministic.
    """
    rows: list[Row] = []
    by_class = np.argsort(labels, kind="stable")
    starts = np.append(0, np.cumsum(counts))
    for g, shot in enumerate(SHOT_NAMES):
        ranked = [int(k) for k in np.argsort(-counts, kind="stable") if groups[k] == g and counts[k]]
        for k in evenly_spaced(ranked, ROWS_PER_GROUP):
            members = by_class[starts[k] : starts[k + 1]].tolist()
            rows.append(Row(classes[k], shot, int(counts[k]), tuple(map(tile, evenly_spaced(members, COLUMNS)))))
    return rows


def evenly_spaced(items: Sequence[int], number: int) -> list[int]:
    """Return `number` items at even intervals, including the first and the last; all items if there are fewer."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, number).round().astype(int))] if items else []


def contact_sheet(rows: Sequence[Row]) -> Figure:
    """Plot one row of images per class, labelled with the class name and the number of training images."""
    step = TILE + _GAP
    sheet = np.full((len(rows) * step - _GAP, COLUMNS * step - _GAP, 3), 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, tile in enumerate(row.tiles):
            sheet[r * step : r * step + TILE, c * step : c * step + TILE] = tile
    height, width = sheet.shape[0] / _DPI, sheet.shape[1] / _DPI
    left, margin = 1.9, 0.12
    figure = Figure(figsize=(left + width + margin, height + 2 * margin))
    axes = figure.add_axes(
        (
            left / (left + width + margin),
            margin / (height + 2 * margin),
            width / (left + width + margin),
            height / (height + 2 * margin),
        )
    )
    axes.imshow(sheet, interpolation="none", aspect="auto")
    axes.set_axis_off()
    for r, row in enumerate(rows):
        middle = r * step + TILE / 2
        axes.plot(
            [-14, -14],
            [r * step, r * step + TILE],
            color=SHOT_COLOURS[row.shot],
            linewidth=4,
            clip_on=False,
            solid_capstyle="butt",
        )
        axes.text(-26, middle - 14, _shortened(row.name), ha="right", va="center", fontsize=_NAME_SIZE)
        axes.text(-26, middle + 16, f"{row.count:,} · {row.shot}", ha="right", va="center", fontsize=7, color="#4D4D4D")
    axes.set_xlim(-0.5, sheet.shape[1] - 0.5)
    axes.set_ylim(sheet.shape[0] - 0.5, -0.5)
    return figure


def _shortened(name: str, width: float = _NAME_WIDTH) -> str:
    """Return the end of a name that fits into a width in points at the font size of the names."""
    name = printable(name)
    for start in range(len(name)):
        text = _escape_math(name if start == 0 else f"…{name[start:]}")
        if TextPath((0, 0), text, size=_NAME_SIZE).get_extents().width <= width:
            return text
    return ""


def _escape_math(name: str) -> str:
    """Escape a name so that matplotlib does not parse it as a formula."""
    return printable(name).replace("$", r"\$")


def thumbnail(image: UInt8[np.ndarray, "height width 3"]) -> Tile:
    """Crop the central square of an image and resize it to `TILE` pixels. Enlarge small images without smoothing."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    interpolation = cv2.INTER_AREA if side >= TILE else cv2.INTER_NEAREST if side <= TILE // 2 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (TILE, TILE), interpolation=interpolation), dtype=np.uint8)
