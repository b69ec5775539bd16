"""Pillow's image operations, implemented with OpenCV, which releases the global interpreter lock.

The functions reimplement operations from `PIL.ImageOps`, `PIL.ImageEnhance` and `Image.transform` (Pillow 13), which
timm and torchvision call. The results of operations that use lookup tables are bit-identical to Pillow's.
docs/explanation/loaders.md lists the deviations of the other operations.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

cv2.setNumThreads(0)  # OpenCV's threads would compete with the loader's threads, which process different images

ImageArray = UInt8[np.ndarray, "rows columns 3"]
Table = UInt8[np.ndarray, "256"]
Color = tuple[int, int, int]

_LEVELS = np.arange(256)
_LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the grey value (ITU-R 601, as in Pillow)."""
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
"""Kernel of `PIL.ImageFilter.SMOOTH`."""
_TRUNCATION = -0.499
"""Offset that turns OpenCV's rounding into Pillow's truncation. Exact integers are unaffected."""


def apply_table(image: ImageArray, table: np.ndarray) -> ImageArray:
    """Map each value through a lookup table of shape (256,) for all channels, or (3, 256) with one row per channel."""
    if table.ndim == 2:
        table = np.ascontiguousarray(table.T)[None]
    return cv2.LUT(image, table)  # type: ignore[return-value]


def _blend_table(factor: float, other: int) -> Table:
    """Return a lookup table that blends each value (factor 1) with `other` (factor 0). Larger factors extrapolate."""
    levels = _LEVELS.astype(np.float32)  # single precision, as in Pillow, because truncation depends on it
    return np.clip(other + np.float32(factor) * (levels - other), 0, 255).astype(np.uint8)


def adjust_brightness(image: ImageArray, factor: float) -> ImageArray:
    """Blend the image (factor 1) with black (factor 0). Larger factors make it brighter."""
    return apply_table(image, _blend_table(factor, 0))


def adjust_contrast(image: ImageArray, factor: float) -> ImageArray:
    """Blend the image (factor 1) with its mean grey value (factor 0). Larger factors increase the contrast."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return apply_table(image, _blend_table(factor, mean))


def adjust_saturation(image: ImageArray, factor: float) -> ImageArray:
    """Blend the image (factor 1) with its grayscale version (factor 0). Larger factors increase the saturation."""
    matrix = np.full((3, 4), _TRUNCATION)
    matrix[:, :3] = factor * np.eye(3) + (1 - factor) * _LUMA
    return cv2.transform(image, matrix)  # type: ignore[return-value]


def grayscale(image: ImageArray) -> ImageArray:
    """Replace each pixel with its grey value."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]


def gaussian_blur(image: ImageArray, sigma: float) -> ImageArray:
    """Blur with a Gaussian whose standard deviation is `sigma` pixels. Pixels at the border are repeated beyond it."""
    side = 2 * math.ceil(4 * sigma) + 1
    return cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def adjust_sharpness(image: ImageArray, factor: float) -> ImageArray:
    """Blend the image (factor 1) with a smoothed version (factor 0). Larger factors sharpen it. Borders are kept."""
    kernel = (1 - factor) * _SMOOTH
    kernel[1, 1] += factor
    out = cv2.filter2D(image, -1, kernel, delta=_TRUNCATION)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        out[edge] = image[edge]
    return out  # type: ignore[return-value]


def invert(image: ImageArray) -> ImageArray:
    """Return the negative of the image."""
    return cv2.bitwise_not(image)  # type: ignore[return-value]


def posterize(image: ImageArray, bits: int) -> ImageArray:
    """Keep the `bits` highest bits of each value. With 8 or more bits, return the image unchanged."""
    if bits >= 8:
        return image
    return apply_table(image, (_LEVELS & ~(2 ** (8 - bits) - 1)).astype(np.uint8))


def solarize(image: ImageArray, threshold: int) -> ImageArray:
    """Invert values of at least `threshold`."""
    return apply_table(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS).astype(np.uint8))


