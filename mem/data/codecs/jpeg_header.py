"""What stands in a JPEG file's header, read without decoding the picture.

Source: ITU-T T.81, annex B (markers) and annex K (quantisation), and the Exif standard's tag 0x0112 (orientation).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers that start a frame; the other three are tables."""
_SEQUENTIAL = (0xC0, 0xC1)
_DQT, _SOS, _EOI, _APP0, _APP1, _APP2, _APP14, _COM = 0xDB, 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_ORIENTATION = 0x0112
# fmt: off
_LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
])
# fmt: on
"""Table K.1, from which encoders scale theirs by quality."""


class NotAJpeg(Exception):
    """The bytes are no JPEG file, or end in its header; the message says where."""


@dataclass(frozen=True)
class Header:
    """A JPEG file's frame and what else decides how it is decoded."""

    height: int
    width: int
    components: int
    """1: grey, 3: colour, 4: print colours."""
    bits: int
    sequential: bool
    """Baseline or extended, Huffman-coded: neither progressive nor arithmetic nor lossless."""
    orientation: int
    """Exif's 1 to 8; 1 where there is none."""
    luminance: int
    """Sum of the first quantisation table: the larger, the lower the quality."""
    metadata: tuple[tuple[int, int], ...]
    """First and one past the last byte of each segment that is not needed to decode."""
    special: bool
    """Whether Adobe's segment says what the components are, or several pictures are in the file."""

    def is_plain(self) -> bool:
        """Whether every decoder of photographs takes it as it is: 8 bit, three components, sequential, upright."""
        upright = self.orientation == 1
        return self.components == 3 and self.bits == 8 and self.sequential and upright and not self.special

    def at_most(self, quality: int) -> bool:
        """Whether its luminance is quantised at least as coarsely as libjpeg does at this quality."""
        return self.luminance >= int(luminance_table(quality).sum())


def luminance_table(quality: int) -> np.ndarray:
    """Quantisation of luminance by libjpeg at a quality of 1 to 100 (jcparam.c)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((_LUMINANCE * scale + 50) // 100, 1, 255)


def is_jpeg(content: bytes) -> bool:
    """Whether the bytes start as a JPEG file does."""
    return content[:3] == b"\xff\xd8\xff"


def read_header(content: bytes) -> Header:
    """Read the segments up to the first scan.

    Raises:
        NoJpeg: There is no whole header.
    """
    if not is_jpeg(content):
        raise NotAJpeg("is no JPEG file")
    frame: tuple[int, int, int, int, int] | None = None
    orientation, luminance, special = 1, 0, False
    metadata: list[tuple[int, int]] = []
    at = 2
    while True:
        start = at
        while content[at : at + 1] == b"\xff":
            at += 1
        if at == start or at >= len(content):
            raise NotAJpeg(f"ends or is damaged in its header, at byte {start:,}")
        marker = content[at]
        at += 1
        if marker in _STANDALONE:
            continue
        if marker == _SOS or marker == _EOI:
            break
        if at + 2 > len(content):
            raise NotAJpeg(f"ends in its header, after {len(content):,} bytes")
        end = at + struct.unpack_from(">H", content, at)[0]
        if end > len(content) or end < at + 2:
            raise NotAJpeg(f"ends in its header, after {len(content):,} bytes")
        body = content[at + 2 : end]
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
        at = end
    if frame is None or not frame[2] or not frame[3]:
        raise NotAJpeg("has a header without a picture's size")
    kind, bits, height, width, components = frame
    return Header(
        height, width, components, bits, kind in _SEQUENTIAL, orientation, luminance, tuple(metadata), special
    )


def without_metadata(content: bytes, header: Header) -> bytes:
    """The same picture, bit for bit, without colour profiles, previews, comments and camera data."""
    kept, at = [], 0
    for start, end in header.metadata:
        kept.append(content[at:start])
        at = end
    return b"".join([*kept, content[at:]])


def exif_orientation(exif: bytes) -> int:
    """The tag `Orientation` of the first directory; 1 where it is missing or makes no sense."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            return 1
        directory = struct.unpack_from(order + "I", exif, 4)[0]
        for entry in range(struct.unpack_from(order + "H", exif, directory)[0]):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, directory + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass  # cut off: as without the tag, as all readers take it
    return 1


def _table_sum(body: bytes) -> int:
    """Sum of the table that a DQT segment begins with."""
    if not body:
        return 0
    dtype, size = (">u2", 128) if body[0] >> 4 else ("u1", 64)
    return int(np.frombuffer(body[1 : 1 + size], dtype).sum()) if len(body) > size else 0
