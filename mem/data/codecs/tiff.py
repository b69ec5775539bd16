"""Parser for the first directory of a TIFF file. It removes the metadata and finds the layout of the samples.

Source: TIFF 6.0 (sections 2, 8 and 15), BigTIFF.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

_PHOTOMETRIC, _BITS, _MAX_SAMPLE_VALUE = 262, 258, 281
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_ORIENTATION, _SAMPLE_FORMAT, _XMP = 274, 339, 700
_FOR_PIXELS = frozenset(
    {
        *(_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT),
        *(259, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 324, 325, 338, 347),  # compression and positions
        *(*range(512, 522), *range(529, 533), 0xBC01),  # JPEG and YCbCr; Windows Media Photo, which is not supported
    }
)
"""Tags that affect decoding. All others are metadata, or apply to other pages."""
_FORMS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MAX_ENTRIES = 4096
_MAX_VALUES = 64
"""Maximum number of values that are read from a tag. The tags that are read here have one value per channel."""


class _Form(NamedTuple):
    """Sizes and types of a classic or BigTIFF directory."""

    order: str
    """Byte order, as in `struct`."""
    first: int
    """Position of the offset of the first directory."""
    offset: str
    number: str
    """Type of the number of entries."""
    entry: int
    """Size of an entry in bytes."""


@dataclass(frozen=True)
class Tiff:
    """The parts of a TIFF file that determine its pixels."""

    content: bytes
    """The file with a first directory that has no metadata, and in which 12- and 16-bit samples are black-is-zero."""
    orientation: int | None
    """The tag `Orientation`; None if the file has none."""
    xmp: bytes | None
    bits: tuple[int, ...]
    """Bits of each sample of a pixel."""
    max_sample_value: int | None
    """Largest declared sample value; None if it is not declared."""
    signed: bool
    """Whether the samples are signed integers."""
    inverted: bool
    """Whether the samples of `content` must be inverted, because the file stores white as zero."""
    tile_pixels: int
    """Number of pixels of a tile; 0 if the image is stored in strips."""
    layout: str
    """Description for messages."""


def is_tiff(content: bytes) -> bool:
    """Return whether the content starts like a TIFF file."""
    return content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def parse(content: bytes) -> Tiff | None:
    """Read the first directory. Return None if the file ends before it.

    As in libtiff and Pillow, the first of several entries with the same tag counts, and entries with unknown types and
    incomplete entries at the end are ignored.
    """
    form = _form(content)
    try:
        start = struct.unpack_from(form.order + form.offset, content, form.first)[0]
        number = struct.unpack_from(form.order + form.number, content, start)[0]
        first = start + struct.calcsize(form.number)
        complete = min(number, _MAX_ENTRIES, (len(content) - first) // form.entry)
        tags: dict[int, bytes] = {}
        for entry in (content[first + form.entry * i : first + form.entry * (i + 1)] for i in range(complete)):
            tag, kind = struct.unpack_from(form.order + "HH", entry)
            if kind in _SIZES:
                tags.setdefault(tag, entry)
        return _tiff(content, form, start, tags)
    except (struct.error, OverflowError):
        return None


def _form(content: bytes) -> _Form:
    order = "<" if content[:2] == b"II" else ">"
    if struct.unpack_from(order + "H", content, 2)[0] == 43:
        return _Form(order, 8, "Q", "Q", 20)
    return _Form(order, 4, "I", "H", 12)


def _tiff(content: bytes, form: _Form, start: int, tags: dict[int, bytes]) -> Tiff:
    def values(tag: int) -> tuple[int, ...]:
        return _values(content, form, tags[tag]) if tag in tags else ()

    def value(tag: int, default: int) -> int:
        return next(iter(values(tag)), default)

    bits = values(_BITS) or (1,)
    formats = values(_SAMPLE_FORMAT)
    photometric = value(_PHOTOMETRIC, 0)
    inverted = _PHOTOMETRIC in tags and photometric == 0 and bits[0] in (12, 16)
    positive = {_PHOTOMETRIC: _short_entry(form, _PHOTOMETRIC, 1)} if inverted else {}
    kept = [entry for tag, entry in sorted({**tags, **positive}.items()) if tag in _FOR_PIXELS]
    orientation = values(_ORIENTATION)
    kind = {2: "signed", 3: "floating-point"}.get(formats[0] if formats else 1, "unsigned")
    return Tiff(
        content=_with_directory(content, form, start, kept),
        orientation=orientation[0] if orientation else None,
        xmp=_bytes(content, form, tags[_XMP]) if _XMP in tags else None,
        bits=bits,
        max_sample_value=max(values(_MAX_SAMPLE_VALUE), default=None),
        signed=2 in formats,
        inverted=inverted,
        tile_pixels=value(_TILE_WIDTH, 0) * value(_TILE_HEIGHT, 0),
        layout=f"photometric interpretation {photometric}, {kind} samples, bits {' '.join(map(str, bits))}",
    )


def _data(content: bytes, form: _Form, entry: bytes) -> tuple[int, int, bytes, int]:
    """Return the type and the number of the values of an entry, and the bytes and the position at which they are."""
    kind, count = struct.unpack_from(form.order + "H" + form.offset, entry, 2)
    position = 4 + struct.calcsize(form.offset)
    if _SIZES.get(kind, 0) * count <= form.entry - position:
        return kind, count, entry, position
    return kind, count, content, struct.unpack_from(form.order + form.offset, entry, position)[0]


def _values(content: bytes, form: _Form, entry: bytes) -> tuple[int, ...]:
    """Return the integers of an entry; none if it has no integers, too many, or is damaged."""
    kind, count, data, position = _data(content, form, entry)
    if kind not in _FORMS or count > _MAX_VALUES:
        return ()
    try:
        return struct.unpack_from(f"{form.order}{count}{_FORMS[kind]}", data, position)
    except (struct.error, OverflowError):
        return ()


def _bytes(content: bytes, form: _Form, entry: bytes) -> bytes:
    kind, count, data, position = _data(content, form, entry)
    return data[position : position + _SIZES.get(kind, 0) * count]


def _short_entry(form: _Form, tag: int, value: int) -> bytes:
    entry = struct.pack(form.order + "HH" + form.offset + "H", tag, 3, 1, value)
    return entry + bytes(form.entry - len(entry))


def _with_directory(content: bytes, form: _Form, start: int, entries: list[bytes]) -> bytes:
    """Replace the directory at `start` by one with at most as many entries. All other bytes keep their positions.

    Nothing is appended, because the decoder would read it instead of the missing pixels of a truncated file.
    """
    number = struct.pack(form.order + form.number, len(entries))
    directory = b"".join([number, *entries, bytes(struct.calcsize(form.offset))])
    end = min(len(content), start + len(directory))
    return b"".join([content[:start], directory[: end - start], content[end:]])
