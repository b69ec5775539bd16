"""Manifest of a dataset: classes, label map, counts, shot groups and digests. Image files are not accessed."""

from __future__ import annotations

import csv
import hashlib
import posixpath
from pathlib import Path
from typing import Any

import numpy as np

from mem import files
from mem.config import Shots
from mem.data.datasets import ImageSet, ImageSplit
from mem.longtail import SHOT_NAMES, class_counts, shot_groups

_CHUNK = 10_000
"""Number of lines per hash update."""


def describe(images: ImageSet) -> dict[str, Any]:
    """Return the entries of `dataset.json` that describe the dataset.

    `classes`, `folders`, `counts` and `counts_before_holdout` are indexed by label. `groups` are the numbers of classes
    in the shot groups, which are defined by the training images before a holdout.
    """
    classes = len(images.classes)
    shots = Shots()
    counts = class_counts(images.train.labels, classes)
    before_holdout = images.counts_before_holdout
    groups = shot_groups(before_holdout, shots)
    return {
        "classes": list(images.classes),
        "folders": first_folders(images),
        "splits": {
            name: {
                "images": len(split),
                "counts": class_counts(split.labels, classes).tolist(),
                "sha256": names_digest(split),
            }
            for name, split in images.splits.items()
        },
        **({"counts_before_holdout": before_holdout.tolist()} if images.held_out else {}),
        "imbalance": float(counts.max() / max(counts.min(), 1)),
        "shots": str(shots),
        "groups": {name: int((groups == g).sum()) for g, name in enumerate(SHOT_NAMES)},
        "published": _comparison(images),
        **({"notes": list(images.notes)} if images.notes else {}),
    }


def _comparison(images: ImageSet) -> dict[str, Any] | None:
    """Compare the counts with the published counts. Return None if there are no published counts."""
    if images.reference is None:
        return None
    differences = count_differences(images)
    return {"data_set": images.reference.title, "agrees": not differences, "differences": differences}


def count_differences(images: ImageSet) -> list[str]:
    """Return one line per difference from the published counts. Empty if there are no published counts."""
    reference = images.reference
    if reference is None:
        return []
    classes = len(images.classes)
    counts = {name: class_counts(split.labels, classes) for name, split in images.splits.items()}
    if images.held_out:
        counts["train"] = counts["train"] + counts["val"]
        counts["val"] = np.zeros_like(counts["val"])
    differences: list[str] = []

    def compare(what: str, here: int, published: int) -> None:
        if here != published:
            differences.append(f"{what}: {here:,} here, {published:,} published")

    compare("classes", classes, reference.classes)
    for name, published in reference.images.items():
        compare(f"images of {name}", int(counts[name].sum()), published)
    compare("training images of the most frequent class", int(counts["train"].max()), reference.largest)
    compare("training images of the rarest class", int(counts["train"].min()), reference.smallest)
    for name, published in reference.per_class.items():
        uneven = int((counts[name] != published).sum())
        if uneven:
            differences.append(f"classes of {name} without the published {published:,} images: {uneven:,}")
    if reference.groups is not None:
        groups = shot_groups(counts["train"], Shots())
        for g, (name, published) in enumerate(zip(SHOT_NAMES, reference.groups, strict=True)):
            compare(f"{name}-shot classes ({Shots()})", int((groups == g).sum()), published)
    return differences


def first_folders(images: ImageSet) -> list[str]:
    """Return the folder of each class's first image in train, val or test; "" for classes without images."""
    folders = [""] * len(images.classes)
    missing = np.ones(len(images.classes), dtype=bool)
    for split in images.splits.values():
        labels, first = np.unique(split.labels, return_index=True)
        for label, i in zip(labels.tolist(), first.tolist(), strict=True):
            if missing[label]:
                folders[label] = posixpath.dirname(split.names[i])
                missing[label] = False
    return folders


def names_digest(split: ImageSplit) -> str:
    """Return the SHA-256 digest of a split's names and labels, in the split's order."""
    content = hashlib.sha256()
    labels = split.labels.tolist()
    for start in range(0, len(split), _CHUNK):
        end = start + _CHUNK
        lines = (f"{name} {label}\n" for name, label in zip(split.names[start:end], labels[start:end], strict=True))
        content.update("".join(lines).encode("utf-8", "surrogateescape"))
    return content.hexdigest()


def write_image_list(images: ImageSet, path: Path) -> None:
    """Write a CSV list of all images, with columns for split, index in the split, label and name."""
    with files.atomic(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["split", "position", "label", "name"])
        for name, split in images.splits.items():
            table.writerows(
                (name, i, label, image)
                for i, (label, image) in enumerate(zip(split.labels.tolist(), split.names, strict=True))
            )


def write_label_map(images: ImageSet, path: Path) -> None:
    """Write the label map as CSV, with label, class name, folder of the first image, and image count per split."""
    classes = len(images.classes)
    counts = [class_counts(split.labels, classes).tolist() for split in images.splits.values()]
    with files.atomic(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["label", "name", "folder", *images.splits])
        table.writerows(zip(range(classes), images.classes, first_folders(images), *counts, strict=True))
