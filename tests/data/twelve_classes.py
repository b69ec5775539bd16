"""A dataset with twelve classes for tests of `mem data check`. Its files have image signatures but no image data."""

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
    """Return the listed paths and labels of a split. The images of class k are in the folder `ck`."""
    return [(f"{split}/c{k:02d}/{i:03d}.jpg", k) for k in range(CLASSES) for i in range(PER_CLASS[split])]


def all_entries() -> dict[str, list[tuple[str, int]]]:
    return {split: entries(split) for split in PER_CLASS}


def image_set(root: Path, lists: dict[str, Sequence[tuple[str, int]]] | None = None, **more) -> ImageSet:
    splits: dict[str, ImageSplit] = {}
    for split, rows in (lists or all_entries()).items():
        paths = [path for path, _ in rows]
        splits[split] = split_of_files(str(root), paths, paths, np.array([label for _, label in rows], dtype=np.int64))
    return ImageSet(tuple(f"class {k}" for k in range(CLASSES)), **splits, **more)


def write_files(folder: Path) -> None:
    """Write all files of `image_set`."""
    for rows in all_entries().values():
        for path, _ in rows:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(JPEG + path.encode())


def reference(**changes) -> ReferenceCounts:
    """Return reference counts that match the twelve classes, with the given changes."""
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


def printed(findings: Findings, severity: Severity = Severity.ERROR) -> str:
    """Return the printed lines for findings of one severity."""
    return "\n".join(line for finding in findings.of(severity) for line in finding.lines())
