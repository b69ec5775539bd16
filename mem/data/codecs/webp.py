"""Parser for the size of a WebP image, because the decoder allocates its memory before it reports the size.

Source: WebP container specification and RFC 6386 (section 9.1), RFC 9649 (section 3.4).
"""

from __future__ import annotations


def is_webp(content: bytes) -> bool:
    """Return whether the content starts with the WebP signature."""
    return content[:4] == b"RIFF" and content[8:12] == b"WEBP"


def canvas_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels; None if the header is damaged."""
    if len(content) < 30:
        return None
    kind = content[12:16]
    if kind == b"VP8X":
        return 1 + _little(content[24:27]), 1 + _little(content[27:30])
    if kind == b"VP8L":
        bits = _little(content[21:25])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return _little(content[26:28]) & 0x3FFF, _little(content[28:30]) & 0x3FFF
    return None


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
