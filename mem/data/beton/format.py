"""Constants of FFCV's file format (.beton). Imports nothing, so that `mem plan` can use it without ffcv."""

from __future__ import annotations

JPEG, RAW = 0, 1
"""FFCV's storage modes for images."""
MAX_SIDE = 65_500
"""Longest side of an image, in pixels. FFCV stores sides in 16 bits, and libjpeg's limit is slightly below that."""
PAGE_BYTES = 8 << 20
"""Minimum page size. No image crosses a page boundary, so that FFCV's page cache can read the file. If an image
does not fit, the page size of the file is the next power of two that is large enough."""
