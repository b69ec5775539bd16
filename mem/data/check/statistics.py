"""`mem data stats`: pixel statistics, sizes and formats of a sample of images, and the settings that they suggest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64

from mem.config import FeatureFiles, ImageData, Study
from mem.data.beton.encoding import Encoding, measure_sizes
from mem.data.codecs.decode import Unreadable, decode
from mem.data.datasets import ImageSet, ImageSplit, read_dataset
from mem.errors import UserError, first_of, printable

SAMPLE = 1_000
"""Default number of training images in the sample."""
RAW_GB = 4.0
"""Largest size of all images as raw pixels for which raw storage is suggested, which needs no decoding."""
QUALITY = 90
"""Quality of the JPEG images whose size is measured, the default of `dataset.jpeg_quality`."""
_CROP_MARGIN = 8 / 7
"""Suggested `short_side` relative to the backbone's input, as 256 to 224."""
_GREY_DIFFERENCE = 3
"""Largest difference between the channels of a grey image. JPEG files of grey images can differ by rounding."""
_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II", "TIFF"),
    (b"MM", "TIFF"),
    (b"\x00\x00\x00\x0cjP", "JPEG 2000"),
    (b"\xff\x4f", "JPEG 2000"),
    (b"RIFF", "WebP"),
    (b"P", "PNM"),
)


@dataclass(frozen=True)
class ImageFacts:
    """What is known about one image."""

    height: int
    width: int
    means: Float64[np.ndarray, "3"]
    """Mean of each channel, for values in 0..1."""
    squares: Float64[np.ndarray, "3"]
    """Mean of the squared values of each channel."""
    is_grey: bool
    format: str
    """Format of the file; `pixels` for an image that is not in a file of its own."""
    raw_bytes: int
    """Size as raw pixels, after shrinking to the suggested short side."""
    jpeg_bytes: int


@dataclass(frozen=True)
class Statistics:
    """Statistics of the images of a sample that can be read."""

    images: tuple[ImageFacts, ...]
    damaged: tuple[str, ...]
    """Name of each image that cannot be read, and the reason."""

    @property
    def mean(self) -> Float64[np.ndarray, "3"]:
        """Mean of each channel. Large and small images have the same weight."""
        return np.mean([image.means for image in self.images], axis=0)

    @property
    def std(self) -> Float64[np.ndarray, "3"]:
        """Standard deviation of each channel around `mean`. Every image counts equally."""
        squares = np.mean([image.squares for image in self.images], axis=0)
        return np.sqrt(np.maximum(squares - self.mean**2, 0.0))

    @property
    def short_sides(self) -> np.ndarray:
        """Length of the shorter side of each image."""
        return np.array([min(image.height, image.width) for image in self.images])


def describe_study(study: Study, order: int | None, sample: int) -> str:
    """Return the statistics of a study's training images and the suggested settings, as text.

    Args:
        study: The study.
        order: Class order. None selects the study's first class order.
        sample: Number of training images, which are evenly spaced in the training split.

    Raises:
        UserError: The dataset has no images or cannot be read, or no image of the sample can be read.
    """
    if isinstance(study.dataset, FeatureFiles):
        raise UserError(f"{study.dataset.name}: dataset.source is `features`, so the study has no images to read.")
    images = read_dataset(study.dataset, study.orders[0] if order is None else order)
    if not len(images.train):
        raise UserError(f"{study.dataset.name}: there are no training images. Add images, or change the splits.")
    image_size: int | None = getattr(study.backbone, "image_size", None)
    short_side = None if image_size is None else round(image_size * _CROP_MARGIN)
    statistics = statistics_of(images.train, sample, short_side)
    if not statistics.images:
        raise UserError(
            f"{study.dataset.name}: none of {len(statistics.damaged):,} sampled images can be read: "
            f"{first_of(statistics.damaged)}. `mem data check` reports the causes."
        )
    return "\n".join(
        [
            *_facts(study.dataset.name, statistics, images.train),
            "",
            *_suggestions(study, study.dataset, statistics, images, short_side),
        ]
    )


def statistics_of(split: ImageSplit, sample: int, short_side: int | None) -> Statistics:
    """Return the statistics of a sample of a split. The sample is evenly spaced, so it is the same every time."""
    positions = np.unique(np.linspace(0, len(split) - 1, min(sample, len(split))).round().astype(np.int64))
    found: list[ImageFacts] = []
    damaged: list[str] = []
    for position, facts in zip(positions.tolist(), _read_all(split, positions, short_side), strict=True):
        if isinstance(facts, str):
            damaged.append(f"{printable(split.names[position])} ({printable(facts)})")
        else:
            found.append(facts)
    return Statistics(tuple(found), tuple(damaged))


def _read_all(split: ImageSplit, positions: np.ndarray, short_side: int | None) -> Iterator[ImageFacts | str]:
    """Yield the facts about each image, or the reason why it cannot be read, in order."""

    def read(position: int) -> ImageFacts | str:
        try:
            content = split.read(position)
            return _facts_of(content, short_side)
        except Unreadable as error:
            return str(error)
        except OSError as error:
            return error.strerror or str(error)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield from pool.map(read, positions.tolist())


