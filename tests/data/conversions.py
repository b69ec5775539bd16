"""A small dataset of JPEG files, and functions that convert it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mem.config import Folder
from mem.data.beton.reader import Beton
from mem.data.convert.convert import convert
from mem.data.datasets import read_dataset
from mem.errors import UserError

COUNTS = {"train": 150, "val": 30, "test": 30}
CLASSES = 3
PIXELS = {"pixel_mean": (0.5, 0.5, 0.5), "pixel_std": (0.2, 0.2, 0.2)}


def photo(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    a, b = rng.uniform(-1, 1, 2)
    plane = 128 + a * (y - height / 2) + b * (x - width / 2)
    return np.clip(plane[:, :, None] + rng.normal(0, 15, (height, width, 3)), 0, 255).astype(np.uint8)


def settings_for(root: Path, **changes) -> Folder:
    values = {"name": "tree", "storage": "jpeg", "jpeg_quality": 85, "short_side": 40, **PIXELS, **changes}
    folders = {f"{split}_folder": split for split in COUNTS}
    return Folder.model_validate({"source": "folder", "root": str(root), **folders, **values})


def converted(root: Path, out: Path, workers: int = 2, say: Callable[[str], None] = lambda text: None, **changes):
    settings = settings_for(root, **changes)
    return convert(read_dataset(settings, 0), settings, out, workers, say)


def contents(out: Path) -> dict[str, bytes]:
    names = ("train.beton", "val.beton", "test.beton", "images.csv", "dataset.json")
    return {name: (out / name).read_bytes() for name in names}


def pixels(beton: Beton, index: int) -> np.ndarray:
    out = np.zeros((int(beton.heights[index]), int(beton.widths[index]), 3), dtype=np.uint8)
    beton.crop(index, 0, 0, out.shape[0], out.shape[1], out)
    return out


def refusal(*given, **options) -> str:
    with pytest.raises(UserError) as caught:
        converted(*given, **options)
    return str(caught.value)
