"""File name suffixes of images. The folder reader, `mem data check` and `mem predict` use this list."""

from __future__ import annotations

import os

IMAGE_SUFFIXES = (
    ".apng",
    ".avif",
    ".bmp",
    ".gif",
    ".j2c",
    ".j2k",
    ".jfif",
    ".jp2",
    ".jpc",
    ".jpe",
    ".jpeg",
    ".jpf",
    ".jpg",
    ".jpx",
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
    """Return whether a file name has an image suffix, in lower or upper case.

    Hidden files are not images. macOS, for example, writes `._photo.jpg` with the metadata of `photo.jpg`.
    """
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
