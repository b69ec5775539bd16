"""Parser for PNG chunks. It removes the metadata, which must not affect whether an image is readable.

Source: PNG specification, third edition (W3C), chapters 5 (chunks), 11 (tRNS, sBIT, eXIf, text) and 12.4 (sBIT).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_METADATA = frozenset(
    b"acTL bKGD cHRM cICP cLLi eXIf fcTL fdAT gAMA hIST iCCP iTXt mDCv oFFs pCAL pHYs sBIT sCAL sPLT sRGB tEXt tIME"
    b" zTXt".split()
)
"""Types of chunks that do not affect the pixels of the first image."""
_ANCILLARY = 0x20
"""Bit in the first byte of the type of a chunk that a decoder may ignore."""
_INDEXED = 3
"""Colour type of images whose pixels are palette indices."""
_MAX_TEXT_BYTES = 1 << 20
"""Maximum size of a text chunk after decompression. Larger texts are ignored."""
_XMP = b"XML:com.adobe.xmp"
_RAW_EXIF = (b"Raw profile type exif", b"Raw profile type APP1")
"""Keywords of texts in which ImageMagick stores Exif data as hexadecimal digits."""


@dataclass(frozen=True)
class Png:
    """The parts of a PNG file that determine its pixels."""

    content: bytes
    """The file without metadata and without the frames of an animation after the first image."""
    exif: bytes | None
    xmp: bytes | None
    bits: int
    """Bits per sample."""
    significant_bits: int
    """Largest number of significant bits of a channel, according to the sBIT chunk; `bits` without this chunk."""
    lacks_palette: bool
    """Whether the pixels are palette indices but the file has no palette."""


def is_png(content: bytes) -> bool:
    """Return whether the content starts with the PNG signature."""
    return content[:8] == SIGNATURE


def parse(content: bytes) -> Png:
    """Remove all chunks that do not affect the pixels, and read the Exif data, the XMP data and the sample depths.

    The checksums of known metadata chunks are not checked. Everything after the last complete chunk is kept, so that
    the decoder reports the error.
    """
    found: dict[str, bytes] = {}
    kept: list[bytes | memoryview] = [SIGNATURE]
    view, position, kind = memoryview(content), 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, position) if position + 8 <= len(content) else (0, b"")
        end = position + 12 + length
        if not kind or end > len(content):
            kept.append(view[position:])
            break
        body = view[position + 8 : end - 4]
        if _affects_pixels(kind, view[position + 4 : end]):
            kept.append(view[position:end])
        if kind in (b"IHDR", b"PLTE", b"sBIT", b"eXIf"):
            found.setdefault(kind.decode(), bytes(body))
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, text = _text(kind, bytes(body))
            if keyword == _XMP:
                found.setdefault("xmp", text)
            elif keyword in _RAW_EXIF and (exif := _from_hexadecimal(text)):
                found.setdefault("raw exif", exif)
        position = end
    header = found.get("IHDR", b"")
    bits, colour = (header[8], header[9]) if len(header) >= 13 else (8, 0)
    return Png(
        content=b"".join(kept),
        exif=found.get("eXIf", found.get("raw exif")),
        xmp=found.get("xmp"),
        bits=bits,
        significant_bits=max(found.get("sBIT", b""), default=bits),
        lacks_palette=colour == _INDEXED and "PLTE" not in found,
    )


def _affects_pixels(kind: bytes, checked: memoryview) -> bool:
    """Return whether a chunk must be kept. A damaged chunk of an unknown kind may be a pixel chunk, so it is kept.

    Args:
        kind: Type of the chunk.
        checked: The chunk from its type to its checksum.
    """
    if kind[0] & _ANCILLARY == 0 or kind == b"tRNS":
        return True
    return kind not in _METADATA and zlib.crc32(checked[:-4]) != struct.unpack(">I", checked[-4:])[0]


def _text(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return the keyword and the text of a text chunk. The text is empty if it is damaged, too long or not needed."""
    keyword, _, rest = body.partition(b"\0")
    if keyword != _XMP and keyword not in _RAW_EXIF:
        return keyword, b""
    compressed = kind == b"zTXt"
    if kind == b"zTXt":
        rest = rest[1:]
    elif kind == b"iTXt":
        compressed = rest[:1] == b"\1"
        rest = rest[2:].split(b"\0", 2)[-1]
    if not compressed:
        return keyword, rest
    try:
        decompressor = zlib.decompressobj()
        text = decompressor.decompress(rest, _MAX_TEXT_BYTES)
    except zlib.error:
        return keyword, b""
    return keyword, text if not decompressor.unconsumed_tail else b""


def _from_hexadecimal(text: bytes) -> bytes | None:
    """Return the data of a raw profile: a line with its type, a line with its length, then hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        return None
