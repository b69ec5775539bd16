"""Twelve classes of files that are images by their first bytes, and what a check tells of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mem.data.check.findings import Findings, Severity
from mem.data.datasets.base import ImageSet, ImageSplit, split_of_files
from mem.data.datasets.reference_counts import ReferenceCounts

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF"
CLASSES = 12
PER_CLASS = {"train": 4, "val": 1, "test": 2}


def entries(split: str) -> list[tuple[str, int]]:
    """Twelve classes; class k has its images in the folder ck."""
    return [(f"{split}/c{k:02d}/{i:03d}.jpg", k) for k in range(CLASSES) for i in range(PER_CLASS[split])]


def image_set(root: Path, lists: dict[str, Sequence[tuple[str, int]]] | None = None, **more) -> ImageSet:
    lists = lists or {split: entries(split) for split in PER_CLASS}
    splits: dict[str, ImageSplit] = {}
    for split, rows in lists.items():
        paths = [path for path, _ in rows]
        splits[split] = split_of_files(str(root), paths, paths, np.array([label for _, label in rows], dtype=np.int64))
    return ImageSet(tuple(f"class {k}" for k in range(CLASSES)), **splits, **more)


def write_files(folder: Path) -> None:
    """The files of `image_set`, whole."""
    for split in PER_CLASS:
        for path, _ in entries(split):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(JPEG + path.encode())


def known(**changes) -> ReferenceCounts:
    """What is published of the twelve classes, with changes."""
    values = {
        "title": "Twelve (2026)",
        "images": {"train": 48, "val": 12, "test": 24},
        "classes": 12,
        "largest": 4,
        "smallest": 4,
        "groups": (0, 0, 12),
        "per_class": {"test": 2},
    }
    return ReferenceCounts(**{**values, **changes})


def told(findings: Findings, gravity: Severity = Severity.WRONG) -> str:
    return "\n".join(line for finding in findings.of(gravity) for line in finding.lines())
