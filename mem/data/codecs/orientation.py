"""Orientation of images: one rule for all formats and all stages.

1. The tag `Orientation` (0x0112) of the first Exif directory decides, with any integer type (Exif specifies SHORT, but
   some programs write LONG). A value outside 1 to 8 means upright. In a TIFF file, this directory is the file's own.
2. Without this tag, the property `tiff:Orientation` of the XMP metadata decides.
3. Without either, or if the metadata are damaged, the image is upright.

Source: Exif 2.3 (tag 0x0112), XMP specification part 2 (`tiff:Orientation`).
"""

from __future__ import annotations

import re
import struct

import numpy as np

TAG = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
"""Integer types of Exif values: BYTE, SHORT, LONG and their signed variants, as `struct` formats."""
_IN_XMP = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([0-9])(?![0-9])""")
_TO_UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image[::-1].transpose(1, 0, 2),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image[:, ::-1].transpose(1, 0, 2),
}


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and flip an image array (height, width, channels) with an orientation from 1 to 8 upright."""
    return np.ascontiguousarray(_TO_UPRIGHT[orientation](image))


def orientation(exif: bytes | None, xmp: bytes | None) -> int:
    r"""Return the orientation, from 1 to 8, that the metadata specify.

    Args:
        exif: Exif data, with or without the prefix `Exif\0\0`; None if there are none.
        xmp: XMP data; None if there are none.
    """
    value = exif_tag(exif) if exif else None
    if value is None:
        found = _IN_XMP.search(xmp) if xmp else None
        value = int(found[1]) if found else 1
    return valid(value)


def valid(value: int) -> int:
    """Return an orientation, or 1 (upright) if it is not a number from 1 to 8."""
    return value if 1 <= value <= 8 else 1


def exif_tag(exif: bytes) -> int | None:
    """Return the value of the tag `Orientation` in the first Exif directory; None if the tag is missing or damaged."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    byte_order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if byte_order is None:
        return None
    try:
        directory = struct.unpack_from(byte_order + "I", exif, 4)[0]
        for entry in range(struct.unpack_from(byte_order + "H", exif, directory)[0]):
            start = directory + 2 + 12 * entry
            tag, kind, count = struct.unpack_from(byte_order + "HHI", exif, start)
            if tag == TAG:
                form = _INTEGERS.get(kind)
                inline = form is not None and 1 <= count <= 4 // struct.calcsize(form)
                return struct.unpack_from(byte_order + str(form), exif, start + 8)[0] if inline else None
    except struct.error:
        pass  # truncated Exif data
    return None
