"""Changes of one picture, as Pillow makes them, by OpenCV, which lets other threads run meanwhile.

The operations are those of `PIL.ImageOps`, `PIL.ImageEnhance` and `Image.transform` (Pillow 13), which timm and
torchvision call. Tables give Pillow's bytes exactly; docs/explanation/loaders.md says by how much the others differ.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

cv2.setNumThreads(0)  # pictures are spread over the loader's threads; OpenCV's own would only compete with them

Picture = UInt8[np.ndarray, "rows columns 3"]
Table = UInt8[np.ndarray, "256"]
Color = tuple[int, int, int]

_LEVELS = np.arange(256)
_GREY = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in a grey value (ITU-R 601, as in Pillow)."""
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
"""`PIL.ImageFilter.SMOOTH`."""
_TRUNCATION = -0.499
"""Pillow cuts off fractions where OpenCV rounds; whole numbers stay what they are."""


def mapped(picture: Picture, table: np.ndarray) -> Picture:
    """Each value replaced by its table's: (256,) for all channels, or (3, 256)."""
    if table.ndim == 2:
        table = np.ascontiguousarray(table.T)[None]
    return cv2.LUT(picture, table)  # type: ignore[return-value]


def _blended(factor: float, other: int) -> Table:
    """Values between `other` (factor 0) and themselves (1), or beyond."""
    levels = _LEVELS.astype(np.float32)  # in single precision, as Pillow: the fractions that it cuts off depend on it
    return np.clip(other + np.float32(factor) * (levels - other), 0, 255).astype(np.uint8)


def brightness(picture: Picture, factor: float) -> Picture:
    """Between black (0) and the picture (1), or brighter."""
    return mapped(picture, _blended(factor, 0))


def contrast(picture: Picture, factor: float) -> Picture:
    """Between the picture's mean grey (0) and the picture (1), or beyond."""
    mean = int(cv2.mean(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return mapped(picture, _blended(factor, mean))


def saturation(picture: Picture, factor: float) -> Picture:
    """Between the grey picture (0) and the picture (1), or more colourful."""
    matrix = np.full((3, 4), _TRUNCATION)
    matrix[:, :3] = factor * np.eye(3) + (1 - factor) * _GREY
    return cv2.transform(picture, matrix)  # type: ignore[return-value]


def sharpness(picture: Picture, factor: float) -> Picture:
    """Between the smoothed picture (0) and the picture (1), or sharper. The outermost pixels stay."""
    kernel = (1 - factor) * _SMOOTH
    kernel[1, 1] += factor
    out = cv2.filter2D(picture, -1, kernel, delta=_TRUNCATION)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        out[edge] = picture[edge]
    return out  # type: ignore[return-value]


def inverted(picture: Picture) -> Picture:
    """The negative."""
    return cv2.bitwise_not(picture)  # type: ignore[return-value]


def posterized(picture: Picture, bits: int) -> Picture:
    """The `bits` highest bits of each value; all from 8 on."""
    if bits >= 8:
        return picture
    return mapped(picture, (_LEVELS & ~(2 ** (8 - bits) - 1)).astype(np.uint8))


def solarized(picture: Picture, threshold: int) -> Picture:
    """Values from `threshold` on inverted."""
    return mapped(picture, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS).astype(np.uint8))


def solarized_by_adding(picture: Picture, amount: int) -> Picture:
    """Values below 128 raised by `amount`, at most to 255."""
    return mapped(picture, np.where(_LEVELS < 128, np.minimum(255, _LEVELS + amount), _LEVELS).astype(np.uint8))


def auto_contrasted(picture: Picture) -> Picture:
    """Each channel stretched to 0..255."""
    tables = np.empty((3, 256), dtype=np.uint8)
    for channel, table in zip(cv2.split(picture), tables, strict=True):
        low, high, _, _ = cv2.minMaxLoc(channel)
        if high <= low:
            table[:] = _LEVELS
        else:
            scale = 255 / (high - low)
            table[:] = np.clip((_LEVELS * scale - low * scale).astype(np.int64), 0, 255)
    return mapped(picture, tables)


def equalized(picture: Picture) -> Picture:
    """Each channel's values spread so that all are about as frequent."""
    return mapped(picture, np.stack([_equalizing(_histogram(picture, k)) for k in range(3)]))


def _histogram(picture: Picture, channel: int) -> Int64[np.ndarray, "256"]:
    return cv2.calcHist([picture], [channel], None, [256], [0, 256]).ravel().astype(np.int64)


def _equalizing(histogram: Int64[np.ndarray, "256"]) -> Table:
    present = histogram[histogram > 0]
    step = (histogram.sum() - present[-1]) // 255
    if len(present) <= 1 or step == 0:
        return _LEVELS.astype(np.uint8)
    below = np.cumsum(histogram) - histogram
    return np.minimum(255, (step // 2 + below) // step).astype(np.uint8)


def sheared(picture: Picture, x: float, y: float, fill: Color) -> Picture:
    """Rows shifted by `x` times their distance from the top, or columns by `y` times theirs from the left."""
    return _transformed(picture, np.array([[1.0, x, 0.0], [y, 1.0, 0.0]]), fill)


def shifted(picture: Picture, x: float, y: float, fill: Color) -> Picture:
    """The picture moved by `x` pixels to the left and `y` up."""
    for axis, distance in ((1, x), (0, y)):
        if distance:
            picture = _shifted(picture, distance, axis, fill)
    return picture


def _shifted(picture: Picture, distance: float, axis: int, fill: Color) -> Picture:
    """By the bicubic of Pillow's transforms, which here is the same four weights everywhere."""
    whole = math.floor(distance)
    d = distance - whole
    weights = np.array([-d * (1 - d) ** 2, 1 - 2 * d**2 + d**3, d + d**2 - d**3, -(d**2) + d**3])
    kernel, anchor = (weights[None, :], (1, 0)) if axis == 1 else (weights[:, None], (0, 1))
    between = cv2.filter2D(picture, -1, kernel, anchor=anchor, delta=_TRUNCATION, borderType=cv2.BORDER_REPLICATE)
    length = picture.shape[axis]
    low, high = np.clip([-whole, length - whole], 0, length)
    out = np.empty_like(picture)
    # Views with the axis in front, so that one way of cutting serves both.
    source, target = (np.moveaxis(array, axis, 0) for array in (between, out))
    target[low:high] = source[low + whole : high + whole]
    target[:low] = fill
    target[high:] = fill
    return out


def rotated(picture: Picture, degrees: float, fill: Color) -> Picture:
    """The picture turned counter-clockwise about its centre."""
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    rows, columns = picture.shape[:2]
    x, y = columns / 2, rows / 2
    matrix = np.array([[cosine, -sine, x - cosine * x + sine * y], [sine, cosine, y - sine * x - cosine * y]])
    return _transformed(picture, matrix, fill)


def _transformed(picture: Picture, matrix: np.ndarray, fill: Color) -> Picture:
    """Bicubic; `matrix` leads from a place in the result to the place in the picture, pixels' centres at .5."""
    matrix = matrix.copy()
    matrix[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5  # OpenCV's pixels have their centres at 0
    rows, columns = picture.shape[:2]
    return cv2.warpAffine(
        picture,
        matrix,
        (columns, rows),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )  # type: ignore[return-value]
