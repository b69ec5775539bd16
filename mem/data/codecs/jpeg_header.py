"""Parser for JPEG headers. It does not decode the image.

Source: ITU-T T.81, annex B (markers) and annex K (quantisation).
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mem.data.codecs.orientation import orientation

_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers that start a frame. The three excluded markers have other meanings."""
_SEQUENTIAL = (0xC0, 0xC1)
_DHT, _DQT, _SOS, _EOI, _APP0, _APP1, _APP2, _APP14, _COM = 0xC4, 0xDB, 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
"""Prefixes of the segments with Exif and XMP data."""
_MARKER = re.compile(rb"\xff+[^\x00\xff]", re.DOTALL)
_SCAN_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)
"""Pattern of the first marker after the data of a scan. Restart markers belong to the scan."""
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
    """Orientation from 1 to 8 (see `mem.data.codecs.orientation`)."""
    luminance: int
    """Sum of the first quantisation table. A larger sum means lower quality."""
    metadata: tuple[tuple[int, int], ...]
    """Start and end (exclusive), in bytes, of each segment that does not affect the pixels."""
    scan: int
    """Position of the marker of the first scan, in bytes."""
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
    exif: bytes | None = None
    xmp: bytes | None = None
    luminance, special = 0, False
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
        elif marker == _APP1 and exif is None and body.startswith(_EXIF):
            exif = body
        elif marker == _APP1 and xmp is None and body.startswith(_XMP):
            xmp = body
        adobe = marker == _APP14 and body[:5] == b"Adobe"
        special = special or adobe or (marker == _APP2 and body[:4] == b"MPF\0")
        if (_APP0 < marker <= _APP0 + 15 and not adobe) or marker == _COM:
            metadata.append((start, end))
        position = end
    if frame is None or not frame[2] or not frame[3]:
        raise NotAJpeg("has a header without the image size")
    kind, bits, height, width, components = frame
    return Header(
        height=height,
        width=width,
        components=components,
        bits=bits,
        sequential=kind in _SEQUENTIAL,
        orientation=orientation(exif, xmp),
        luminance=luminance,
        metadata=tuple(metadata),
        scan=start,
        special=special,
    )


def without_metadata(content: bytes, header: Header) -> bytes:
    """Remove colour profiles, previews, comments and camera data from the file. The pixels do not change."""
    parts, position = [], 0
    for start, end in header.metadata:
        parts.append(content[position:start])
        position = end
    return b"".join([*parts, content[position:]])


def with_complete_spectrum(content: bytes, header: Header) -> bytes:
    """Return a sequential file whose scan headers specify all coefficients at full precision.

    A sequential scan cannot have other values, so decoders ignore them. Some cameras write zeros.
    """
    fixed = bytearray(content)
    for marker, start, end in _segments(content, header.scan):
        if marker == _SOS and end - start >= 6:
            fixed[end - 3 : end] = b"\x00\x3f\x00"
    return bytes(fixed)


def has_more_scans(content: bytes, most: int) -> bool:
    """Return whether a file has more than `most` scans."""
    if content.count(bytes((0xFF, _SOS))) <= most:  # fast; metadata may contain these bytes, too
        return False
    starts = (True for marker, _, _ in _segments(content, 2) if marker == _SOS)
    return sum(itertools.islice(starts, most + 1)) > most


def has_all_tables(content: bytes) -> bool:
    """Return whether a sequential file defines all quantisation and Huffman tables before the scans that use them.

    A decoder that has decoded another file before may use the tables of that file instead of missing ones.
    """
    quantisation: dict[int, int] = {}
    defined: set[tuple[str, int]] = set()
    for marker, start, end in _segments(content, 2):
        body = content[start + 2 : end]
        if marker in _SOF:
            quantisation = {body[i]: body[i + 2] for i in range(6, len(body) - 2, 3)}
        elif marker == _DQT:
            defined |= {("quantisation", number & 15) for number in _table_numbers(body, _quantisation_size)}
        elif marker == _DHT:
            numbers = _table_numbers(body, _huffman_size)
            defined |= {("AC" if number >> 4 else "DC", number & 15) for number in numbers}
        elif marker == _SOS:
            for i in range(1, 2 * body[0] if body else 0, 2):
                component, tables = body[i : i + 2]
                used = {("quantisation", quantisation.get(component, -1)), ("DC", tables >> 4), ("AC", tables & 15)}
                if not used <= defined:
                    return False
    return True


def _table_numbers(body: bytes, size: Callable[[bytes, int], int]) -> Iterator[int]:
    """Yield the first byte of each table in a segment, which contains its number. `size` returns a table's size."""
    at = 0
    while at < len(body):
        yield body[at]
        at += size(body, at)


def _quantisation_size(body: bytes, at: int) -> int:
    return 129 if body[at] >> 4 else 65


def _huffman_size(body: bytes, at: int) -> int:
    return 17 + sum(body[at + 1 : at + 17])


def _segments(content: bytes | bytearray, position: int) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment with a length, and skip the data of the scans."""
    while found := _MARKER.match(content, position):
        marker, start = content[found.end() - 1], found.end()
        if marker in _STANDALONE or marker == _EOI:
            position = start
            continue
        end = start + int.from_bytes(content[start : start + 2], "big")
        if end > len(content) or end < start + 2:
            return
        yield marker, start, end
        after = _SCAN_END.search(content, end) if marker == _SOS else None
        if marker == _SOS and after is None:
            return
        position = after.start() if after else end


def _table_sum(body: bytes) -> int:
    """Return the sum of the first table of a DQT segment."""
    if not body:
        return 0
    dtype, size = (">u2", 128) if body[0] >> 4 else ("u1", 64)
    return int(np.frombuffer(body[1 : 1 + size], dtype).sum()) if len(body) > size else 0
