"""Number and size of a study's images: from the finished conversion, the source, the settings or published totals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mem import config
from mem.config import FeatureFiles, Folder, Glyphs, ImageData, Lists, LongTailCut, Study, Table
from mem.data.beton.format import PAGE_BYTES
from mem.data.datasets.glyphs.cut import profile_counts
from mem.data.datasets.reference_counts import BALANCED, DIGITS_CLASSES, DIGITS_SIDE, LONG_TAILED
from mem.data.features.array_reader import FeatureArrayReader
from mem.errors import UserError
from mem.longtail import tail_counts
from mem.runs.dag import Run

PHOTO_PIXELS = (500, 375)
"""Typical width and height of an ImageNet photograph at its original size."""
PHOTO_RATIO = 4 / 3
"""Longer side of a photograph divided by its shorter side."""
JPEG_BYTES_PER_PIXEL = {100: 0.97, 95: 0.50, 90: 0.36, 80: 0.25, 70: 0.20, 0: 0.15}
"""JPEG bytes per pixel, by the lowest quality for which the value is used. Each value is the larger of those measured
for scikit-learn's two sample photographs, resized to 256 pixels."""
IMAGE_RECORD_BYTES = 60
"""Size of one image's entry in the tables of a .beton file."""


@dataclass(frozen=True)
class ImageCounts:
    """Number of images in each split of a dataset."""

    train: int
    val: int
    test: int
    classes: int
    bytes_per_image: float
    """Mean number of bytes of an image in a .beton file."""
    source: str
    """Description of the source of these numbers, for the printed plan."""
    converted_bytes: float | None = None
    """Size of the finished conversion's files; None before the conversion."""

    @property
    def splits(self) -> dict[str, int]:
        """Number of images by split."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def total(self) -> int:
        """Number of images in all splits."""
        return self.train + self.val + self.test

    def without_held_out(self, share: float) -> ImageCounts:
        """Return the counts of a branch that uses a share of the training images as val, and no test images.

        The share is rounded within each class, so the result can be off by up to half an image per class.
        """
        held_out = round(share * self.train)
        return replace(self, train=self.train - held_out, val=held_out, test=0)


def count_images(study: Study, convert: Run, given: Mapping[str, int], root: Path = Path()) -> ImageCounts:
    """Return the number of images of a study.

    Each number is taken from `given`, otherwise from the finished conversion, otherwise from the lists, table or
    folders of a custom dataset, otherwise from the settings and the published totals. The size of the
    images is that of the finished conversion, otherwise that of a sample of a custom dataset, otherwise a typical size.

    Args:
        study: The study.
        convert: The study's convert run.
        given: Any of `train`, `val`, `test` and `classes`, for datasets whose size is unknown before conversion.
        root: Folder that contains `runs/`.

    Raises:
        UserError: A number is neither given nor known.
    """
    dataset = study.dataset
    if isinstance(dataset, FeatureFiles):
        return _counts_of_features(dataset)
    folder = root / convert.folder
    found = _converted_counts(folder) or _expected_counts(dataset)
    bytes_per_image, sample = _bytes_per_image(dataset), ""
    if found is None and not _is_complete(given) and isinstance(dataset, Folder | Glyphs | Lists | Table):
        from mem.plan.source_images import read_source, stored_image_bytes  # imports the libraries that decode images

        images = read_source(dataset, study.orders[0])
        sizes = {name: len(split) for name, split in images.splits.items()}
        found = {**sizes, "classes": len(images.classes)}, "counted in the source"
        if (measured := stored_image_bytes(images, dataset)) is not None:
            bytes_per_image, number = measured
            sample = f"size measured on {number} image{'s' * (number != 1)}"
    counts, source = found or ({}, "")
    if not _is_complete({**counts, **given}):
        raise UserError(
            f"The number of images of `{dataset.source}` is unknown before the conversion. Specify it with "
            f"--images {' '.join(f'{name}=N' for name in ('train', 'val', 'test', 'classes'))}."
        )
    counts = {"val": 0, **counts, **given}
    sources = [source, f"given: {', '.join(sorted(given))}" if given else "", sample]
    converted_bytes = None  # numbers that the user specifies describe another dataset than the converted one
    if (folder / "run.json").exists() and not given:
        converted_bytes = float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    return ImageCounts(
        train=counts["train"],
        val=counts["val"],
        test=counts["test"],
        classes=counts["classes"],
        bytes_per_image=bytes_per_image,
        source=", ".join(filter(None, sources)),
        converted_bytes=converted_bytes,
    )


def _is_complete(counts: Mapping[str, int]) -> bool:
    """Return whether all numbers are known that a plan requires. There may be no val split."""
    return {"train", "test", "classes"} <= counts.keys()


def _counts_of_features(dataset: FeatureFiles) -> ImageCounts:
    labels = {split: FeatureArrayReader(dataset.files_of(split)[1], "labels").all() for split in dataset.splits()}
    sizes = {split: len(labels.get(split, ())) for split in ("train", "val", "test")}
    classes = int(labels["train"].max()) + 1
    return ImageCounts(**sizes, classes=classes, bytes_per_image=0.0, source="counted in its files")


def _converted_counts(folder: Path) -> tuple[dict[str, int], str] | None:
    """Return the counts of a finished conversion and their source."""
    try:
        manifest = json.loads((folder / "dataset.json").read_text())
        if not (folder / "run.json").exists():
            return None
        sizes = {name: split["images"] for name, split in manifest["splits"].items()}
        return {**sizes, "classes": len(manifest["classes"])}, f"counted in {folder}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _expected_counts(dataset: ImageData) -> tuple[dict[str, int], str] | None:
    """Return the counts derived from published totals or from the setting `cut`, and their source."""
    source: str = getattr(dataset, "source", "")
    if (published := LONG_TAILED.get(source)) is not None:
        counts = {**published.images, "classes": published.classes}
        return _after_holdout(counts, dataset), f"published totals of {published.title}"
    if isinstance(dataset, Glyphs):
        return _profile_of_glyphs(dataset)
    cut: LongTailCut | None = getattr(dataset, "cut", None)
    if cut is None:
        return None
    if isinstance(dataset, config.Digits):
        if cut.counts is None:
            return None
        train, classes = sum(cut.counts), DIGITS_CLASSES
        test = classes * dataset.test_per_class
    elif (balanced := BALANCED.get(source)) is not None:
        classes, test = balanced.classes, balanced.test
        train = sum(tail_counts(cut, np.full(classes, balanced.train_per_class)))
    else:
        return None
    counts = {"train": train, "val": classes * cut.val_per_class, "test": test, "classes": classes}
    return _after_holdout(counts, dataset), "class counts of the cut"


def _profile_of_glyphs(dataset: Glyphs) -> tuple[dict[str, int], str] | None:
    """Return the counts of the profile, which are upper limits; None if they depend on the fonts."""
    published = dataset.profile in ("imagenet_lt", "places_lt")
    if dataset.profile == "natural" or not (published or dataset.classes):
        return None
    train = profile_counts(dataset, dataset.classes or 0)
    classes = len(train)
    counts = {"train": int(train.sum()), "val": classes * dataset.val_per_class, "classes": classes}
    counts["test"] = classes * dataset.test_per_class
    return _after_holdout(counts, dataset), f"profile {dataset.profile}"


def _after_holdout(counts: dict[str, int], dataset: ImageData) -> dict[str, int]:
    """Move the holdout's share of the images from train to val.

    The convert stage rounds the share within each class, so this result can be off by up to half an image per class.
    """
    if dataset.holdout is None:
        return counts
    held_out = round(dataset.holdout.share * counts["train"])
    return {**counts, "train": counts["train"] - held_out, "val": held_out}


def _bytes_per_image(dataset: ImageData) -> float:
    """Return the mean number of bytes of a stored image, without the limit `size_budget_gb` for `storage: fit`."""
    width, height = _stored_pixels(dataset)
    raw = 3.0 * width * height
    if dataset.storage == "jpeg":
        return min(raw, width * height * _jpeg_bytes_per_pixel(dataset.jpeg_quality))
    return raw


def _jpeg_bytes_per_pixel(quality: int) -> float:
    return next(size for least, size in JPEG_BYTES_PER_PIXEL.items() if quality >= least)


def _stored_pixels(dataset: ImageData) -> tuple[float, float]:
    """Return the typical width and height of a stored image in pixels."""
    source: str = getattr(dataset, "source", "")
    if isinstance(dataset, Glyphs):
        side = dataset.image_size
    else:
        side = DIGITS_SIDE if source == "digits" else BALANCED[source].side if source in BALANCED else None
    if side is not None:
        stored_side = min(side, dataset.short_side or side)
        return stored_side, stored_side
    if dataset.short_side is not None:
        return dataset.short_side * PHOTO_RATIO, dataset.short_side
    return PHOTO_PIXELS


def beton_bytes(images: int, bytes_per_image: float) -> float:
    """Return the size of a .beton file in bytes: header and table pages, images, and the table of image positions."""
    if not images:
        return 0.0
    header = -(-images * IMAGE_RECORD_BYTES // PAGE_BYTES) * PAGE_BYTES
    per_page = max(1, PAGE_BYTES // max(int(bytes_per_image), 1))
    content = images * bytes_per_image
    if images > per_page:
        content *= PAGE_BYTES / (per_page * bytes_per_image)
    return header + content + 24 * images
