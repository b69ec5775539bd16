"""From an image set to one .beton file per split, with a manifest of what went in."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mem import files
from mem.config import LongTailCut, Shots
from mem.data.beton import write_beton
from mem.data.datasets import ImageSet, Split
from mem.longtail import SHOT_NAMES, class_counts, shot_groups

SPLITS = ("train", "val", "test")


def convert(
    images: ImageSet, settings: LongTailCut, out: Path, workers: int, done: Callable[[int], None]
) -> dict[str, Any]:
    """Write `train.beton`, `val.beton`, `test.beton`, `images.csv` and `dataset.json` to `out`.

    Returns:
        The manifest, as in `dataset.json`: classes, counts per class and split, groups, a digest of each split.
    """
    for name, split in images.splits.items():
        write_beton(
            out / f"{name}.beton",
            split.labels,
            split.read,
            storage=settings.storage,
            jpeg_quality=settings.jpeg_quality,
            workers=workers,
            done=done,
        )
    with files.atomic(out / "images.csv") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["split", "position", "label", "name"])
        for name, split in images.splits.items():
            table.writerows(
                (name, i, int(label), image)
                for i, (label, image) in enumerate(zip(split.labels, split.names, strict=True))
            )
    manifest = describe(images)
    files.write_text(out / "dataset.json", json.dumps(manifest, indent=2) + "\n")
    return manifest


def describe(images: ImageSet) -> dict[str, Any]:
    """Classes, counts and digests of an image set."""
    classes = len(images.classes)
    counts = class_counts(images.train.labels, classes)
    groups = shot_groups(counts, Shots())
    return {
        "classes": list(images.classes),
        "splits": {
            name: {
                "images": len(split),
                "counts": class_counts(split.labels, classes).tolist(),
                "sha256": _digest(split),
            }
            for name, split in images.splits.items()
        },
        "imbalance": float(counts.max() / max(counts.min(), 1)),
        "groups": {name: int((groups == g).sum()) for g, name in enumerate(SHOT_NAMES)},
    }


def _digest(split: Split) -> str:
    """Digest of a split's names and labels, in order."""
    content = hashlib.sha256()
    for name, label in zip(split.names, split.labels, strict=True):
        content.update(f"{name} {label}\n".encode())
    return content.hexdigest()


def train_counts(folder: Path) -> np.ndarray:
    """Training images per class of a converted data set."""
    manifest = json.loads((folder / "dataset.json").read_text())
    return np.asarray(manifest["splits"]["train"]["counts"], dtype=np.int64)
