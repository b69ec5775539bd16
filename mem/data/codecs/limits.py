"""Size limits that are checked before memory is allocated, and the error for files that are not complete images.

The limits are far above the largest pictures of ImageNet and iNaturalist. A picture at the limits needs at most 2 GB
while it is decoded. This module has few imports, because the dataset readers import it.
"""

from __future__ import annotations

import os

MAX_PIXELS = 120_000_000
"""Maximum number of pixels. A file of a few kB can declare a size that exhausts memory."""
MAX_SIDE = 100_000
"""Maximum height and width in pixels."""
MAX_FILE_BYTES = 500_000_000
"""Maximum size of an image file in bytes. Larger files are not read."""


class Unreadable(Exception):
    """The content is not a complete image. The message gives the reason, as a predicate that follows the file name."""


def read_image_file(path: str) -> bytes:
    """Return the content of an image file.

    Raises:
        Unreadable: The file has more than `MAX_FILE_BYTES` bytes.
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # Pipes and devices have the size 0, so that only the number of bytes that are read is a limit for them.
        content = b"" if size > MAX_FILE_BYTES else file.read() if size else file.read(MAX_FILE_BYTES + 1)
        check_file_size(max(size, len(content)))
        return content


def check_file_size(size: int) -> None:
    """Check the size of an image file, in bytes.

    Raises:
        Unreadable: The file has more than `MAX_FILE_BYTES` bytes.
    """
    if size > MAX_FILE_BYTES:
        raise Unreadable(f"has {size:,} bytes or more; the limit for an image file is {MAX_FILE_BYTES:,} bytes")
