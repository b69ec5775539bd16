"""Constants of FFCV's file format (.beton). This module imports nothing, so that `mem plan` starts quickly."""

from __future__ import annotations

JPEG, RAW = 0, 1
"""FFCV's storage modes for images."""
MAX_SIDE = 65_500
"""Maximum side of an image, in pixels. FFCV stores sides in 16 bits, and libjpeg's limit is slightly below that."""
PAGE_BYTES = 8 << 20
"""Minimum page size. No image crosses a page boundary, so that FFCV's page cache can read the file. If an image
does not fit into a page of this size, the page size of the file is the next power of two that is large enough."""
