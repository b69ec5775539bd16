"""Parser for JPEG headers. It does not decode the image.

Source: ITU-T T.81, annex B (markers) and annex K (quantisation), and the Exif standard's tag 0x0112 (orientation).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers that start a frame. The three excluded markers have other meanings."""
_SEQUENTIAL = (0xC0, 0xC1)
_DQT, _SOS, _EOI, _APP0, _APP1, _APP2, _APP14, _COM = 0xDB, 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_ORIENTATION_TAG = 0x0112
# fmt: off
_LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
])
# fmt: on
"""Luminance quantisation table K.1, which encoders scale according to the quality."""


class NotAJpeg(Exception):
    """The content is not a JPEG file, or its header is incomplete. The message is written as a predicate."""


@dataclass(frozen=True)
class Header:
    """Frame parameters of a JPEG file, and all other properties that affect decoding."""

    height: int
    width: int
    components: int
    """1: grayscale, 3: colour, 4: CMYK or YCCK."""
    bits: int
    sequential: bool
    """Whether the file is baseline or extended sequential with Huffman coding."""
    orientation: int
    """Exif orientation from 1 to 8. 1 if the file has none."""
    luminance: int
    """Sum of the first quantisation table. A larger sum means lower quality."""
    metadata: tuple[tuple[int, int], ...]
    """Start and end (exclusive), in bytes, of each segment that decoding does not need."""
    special: bool
    """Whether an Adobe segment defines the components, or the file contains several images."""

    def is_plain(self) -> bool:
        """Return whether all common decoders decode the file identically: 8 bits, colour, sequential, upright."""
        upright = self.orientation == 1
        return self.components == 3 and self.bits == 8 and self.sequential and upright and not self.special

    def at_most(self, quality: int) -> bool:
        """Return whether luminance is quantised at least as coarsely as in a libjpeg file of the given quality."""
        return self.luminance >= int(luminance_table(quality).sum())


def luminance_table(quality: int) -> np.ndarray:
    """Return libjpeg's luminance quantisation table for a quality from 1 to 100 (jcparam.c)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((_LUMINANCE * scale + 50) // 100, 1, 255)


def is_jpeg(content: bytes) -> bool:
    """Return whether the content starts with the JPEG signature."""
    return content[:3] == b"\xff\xd8\xff"


def read_header(content: bytes) -> Header:
    """Parse the segments up to the first scan.

    Raises:
        NotAJpeg: The header is missing or incomplete.
    """
    if not is_jpeg(content):
        raise NotAJpeg("is not a JPEG file")
    frame: tuple[int, int, int, int, int] | None = None
    orientation, luminance, special = 1, 0, False
    metadata: list[tuple[int, int]] = []
    position = 2
    while True:
        start = position
        while content[position : position + 1] == b"\xff":
            position += 1
        if position == start or position >= len(content):
            raise NotAJpeg(f"is truncated or damaged in its header, at byte {start:,}")
        marker = content[position]
        position += 1
        if marker in _STANDALONE:
            continue
        if marker == _SOS or marker == _EOI:
            break
        if position + 2 > len(content):
            raise NotAJpeg(f"is truncated in its header, after {len(content):,} bytes")
        end = position + struct.unpack_from(">H", content, position)[0]
        if end > len(content) or end < position + 2:
            raise NotAJpeg(f"is truncated in its header, after {len(content):,} bytes")
        body = content[position + 2 : end]
        if marker in _SOF and len(body) >= 6:
            frame = (marker, *struct.unpack_from(">BHHB", body))
        elif marker == _DQT and not luminance:
            luminance = _table_sum(body)
        elif marker == _APP1 and body[:6] == b"Exif\0\0" and orientation == 1:
            orientation = exif_orientation(body[6:])
        elif (marker == _APP14 and body[:5] == b"Adobe") or (marker == _APP2 and body[:4] == b"MPF\0"):
            special = True
        if _APP0 < marker <= _APP0 + 15 or marker == _COM:
            metadata.append((start, end))
        position = end
    if frame is None or not frame[2] or not frame[3]:
        raise NotAJpeg("has a header without the image size")
    kind, bits, height, width, components = frame
    return Header(
        height, width, components, bits, kind in _SEQUENTIAL, orientation, luminance, tuple(metadata), special
    )


def without_metadata(content: bytes, header: Header) -> bytes:
    """Remove colour profiles, previews, comments and camera data from the file. The pixels do not change."""
    parts, position = [], 0
    for start, end in header.metadata:
        parts.append(content[position:start])
        position = end
    return b"".join([*parts, content[position:]])


def exif_orientation(exif: bytes) -> int:
    """Return the `Orientation` tag of the first Exif directory. Return 1 if the tag is missing or invalid."""
    byte_order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if byte_order is None:
            return 1
        directory = struct.unpack_from(byte_order + "I", exif, 4)[0]
        for entry in range(struct.unpack_from(byte_order + "H", exif, directory)[0]):
            tag, kind, _, value = struct.unpack_from(byte_order + "HHIH", exif, directory + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass  # like other readers, treat truncated Exif data as a missing tag
    return 1


def _table_sum(body: bytes) -> int:
    """Return the sum of the first table of a DQT segment."""
    if not body:
        return 0
    dtype, size = (">u2", 128) if body[0] >> 4 else ("u1", 64)
    return int(np.frombuffer(body[1 : 1 + size], dtype).sum()) if len(body) > size else 0