def solarize_add(image: ImageArray, amount: int) -> ImageArray:
    """Add `amount` to values below 128. Results are clipped to 255."""
    return apply_table(image, np.where(_LEVELS < 128, np.minimum(255, _LEVELS + amount), _LEVELS).astype(np.uint8))


def auto_contrast(image: ImageArray) -> ImageArray:
    """Stretch the values of each channel to the range 0 to 255."""
    tables = np.empty((3, 256), dtype=np.uint8)
    for channel, table in zip(cv2.split(image), tables, strict=True):
        low, high, _, _ = cv2.minMaxLoc(channel)
        if high <= low:
            table[:] = _LEVELS
        else:
            scale = 255 / (high - low)
            table[:] = np.clip((_LEVELS * scale - low * scale).astype(np.int64), 0, 255)
    return apply_table(image, tables)


def equalize(image: ImageArray) -> ImageArray:
    """Equalise the histogram of each channel."""
    return apply_table(image, np.stack([_equalization_table(_histogram(image, k)) for k in range(3)]))


def _histogram(image: ImageArray, channel: int) -> Int64[np.ndarray, "256"]:
    return cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)


def _equalization_table(histogram: Int64[np.ndarray, "256"]) -> Table:
    present = histogram[histogram > 0]
    step = (histogram.sum() - present[-1]) // 255
    if len(present) <= 1 or step == 0:
        return _LEVELS.astype(np.uint8)
    below = np.cumsum(histogram) - histogram
    return np.minimum(255, (step // 2 + below) // step).astype(np.uint8)


def shear(image: ImageArray, x: float, y: float, fill: Color) -> ImageArray:
    """Shear the image horizontally by `x` or vertically by `y`.

    Each row moves left by `x` times its distance from the top, or each column moves up by `y` times its distance from
    the left edge.
    """
    return _warp(image, np.array([[1.0, x, 0.0], [y, 1.0, 0.0]]), fill)


def translate(image: ImageArray, x: float, y: float, fill: Color) -> ImageArray:
    """Move the image by `x` pixels to the left and `y` pixels up."""
    for axis, distance in ((1, x), (0, y)):
        if distance:
            image = _translate_axis(image, distance, axis, fill)
    return image


def _translate_axis(image: ImageArray, distance: float, axis: int, fill: Color) -> ImageArray:
    """Translate with Pillow's bicubic filter. For a translation, its weights are the same at all positions."""
    whole_pixels = math.floor(distance)
    d = distance - whole_pixels
    weights = np.array([-d * (1 - d) ** 2, 1 - 2 * d**2 + d**3, d + d**2 - d**3, -(d**2) + d**3])
    kernel, anchor = (weights[None, :], (1, 0)) if axis == 1 else (weights[:, None], (0, 1))
    interpolated = cv2.filter2D(image, -1, kernel, anchor=anchor, delta=_TRUNCATION, borderType=cv2.BORDER_REPLICATE)
    length = image.shape[axis]
    low, high = np.clip([-whole_pixels, length - whole_pixels], 0, length)
    out = np.empty_like(image)
    # Create NumPy views in which the axis comes first, so that the same slices work for both axes.
    source, target = (np.moveaxis(array, axis, 0) for array in (interpolated, out))
    target[low:high] = source[low + whole_pixels : high + whole_pixels]
    target[:low] = fill
    target[high:] = fill
    return out


def rotate(image: ImageArray, degrees: float, fill: Color) -> ImageArray:
    """Rotate counter-clockwise about the centre."""
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    rows, columns = image.shape[:2]
    x, y = columns / 2, rows / 2
    matrix = np.array([[cosine, -sine, x - cosine * x + sine * y], [sine, cosine, y - sine * x - cosine * y]])
    return _warp(image, matrix, fill)


def _warp(image: ImageArray, matrix: np.ndarray, fill: Color) -> ImageArray:
    """Apply an affine transform with bicubic interpolation.

    `matrix` maps output positions to input positions. Pixel centres are at half-integer positions.
    """
    matrix = matrix.copy()
    matrix[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5  # OpenCV puts pixel centres at integers
    rows, columns = image.shape[:2]
    return cv2.warpAffine(
        image,
        matrix,
        (columns, rows),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )  # type: ignore[return-value]