def _facts_of(content: bytes | np.ndarray, short_side: int | None) -> ImageFacts:
    image = decode(content) if isinstance(content, bytes) else content
    means, deviations = (values[:, 0] / 255 for values in cv2.meanStdDev(image))
    first, second, third = cv2.split(image)
    difference = max(int(cv2.absdiff(first, second).max()), int(cv2.absdiff(second, third).max()))
    raw, jpeg = measure_sizes(image, Encoding("raw", 100, short_side, "area"), (QUALITY,))
    return ImageFacts(
        height=image.shape[0],
        width=image.shape[1],
        means=means,
        squares=deviations**2 + means**2,
        is_grey=difference <= _GREY_DIFFERENCE,
        format=_format_of(content[:16]) if isinstance(content, bytes) else "pixels",
        raw_bytes=raw,
        jpeg_bytes=jpeg,
    )


def _format_of(start: bytes) -> str:
    if start[4:8] == b"ftyp":
        return "AVIF"
    return next((name for magic, name in _STARTS if start.startswith(magic)), "other")


# --- text ----------------------------------------------------------------------------------------------


def _facts(name: str, statistics: Statistics, train: ImageSplit) -> list[str]:
    images, number = statistics.images, len(statistics.images) + len(statistics.damaged)
    sides, ratios = statistics.short_sides, [max(i.height, i.width) / min(i.height, i.width) for i in images]
    largest = max(images, key=lambda image: image.height * image.width)
    low, middle, high = np.percentile(sides, (5, 50, 95))
    grey = sum(image.is_grey for image in images)
    formats = Counter(image.format for image in images)
    sampled = "all" if number == len(train) else f"{number:,} evenly spaced images of"
    lines = [
        f"{name}: {sampled} {len(train):,} training images",
        f"  mean     {_numbers(statistics.mean)}   (values in 0..1; every image counts equally)",
        f"  std      {_numbers(statistics.std)}",
        f"  sizes    shorter side {middle:,.0f} pixels (median; 90 % from {low:,.0f} to {high:,.0f}); largest image "
        f"{largest.width:,} x {largest.height:,}; largest aspect ratio {max(ratios):.2g}",
        f"  formats  {', '.join(f'{name} {_percent(count, len(images))}' for name, count in formats.most_common())}",
        f"  colour   {_percent(len(images) - grey, len(images))} colour, {_percent(grey, len(images))} grey",
    ]
    if statistics.damaged:
        lines.append(
            f"  damaged  {len(statistics.damaged):,} of {number:,} images cannot be read and are skipped: "
            f"{first_of(statistics.damaged)}"
        )
        lines.append("           `mem data check --deep` finds all damaged images.")
    return lines


def _suggestions(
    study: Study, dataset: ImageData, statistics: Statistics, images: ImageSet, short_side: int | None
) -> list[str]:
    total = sum(map(len, images.splits.values()))
    raw, jpeg = (
        total * float(np.mean([getattr(image, name) for image in statistics.images])) / 1e9
        for name in ("raw_bytes", "jpeg_bytes")
    )
    lines = ["Suggested settings:", "dataset:"]
    if study.initial is None:
        std = np.maximum(statistics.std, 0.001)  # the setting must be positive, also for images of a single colour
        lines += [f"  pixel_mean: {_numbers(statistics.mean)}", f"  pixel_std: {_numbers(std)}"]
    else:
        lines += [
            "  # As in the study, which starts from trained weights: keep the values with which they were trained.",
            f"  pixel_mean: {list(dataset.pixel_mean)}",
            f"  pixel_std: {list(dataset.pixel_std)}",
        ]
    lines += [
        f"  # All {total:,} images: {_gb(raw)} raw, {_gb(jpeg)} as JPEG with quality {QUALITY}. Raw is faster, and is "
        f"suggested up to {RAW_GB:g} GB.",
        f"  storage: {'raw' if raw <= RAW_GB else 'jpeg'}",
    ]
    if short_side is not None and np.percentile(statistics.short_sides, 95) > short_side:
        lines += [
            "  # 8/7 of the backbone's input. Smaller images keep their size.",
            f"  short_side: {short_side}",
        ]
    return [*lines, *_backbone_suggestion(study, statistics)]


def _backbone_suggestion(study: Study, statistics: Statistics) -> list[str]:
    """Return the suggested image size of the backbone, with the reason."""
    size: int | None = getattr(study.backbone, "image_size", None)
    if size is None:
        return []
    middle = float(np.median(statistics.short_sides))
    patch = getattr(study.backbone, "patch_size", 1)
    smallest = -(-round(middle) // patch) * patch
    if middle >= size or smallest >= size:
        reason, suggested = "As in the study: the images have the detail for this size.", size
    elif study.initial is not None:
        reason = f"As in the study, which starts from trained weights. Images of {middle:,.0f} pixels are enlarged."
        suggested = size
    else:
        reason = f"This keeps all detail of images of {middle:,.0f} pixels. The study has {size}, which enlarges them."
        suggested = smallest
    return ["backbone:", f"  # {reason}", f"  image_size: {suggested}"]


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return f"[{', '.join(f'{value:.3f}' for value in values)}]"


def _percent(count: int, total: int) -> str:
    share = 100 * count / total
    return f"{share:.0f} %" if share in (0.0, 100.0) or 1 <= share <= 99 else f"{share:.1f} %"


def _gb(size: float) -> str:
    return f"{size:.3g} GB" if size >= 0.1 else f"{1000 * size:.3g} MB"
