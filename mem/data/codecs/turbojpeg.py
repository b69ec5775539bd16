"""JPEG decoding with libjpeg-turbo, which reports both truncated files and damaged data.

OpenCV is equally fast, but does not report truncated files and fills the rest of the image with grey. Pillow reports
truncated files, but accepts damaged data and is slower. This module uses the library that FFCV is linked to (TurboJPEG
API 2) or, where FFCV is not installed, the one in simplejpeg.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from mem.data.codecs import jpeg_header, libffcv

_RGB, _CMYK = 0, 11
_WARNING = 0
_FAST_DCT, _LIMIT_SCANS = 2048, 32768
"""Flags. The second one rejects progressive files with more than 500 scans, whose decoding would take hours."""
_MAX_SCANS = 500


class Damaged(Exception):
    """The first warning or error that libjpeg-turbo reports for an image.

    Attributes:
        fatal: Whether the image is known to be undecodable. simplejpeg reports errors as it reports warnings.
    """

    def __init__(self, message: str, fatal: bool) -> None:
        super().__init__(message)
        self.fatal = fatal


class Unsupported(Damaged):
    """simplejpeg cannot decode the file, because its subsampling is unusual or its header is incomplete."""


def decode(
    content: bytes, height: int, width: int, components: int, *, fast: bool = False
) -> UInt8[np.ndarray, "height width channels"]:
    """Decode to RGB, or to the four stored components of a CMYK or YCCK image.

    Args:
        content: Content of the file.
        height: Height according to the header.
        width: Width according to the header.
        components: 1, 3 or 4, according to the header.
        fast: Whether to use the faster, less accurate inverse DCT, exactly as FFCV decodes stored images.

    Raises:
        Damaged: The library reported a warning or an error, even if it continued decoding.
        Unsupported: FFCV is not installed, and simplejpeg cannot decode the file.
    """
    channels, layout = (4, _CMYK) if components == 4 else (3, _RGB)
    library = libffcv.library()
    if library is None:
        return _decode_without_ffcv(content, (height, width, channels), fast)
    out = np.empty((height, width, channels), dtype=np.uint8)
    # A decoder keeps the tables of an image for the next one, so a file without tables would be decoded with those of
    # the previous file. A new decoder costs a few microseconds.
    decoder = library.tjInitDecompress()
    try:
        status = library.tjDecompress2(
            decoder,
            content,
            len(content),
            out.ctypes.data,
            width,
            width * channels,
            height,
            layout,
            _FAST_DCT if fast else _LIMIT_SCANS,
        )
        if status != 0:
            message = library.tjGetErrorStr2(decoder).decode(errors="replace")
            raise Damaged(message, library.tjGetErrorCode(decoder) != _WARNING)
    finally:
        library.tjDestroy(decoder)
    return out


def _decode_without_ffcv(content: bytes, size: tuple[int, int, int], fast: bool) -> np.ndarray:
    """Decode with simplejpeg, which contains libjpeg-turbo.

    Raises:
        Damaged: See `decode`.
        Unsupported: See there.
    """
    layout = "CMYK" if size[2] == 4 else "RGB"
    if not fast and jpeg_header.has_more_scans(content, _MAX_SCANS):
        raise Damaged(f"has more than {_MAX_SCANS} scans", fatal=True)
    try:
        image = simplejpeg.decode_jpeg(content, layout, fastdct=fast)
    except ValueError as error:
        if "subsampling level" in str(error):
            raise Unsupported(str(error), fatal=True) from None
        raise Damaged(str(error), fatal=False) from None
    if image.shape != size:
        raise Damaged(f"has another size than its header: {image.shape}", fatal=True)
    return image
