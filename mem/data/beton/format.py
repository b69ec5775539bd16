"""Constants of FFCV's file format (.beton). Imports nothing, so that `mem plan` can use them without ffcv."""

from __future__ import annotations

JPEG, RAW = 0, 1
"""FFCV's codes for the storage mode of an image."""
MAX_SIDE = 65_500
"""Longest side of an image, in pixels. FFCV stores sides in 16 bits, and libjpeg's limit is slightly below that."""
PAGE_BYTES = 8 << 20
"""Smallest page size. No image crosses a page boundary, so that FFCV's own page cache can read the file. If an image is
larger than this, the page size of the whole file is the next power of two that the image fits into."""
