"""How many images a study has, and how large they are, where the data need not be there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mem import config
from mem.config import FeatureFiles, ImageData, LongTailCut, Study
from mem.data.beton.format import PAGE_BYTES
from mem.data.datasets.reference_counts import BALANCED, DIGITS_CLASSES, DIGITS_SIDE, LONG_TAILED
from mem.data.features.user_files import FeatureArrayReader
from mem.errors import UserError
from mem.longtail import tail_counts
from mem.runs.dag import Run

PHOTO_PIXELS = (500, 375)
"""Sides of a photo in ImageNet, where they are not shrunk."""
PHOTO_RATIO = 4 / 3
"""Longer side over shorter side of a photo."""
JPEG_BYTES_PER_PIXEL = {100: 0.97, 95: 0.50, 90: 0.36, 80: 0.25, 70: 0.20, 0: 0.15}
"""At this quality and above: the richer of scikit-learn's two sample photographs, shrunk to 256 pixels."""
IMAGE_RECORD_BYTES = 60
"""A picture's entry in the tables of a .beton file."""


@dataclass(frozen=True)
class Images:
    """Images of each split of a data set."""

    train: int
    val: int
    test: int
    classes: int
    picture_bytes: float
    """Mean size of a picture in a .beton file."""
    source: str
    """Where the numbers come from."""

    @property
    def splits(self) -> dict[str, int]:
        """The three splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def total(self) -> int:
        """All images."""
        return self.train + self.val + self.test


def images_of(study: Study, convert: Run, given: Mapping[str, int], root: Path = Path()) -> Images:
    """Images of a study.

    Those given, else those of the finished conversion, else what the settings and the published totals say.

    Args:
        study: Any study.
        convert: Its conversion.
        given: `train`, `val`, `test` and `classes`, any of them: for data that nothing else is known of.
        root: Folder that `runs/` is in.

    Raises:
        UserError: The number cannot be known without the data.
    """
    if isinstance(study.dataset, FeatureFiles):
        return _of_features(study.dataset)
    found = _converted(root / convert.folder) or _described(study.dataset)
    numbers, source = ({}, "") if found is None else found
    missing = [name for name in ("train", "test", "classes") if name not in {**numbers, **given}]
    if missing:
        raise UserError(
            f"How many images `{study.dataset.source}` has is not known before it is converted. "
            f"Say it: --images {' '.join(f'{name}=N' for name in ('train', 'val', 'test', 'classes'))}"
        )
    numbers = {"val": 0, **numbers, **given}
    where = ", ".join(part for part in (source, f"given: {', '.join(sorted(given))}" if given else "") if part)
    return Images(
        numbers["train"],
        numbers["val"],
        numbers["test"],
        numbers["classes"],
        picture_bytes(study.dataset),
        where,
    )


def _of_features(dataset: FeatureFiles) -> Images:
    labels = {split: FeatureArrayReader(dataset.files_of(split)[1], "labels").all() for split in dataset.splits()}
    sizes = {split: len(labels.get(split, ())) for split in ("train", "val", "test")}
    return Images(**sizes, classes=int(labels["train"].max()) + 1, picture_bytes=0.0, source="counted in its files")


def _converted(folder: Path) -> tuple[dict[str, int], str] | None:
    try:
        manifest = json.loads((folder / "dataset.json").read_text())
        if not (folder / "run.json").exists():
            return None
        sizes = {name: split["images"] for name, split in manifest["splits"].items()}
        return {**sizes, "classes": len(manifest["classes"])}, f"counted in {folder}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _described(dataset: ImageData) -> tuple[dict[str, int], str] | None:
    source: str = getattr(dataset, "source", "")
    known = LONG_TAILED.get(source)
    if known is not None:
        return _held_out({**known.images, "classes": known.classes}, dataset), f"published totals of {known.title}"
    cut: LongTailCut | None = getattr(dataset, "cut", None)
    if cut is None:
        return None
    if isinstance(dataset, config.Digits):
        if cut.counts is None:
            return None
        val, test = DIGITS_CLASSES * cut.val_per_class, DIGITS_CLASSES * dataset.test_per_class
        numbers = {"train": sum(cut.counts), "val": val, "test": test, "classes": DIGITS_CLASSES}
        return _held_out(numbers, dataset), "the cut's counts"
    if source in BALANCED:
        known = BALANCED[source]
        train = sum(_kept(cut, known.classes, known.train_per_class))
        val = known.classes * cut.val_per_class
        numbers = {"train": train, "val": val, "test": known.test, "classes": known.classes}
        return _held_out(numbers, dataset), "the cut's counts"
    return None


def _kept(cut: LongTailCut, classes: int, each: int) -> tuple[int, ...]:
    import numpy as np

    return tail_counts(cut, np.full(classes, each))


def _held_out(numbers: dict[str, int], dataset: ImageData) -> dict[str, int]:
    """After the holdout: each class gives its share, so the sum is right to about half an image a class."""
    if dataset.holdout is None:
        return numbers
    held = round(dataset.holdout.share * numbers["train"])
    return {**numbers, "train": numbers["train"] - held, "val": held}


def picture_bytes(dataset: ImageData) -> float:
    """Mean size of a picture as it is stored."""
    width, height = _sides(dataset)
    raw = 3.0 * width * height
    match dataset.storage:
        case "raw":
            return raw
        case "jpeg":
            return min(raw, width * height * jpeg_bytes_per_pixel(dataset.jpeg_quality))
        case _:
            return raw  # `fit` stays within size_budget_gb, which `mem.plan.disk` applies


def jpeg_bytes_per_pixel(quality: int) -> float:
    """Of a photo, about."""
    return next(size for least, size in JPEG_BYTES_PER_PIXEL.items() if quality >= least)


def _sides(dataset: ImageData) -> tuple[float, float]:
    source: str = getattr(dataset, "source", "")
    side = DIGITS_SIDE if source == "digits" else BALANCED[source].side if source in BALANCED else None
    if side is not None:
        kept = min(side, dataset.short_side or side)
        return kept, kept
    if dataset.short_side is not None:
        return dataset.short_side * PHOTO_RATIO, dataset.short_side
    return PHOTO_PIXELS


def beton_bytes(images: int, each: float) -> float:
    """Size of a .beton file: a page for the header and the table, the pictures, the table of where they are."""
    if not images:
        return 0.0
    header = -(-images * IMAGE_RECORD_BYTES // PAGE_BYTES) * PAGE_BYTES
    per_page = max(1, PAGE_BYTES // max(int(each), 1))
    filled = images * each * (PAGE_BYTES / (per_page * each)) if images > per_page else images * each
    return header + filled + 24 * images
