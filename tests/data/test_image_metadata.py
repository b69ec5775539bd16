"""Metadata of image files: damaged or large metadata do not matter, and one rule determines the orientation."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mem.data.codecs import tiff
from mem.data.codecs.decode import Unreadable, decode
from mem.data.codecs.orientation import orientation
from tests.data.image_files import chunk, exif, picture, pixels_by_part, saved, with_chunks, xmp

PNG = saved(picture(), "PNG")
WEBP = saved(picture(), "WEBP", lossless=True)
TIFF = saved(picture(), "TIFF", compression="tiff_lzw", tiffinfo={270: "text" * 9})
MEGABYTES_2 = zlib.compress(bytes(2_000_000))
GARBAGE = b"\x93garbage" * 9


def with_icc(size: int) -> bytes:
    return with_chunks(PNG, chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(size))))


def webp_with(kind: bytes, body: bytes, flag: int) -> bytes:
    """Return a WebP file with a metadata chunk, and the flag that announces it."""
    canvas = struct.pack("<I", 56 - 1)[:3] + struct.pack("<I", 40 - 1)[:3]
    parts = [b"VP8X" + struct.pack("<II", 10, flag) + canvas, WEBP[12:]]
    parts.append(kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2))
    data = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(data)) + data


DAMAGED_METADATA = {
    "zTXt of 2 MB": with_chunks(PNG, chunk(b"zTXt", b"a\0\0" + MEGABYTES_2)),
    "iTXt of 2 MB": with_chunks(PNG, chunk(b"iTXt", b"a\0\1\0\0\0" + MEGABYTES_2)),
    "XMP of 2 MB": with_chunks(PNG, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MEGABYTES_2)),
    "profile of 2 MB": with_icc(2_000_000),
    "damaged profile": with_chunks(PNG, chunk(b"iCCP", b"profile\0\7" + GARBAGE)),
    "80 texts of 1 MB": with_chunks(PNG, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))] * 80),
    "unknown compression of a text": with_chunks(PNG, chunk(b"zTXt", b"a\0\5" + GARBAGE)),
    "checksum of a text": with_chunks(PNG, chunk(b"tEXt", b"a\0b", checksum=1)),
    "checksum of a time": with_chunks(PNG, chunk(b"tIME", bytes(7), checksum=1)),
    "checksum of Exif data": with_chunks(PNG, chunk(b"eXIf", exif(1), checksum=1)),
    "short gamma": with_chunks(PNG, chunk(b"gAMA", b"\0")),
    "garbage in eXIf": with_chunks(PNG, chunk(b"eXIf", GARBAGE)),
    "garbage in an Exif profile": with_chunks(PNG, chunk(b"tEXt", b"Raw profile type exif\0\nexif\n4\nxyz")),
    "damaged animation": with_chunks(PNG, chunk(b"acTL", bytes(8)), chunk(b"fcTL", GARBAGE)),
    "truncated description of a TIFF": TIFF[:-3],
    "garbage in WebP's EXIF": webp_with(b"EXIF", GARBAGE, 8),
}


@pytest.mark.parametrize("case", DAMAGED_METADATA)
def test_an_image_with_damaged_metadata_has_its_pixels(case):
    np.testing.assert_array_equal(decode(DAMAGED_METADATA[case]), np.asarray(picture()))


def test_damage_that_concerns_the_pixels_of_a_png_is_an_error():
    colours = picture().quantize(8)
    content = saved(colours, "PNG")
    palette = content.index(b"PLTE") - 4
    end = palette + 12 + int.from_bytes(content[palette : palette + 4], "big")
    with pytest.raises(Unreadable, match="it has no palette"):
        decode(content[:palette] + content[end:])
    for wrong in (content.replace(b"PLTE", b"pLTE"), PNG.replace(b"IHDR", b"iHDR"), PNG.replace(b"IDAT", b"iDAT")):
        with pytest.raises(Unreadable):
            decode(wrong)


def test_metadata_of_a_tiff_are_removed_at_the_same_positions():
    """Appended bytes would replace the missing pixels of a truncated file."""
    content = saved(picture(), "TIFF", tiffinfo={270: "a description", 305: "a program"})
    parsed = tiff.parse(content)
    assert parsed is not None
    assert len(parsed.content) == len(content)
    np.testing.assert_array_equal(decode(parsed.content), np.asarray(picture()))
    for cut in (1, 60, 200):
        with pytest.raises(Unreadable, match="truncated"):
            decode(content[:-cut])


# --- orientation -----------------------------------------------------------------------------------------


def square() -> Image.Image:
    return picture(48, 48)


def jpeg_with(exif_data: bytes | None, xmp_data: bytes | None) -> bytes:
    content = saved(square(), "JPEG", quality=95)
    bodies = [b"Exif\0\0" + exif_data] if exif_data else []
    bodies += [b"http://ns.adobe.com/xap/1.0/\0" + xmp_data] if xmp_data else []
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body for body in bodies)
    return content[:2] + segments + content[2:]


def png_with(exif_data: bytes | None, xmp_data: bytes | None) -> bytes:
    chunks = [chunk(b"eXIf", exif_data)] if exif_data else []
    chunks += [chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_data)] if xmp_data else []
    return with_chunks(saved(square(), "PNG"), *chunks)


def webp_with_metadata(exif_data: bytes | None, xmp_data: bytes | None) -> bytes:
    return saved(square(), "WEBP", lossless=True, exif=exif_data or b"", xmp=xmp_data or b"")


def tiff_with(exif_data: bytes | None, xmp_data: bytes | None) -> bytes:
    content = saved(square(), "TIFF", **({"tiffinfo": {700: xmp_data}} if xmp_data else {}))
    if exif_data is None:
        return content
    # The tag is in the file's own directory. It replaces PlanarConfiguration, which has its default value.
    entry = content.index(struct.pack("<HHIH", 284, 3, 1, 1))
    return content[:entry] + exif_data[10:22] + content[entry + 12 :]


WRITERS = {"JPEG": jpeg_with, "PNG": png_with, "WEBP": webp_with_metadata, "TIFF": tiff_with}
METADATA = {
    "SHORT": (exif(6), None, 6),
    "LONG": (exif(6, kind=4), None, 6),
    "BYTE": (exif(6, kind=1), None, 6),
    "XMP only": (None, xmp(6), 6),
    "Exif before XMP": (exif(3), xmp(6), 3),
    "invalid Exif value before XMP": (exif(9), xmp(6), 1),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_one_rule_determines_the_orientation_in_all_formats_and_stages(kind):
    for case, (exif_data, xmp_data, expected) in METADATA.items():
        turns = {1: 0, 3: 2, 6: 3}[expected]
        upright = np.rot90(np.asarray(square()), turns)
        for part, pixels in pixels_by_part(WRITERS[kind](exif_data, xmp_data)).items():
            assert np.abs(pixels.astype(int) - upright).mean() <= 3, (case, part)


@pytest.mark.parametrize(
    ("exif_data", "xmp_data", "expected"),
    [
        (exif(8), None, 8),
        (exif(8, 4, ">"), None, 8),
        (b"Exif\0\0" + exif(5, 4), None, 5),
        (exif(0), None, 1),
        (exif(2**31, 4), None, 1),
        (exif(6)[:15], None, 1),
        (GARBAGE, xmp(8), 8),
        (None, b"<tiff:Orientation>7</tiff:Orientation>", 7),
        (None, b"<tiff:Orientation>12</tiff:Orientation>", 1),
        (None, None, 1),
    ],
)
def test_exif_data_decide_before_xmp_data(exif_data, xmp_data, expected):
    assert orientation(exif_data, xmp_data) == expected
