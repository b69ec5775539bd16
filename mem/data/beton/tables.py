"""Tables of FFCV's file format (.beton, version 2), as NumPy types, and their reader.

A file starts with a header, one description per field and one row of metadata per image. The content of the images
follows, and then a table with the position and size of each content. The types are those of FFCV 1.0.2 (types.py,
fields/rgb_image.py). Reading and writing them here needs no FFCV.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

VERSION = 2
FIELDS = {"image": 2, "label": 1}
"""FFCV's type ID for each field: an RGB image and an integer."""

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype([("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", (1024,))], align=True)
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
METADATA = np.dtype([("f0", IMAGE), ("f1", "<i8")], align=True)
"""Image and label."""
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])


@dataclass(frozen=True)
class Tables:
    """Tables of a .beton file."""

    page_bytes: int
    images: int
    """Number of images according to the header."""
    fields: list[str]
    metadata: np.ndarray
    """Rows of type `METADATA`. Empty if the fields are not those of `FIELDS`."""
    allocations: np.ndarray
    """Rows of type `ALLOCATION`."""


def read_tables(path: Path) -> Tables:
    """Read the tables of a file. The number of their rows may be smaller than the header states.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a .beton file of this version, or it is truncated.
    """
    content = np.memmap(path, dtype=np.uint8, mode="r")  # raises ValueError if the file is empty
    header = _rows(content, HEADER, 0, 1)
    if not len(header):
        raise ValueError("its header is incomplete")
    header = header[0]
    if header["version"] != VERSION:
        raise ValueError(f"the version of its format is {header['version']}, expected {VERSION}")
    fields = _rows(content, FIELD, HEADER.itemsize, int(header["num_fields"]))
    names = [_name(field["name"]) for field in fields]
    known = names == list(FIELDS) and fields["type_id"].tolist() == list(FIELDS.values())
    images, start = int(header["num_samples"]), int(header["alloc_table_ptr"])
    metadata = _rows(content, METADATA, HEADER.itemsize + fields.nbytes, images if known else 0)
    if start > len(content):
        raise ValueError("its table of positions is missing")
    allocations = _rows(content, ALLOCATION, start, len(content) // ALLOCATION.itemsize)
    return Tables(int(header["page_size"]), images, names, metadata, allocations)


def _rows(content: np.ndarray, dtype: np.dtype, start: int, rows: int) -> np.ndarray:
    """Return a copy of at most `rows` rows from byte `start` on: those that the file contains completely."""
    rows = min(rows, max(0, len(content) - start) // dtype.itemsize)
    return content[start : start + rows * dtype.itemsize].view(dtype).copy()


def _name(characters: np.ndarray) -> str:
    return characters.tobytes().split(b"\0")[0].decode("ascii", "replace")
