"""Images of a study as small pictures for the report page, decoded from its .beton files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from mem.data.beton.reader import Beton
from mem.errors import UserError
from mem.runs.dag import Run

SIDE = 96
"""Maximum height and width of a picture in pixels. Larger images are reduced; smaller ones keep their pixels."""
JPEG_QUALITY = 80
_PNG_UP_TO = 32
"""Pictures up to this height and width are stored as PNG, which is then smaller than JPEG and exact."""


@dataclass
class StudyImages:
    """The images of the converted splits of a study, by class order. An image that cannot be read is None."""

    folders: dict[int, Path]
    """Folder of the convert run of each class order. Empty for precomputed features."""
    unreadable: int = 0
    """Number of images that were requested and could not be read."""
    _opened: dict[Path, Beton | None] = field(default_factory=dict)

    @property
    def exist(self) -> bool:
        """Whether the study has images."""
        return bool(self.folders)

    def picture(self, order: int, split: str, index: int, label: int) -> str | None:
        """Return an image as a `data:` URI, or None if it is missing or damaged, or its label is another one.

        Args:
            order: Class order.
            split: `train`, `val` or `test`.
            index: Position of the image in the split.
            label: Expected class. Another one shows that the file was made of other data than the predictions.
        """
        beton = self._split(order, split)
        pixels = None
        if beton is not None and index < len(beton) and beton.labels[index] == label:
            pixels = _decoded(beton, index)
        if pixels is None:
            self.unreadable += 1
            return None
        return data_uri(pixels)

    def labels(self, order: int, split: str) -> Int64[np.ndarray, " images"]:
        """Return the labels of a split; empty if its file cannot be read."""
        beton = self._split(order, split)
        return np.zeros(0, dtype=np.int64) if beton is None else beton.labels

    def _split(self, order: int, split: str) -> Beton | None:
        if order not in self.folders:
            return None
        path = self.folders[order] / f"{split}.beton"
        if path not in self._opened:
            try:
                self._opened[path] = Beton(path)
            except (UserError, OSError):
                self._opened[path] = None
        return self._opened[path]


def study_images(runs: Sequence[Run]) -> StudyImages:
    """Return the images of a study, which are decoded only when they are requested."""
    return StudyImages({int(run.labels["order"]): run.folder for run in runs if run.stage == "convert"})


def data_uri(pixels: UInt8[np.ndarray, "height width 3"]) -> str:
    """Return an image, reduced to `SIDE` pixels, as the `data:` URI of a PNG or JPEG file."""
    height, width = pixels.shape[:2]
    if (longest := max(height, width)) > SIDE:
        size = max(1, round(width * SIDE / longest)), max(1, round(height * SIDE / longest))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    small = max(pixels.shape[:2]) <= _PNG_UP_TO
    kind, options = (".png", []) if small else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    success, content = cv2.imencode(kind, np.ascontiguousarray(pixels[..., ::-1]), options)
    assert success
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(content.tobytes()).decode()}"


def _decoded(beton: Beton, index: int) -> UInt8[np.ndarray, "height width 3"] | None:
    height, width = int(beton.heights[index]), int(beton.widths[index])
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    try:
        beton.crop(index, 0, 0, height, width, pixels)
    except UserError:
        return None
    return pixels
