"""A compact image of MAE reconstructions, made from the sheets that pretraining writes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mem.models.sheet_layout import COLUMNS, GAP_PIXELS
from mem.report.cost import run_label
from mem.report.page import CaptionedImage
from mem.runs.dag import Run

FOLDER = "reconstructions"
"""Subfolder of a pretrain run that contains the sheets."""
SHOWN_IMAGES = 6
CELL_PIXELS = 112
"""Maximum side of an image."""


def reconstruction_images(runs: Sequence[Run]) -> list[CaptionedImage]:
    """Return one image of a few reconstructions by the first pretrain run that has any; otherwise an empty list.

    Its columns are training images. Its rows are the image, its visible patches, and the reconstructions at the first
    and at the last step at which the run wrote a sheet.
    """
    for run in runs:
        paths = sorted((run.folder / FOLDER).glob("step-*.png")) if run.stage == "pretrain" else []
        if paths:
            return [_image(run, tuple(dict.fromkeys((paths[0], paths[-1]))))]
    return []


def _image(run: Run, paths: Sequence[Path]) -> CaptionedImage:
    sheets = [_cells(path) for path in paths]
    first = sheets[0]
    count = min(SHOWN_IMAGES, len(first))
    # The images of a sheet are sorted by the frequency of their class.
    shown = [round(i * (len(first) - 1) / max(1, count - 1)) for i in range(count)]
    rows = [[first[i][column] for i in shown] for column in (0, 1)]
    rows += [[sheet[i][2] for i in shown] for sheet in sheets]
    steps = [f"{int(path.stem.removeprefix('step-')):,}" for path in paths]
    reconstructed = " and ".join(f"reconstructed at step {step}" for step in steps)
    caption = (
        f"Training images of frequent (left) to rare classes (right); from top to bottom: original, masked, "
        f"{reconstructed} ({run_label(run)})."
    )
    return CaptionedImage(caption, _png(rows))


def _cells(path: Path) -> list[list[Image.Image]]:
    """Cut a sheet into its images, one line per training image."""
    with Image.open(path) as file:
        sheet = file.convert("RGB")
    step = (sheet.width - GAP_PIXELS) // COLUMNS
    side = step - GAP_PIXELS
    tops = range(GAP_PIXELS, sheet.height - side + 1, step)
    lefts = [GAP_PIXELS + column * step for column in range(COLUMNS)]
    return [[sheet.crop((left, top, left + side, top + side)) for left in lefts] for top in tops]


def _png(rows: Sequence[Sequence[Image.Image]]) -> bytes:
    side = min(CELL_PIXELS, rows[0][0].width)
    step = side + GAP_PIXELS
    canvas = Image.new("RGB", (len(rows[0]) * step + GAP_PIXELS, len(rows) * step + GAP_PIXELS), "white")
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            scaled = image if image.width <= side else image.resize((side, side), Image.Resampling.LANCZOS)
            canvas.paste(scaled, (GAP_PIXELS + c * step, GAP_PIXELS + r * step))
    content = io.BytesIO()
    canvas.save(content, "png")
    return content.getvalue()
