"""Small .beton files for tests, written without the stage `convert`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mem.data.beton.encoding import Encoding, encode
from mem.data.beton.writer import BetonWriter, publish_all


def write_beton(
    path: Path, images: Sequence[np.ndarray], labels: np.ndarray, storage: str = "raw", jpeg_quality: int = 90
) -> None:
    """Write images of shape (height, width, 3), uint8, and their labels."""
    encoding = Encoding(storage, jpeg_quality, None, "area")
    with BetonWriter(path, len(images), {}) as writer:
        for image in images:
            writer.add(encode(image, encoding))
        writer.finish(labels)
    publish_all([writer])
    writer.remove_journal()
