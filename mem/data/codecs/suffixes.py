"""File name suffixes of images."""

from __future__ import annotations

import os

IMAGE_SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".jp2",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
"""Suffixes of the formats that `mem.data.codecs.decode` supports, in lower case."""


def is_image_name(name: str) -> bool:
    """Return whether a file name has an image suffix, in lower or upper case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
