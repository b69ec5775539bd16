"""Functions that write unusual image files, and that return the pixels that each part of mem reads from a file."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from mem.data.beton.crops import Stored, crop_images, crop_table
from mem.data.beton.encoding import Encoding, encode
from mem.data.codecs.decode import decode
from mem.data.loading.single_image import prepare_image


def picture(height: int = 40, width: int = 56) -> Image.Image:
    """Return an asymmetric colour image that JPEG compression hardly changes."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [100 + y + x, 200 - 2 * y, 60 + 2 * x]
    return Image.fromarray(np.clip(np.stack(planes, axis=2), 0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def training_pixels(content: bytes, storage: str = "jpeg", quality: int = 90) -> tuple[np.ndarray, bool]:
    """Return the pixels that the training reads after a conversion, and whether the conversion copied the file."""
    encoded = encode(content, Encoding(storage, quality, None, "area"))
    data = np.frombuffer(encoded.content, np.uint8)
    size = encoded.height, encoded.width
    jpeg_bytes = len(data) if encoded.mode == 0 else -1
    stored = Stored(*(np.array([value]) for value in (data.ctypes.data, jpeg_bytes, *size)))
    pixels, scratch = np.zeros((1, *size, 3), np.uint8), np.zeros(size[0] * size[1] * 3, np.uint8)
    assert crop_images(crop_table(stored, np.array([[0, 0, *size]])), scratch, pixels) is None
    return pixels[0], encoded.copied


def pixels_by_part(content: bytes) -> dict[str, np.ndarray]:
    """Return the pixels of a square image that check, conversion (with both storages) and prediction read."""
    parts = {"decode": decode(content)}
    for storage in ("raw", "jpeg"):
        parts[storage], _ = training_pixels(content, storage)
        side = parts["decode"].shape[0]
        parts[f"predict {storage}"] = prepare_image(content, Encoding(storage, 90, None, "area"), side, 1.0)
    return parts


# --- PNG -------------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    """Return a PNG chunk, with a correct checksum or the given one."""
    correct = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", correct if checksum is None else checksum)


def with_chunks(content: bytes, *chunks: bytes) -> bytes:
    """Insert chunks behind the header of a PNG file."""
    return content[:33] + b"".join(chunks) + content[33:]


def png(values: np.ndarray, bits: int, *chunks: bytes) -> bytes:
    """Return a PNG file of gray (height, width) or colour (height, width, 3) values, with chunks behind the header."""
    if bits >= 8:
        rows = [row.astype(f">u{bits // 8}").tobytes() for row in values]
    else:
        rows = [
            np.packbits(np.unpackbits(row[:, None].astype(np.uint8), axis=1)[:, -bits:]).tobytes() for row in values
        ]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0 if values.ndim == 2 else 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# --- Exif and TIFF ---------------------------------------------------------------------------------------

_TYPES = {1: "B", 3: "H", 4: "I"}


def exif(value: int, kind: int = 3, order: str = "<") -> bytes:
    """Return Exif data with an orientation of the given type (1: BYTE, 3: SHORT, 4: LONG)."""
    number = struct.pack(order + _TYPES[kind], value).ljust(4, b"\0")
    start = b"II" if order == "<" else b"MM"
    return start + struct.pack(order + "HIHHHI", 42, 8, 1, 0x0112, kind, 1) + number + bytes(4)


def xmp(value: int) -> bytes:
    """Return XMP data with an orientation."""
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % value


def tiff(data: bytes, size: tuple[int, int], tags: Mapping[int, Sequence[int]], order: str = "<") -> bytes:
    """Return an uncompressed TIFF file with one strip.

    Args:
        data: The samples.
        size: Height and width.
        tags: Other tags and their values, which are written as SHORT.
        order: Byte order: `<` or `>`.
    """
    values = {256: [size[1]], 257: [size[0]], 259: [1], 278: [size[0]], **tags}
    entries: dict[int, tuple[int, int, bytes]] = {
        tag: (3, len(numbers), struct.pack(f"{order}{len(numbers)}H", *numbers)) for tag, numbers in values.items()
    }
    directory = 8 + len(data) + len(data) % 2
    end = directory + 2 + 12 * (len(entries) + 2) + 4
    entries |= {273: (4, 1, struct.pack(order + "I", 8)), 279: (4, 1, struct.pack(order + "I", len(data)))}
    body, outside = b"", b""
    for tag, (kind, count, packed) in sorted(entries.items()):
        if len(packed) > 4:
            packed, outside = struct.pack(order + "I", end + len(outside)), outside + packed
        body += struct.pack(order + "HHI", tag, kind, count) + packed.ljust(4, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, directory)
    count = struct.pack(order + "H", len(entries))
    return start + data.ljust(directory - 8, b"\0") + count + body + bytes(4) + outside


def packed_12_bits(values: np.ndarray) -> bytes:
    """Pack rows of an even number of 12-bit values into 3 bytes for each pair."""
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(*values.shape, 2), axis=-1)[:, :, 4:]
    return np.packbits(bits.reshape(len(values), -1), axis=1).tobytes()
