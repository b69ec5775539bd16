"""Reader for FFCV's file format (.beton). The writer is in `mem.data.beton.writer`.

The format and its codecs come from FFCV (libffcv/ffcv 1.0.2: writer.py, reader.py, types.py, fields/rgb_image.py,
libffcv.cpp). `mem.data.beton.tables` reads the tables of a file, and `mem.data.beton.crops` decodes the images. The
project does not use FFCV's `DatasetWriter` and `Loader`. The writer hangs without a message when a worker raises an
exception. The loader augments images with unseeded generators, cannot start in the middle of an epoch, and takes ten
seconds to compile in every process. See docs/decisions/0014-data-loading-on-ffcv.md.
"""

from __future__ import annotations

import mmap
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from mem.data.beton.crops import CropTable, Stored, crop_images, crop_table, native_library
from mem.data.beton.format import JPEG
from mem.data.beton.resize_and_crop import ResizeAndCrop, resized_image
from mem.data.beton.tables import FIELDS, read_tables
from mem.errors import UserError


class Beton:
    """An open .beton file. Labels are loaded into memory. Images are memory-mapped, so that processes share them.

    Raises:
        UserError: The file does not exist or is not a complete .beton file with images and labels.
    """

    def __init__(self, path: Path) -> None:
        try:
            tables = read_tables(path)
            self._map = np.memmap(path, dtype=np.uint8, mode="r")
        except FileNotFoundError:
            raise UserError(f"{path}: no such file. Run `mem convert` to write it.") from None
        except ValueError as error:
            raise UserError(
                f"{path}: not an FFCV file, or an incomplete one ({error}). Delete it and run `mem convert` again."
            ) from None
        if tables.fields != list(FIELDS):
            raise UserError(
                f"{path}: has the fields {tables.fields}, expected {list(FIELDS)}. Delete it and run "
                "`mem convert` again."
            )
        table = tables.allocations
        if len(table) != tables.images or len(tables.metadata) != tables.images:
            raise UserError(
                f"{path}: the file is incomplete: its header specifies {tables.images} images, but its table "
                f"lists {len(table)}. Delete it and run `mem convert` again."
            )
        self.path = path
        self.labels: Int64[np.ndarray, " images"] = tables.metadata["f1"].astype(np.int64)
        image = tables.metadata["f0"]
        self.heights: Int64[np.ndarray, " images"] = image["height"].astype(np.int64)
        self.widths: Int64[np.ndarray, " images"] = image["width"].astype(np.int64)
        self._is_jpeg = image["mode"] == JPEG
        self._positions = table["ptr"].astype(np.int64)
        self._sizes = table["size"].astype(np.int64)
        self._base_address = self._map.ctypes.data
        self._thread_buffers = threading.local()
        self._largest_image_bytes = int((self.heights * self.widths).max(initial=0)) * 3
        self._check_positions()
        native_library()  # logs a warning if it cannot be used

    def __len__(self) -> int:
        return len(self.labels)

    def crops(
        self,
        indices: Int64[np.ndarray, " images"],
        crops: Int64[np.ndarray, "images 4"],
        mirrored: Bool[np.ndarray, " images"] | None = None,
    ) -> Crops:
        """Return crops (top, left, height and width) of images, optionally flipped horizontally, for decoding.

        Raises:
            ValueError: A crop is empty or not inside its image.
        """
        return Crops(self, indices, crop_table(self._stored(indices), crops, mirrored))

    def resized_crops(self, indices: Int64[np.ndarray, " images"], crop: ResizeAndCrop) -> ResizedCrops:
        """Return squares of images that are first resized as a whole, for decoding."""
        return ResizedCrops(self, indices, self._stored(indices), crop)

    def _stored(self, indices: Int64[np.ndarray, " images"]) -> Stored:
        return Stored(
            addresses=self._base_address + self._positions[indices],
            jpeg_bytes=np.where(self._is_jpeg[indices], self._sizes[indices], -1),
            heights=self.heights[indices],
            widths=self.widths[indices],
        )

    def crop(
        self,
        index: int,
        top: int,
        left: int,
        height: int,
        width: int,
        out: UInt8[np.ndarray, "rows columns 3"],
    ) -> None:
        """Decode an image and resize a crop into `out`. See `Crops.decode`."""
        self.crops(np.array([index]), np.array([[top, left, height, width]])).decode(0, out[None])

    def release(self) -> None:
        """Release the mapped pages, which count towards the memory use of this process. Later reads map them again."""
        mapping = self._map.base
        if isinstance(mapping, mmap.mmap):
            mapping.madvise(mmap.MADV_DONTNEED)

    def scratch(self) -> UInt8[np.ndarray, " bytes"]:
        """Return this thread's memory for one decoded image."""
        if not hasattr(self._thread_buffers, "array"):
            self._thread_buffers.array = np.empty(self._largest_image_bytes, dtype=np.uint8)
        return self._thread_buffers.array

    def _check_positions(self) -> None:
        """Check that the content of each image is inside the file, because compiled code reads it."""
        outside = (self._positions < 0) | (self._sizes < 0) | (self._sizes > len(self._map) - self._positions)
        too_short = ~self._is_jpeg & (self._sizes < self.heights * self.widths * 3)
        invalid = np.flatnonzero(outside | too_short)
        if len(invalid):
            raise UserError(
                f"{self.path}: the file is damaged: the position or size of image {invalid[0]} is wrong. Delete it and "
                "run `mem convert` again."
            )


@dataclass(frozen=True)
class Crops:
    """Crops of images in a .beton file."""

    images: Beton
    indices: Int64[np.ndarray, " images"]
    table: CropTable

    def decode(self, first: int, out: UInt8[np.ndarray, "count rows columns 3"]) -> None:
        """Decode the crops from number `first` on, and resize them into `out` (OpenCV's INTER_AREA).

        Releases the global interpreter lock. A thread should decode several crops per call, because threads compete
        for this lock before and after the call.

        Raises:
            UserError: An image's JPEG data are damaged.
        """
        failed = crop_images(self.table[first : first + len(out)], self.images.scratch(), out)
        if failed is not None:
            raise _damaged(self.images, int(self.indices[first + failed]))


@dataclass(frozen=True)
class ResizedCrops:
    """Squares of resized images in a .beton file."""

    images: Beton
    indices: Int64[np.ndarray, " images"]
    stored: Stored
    crop: ResizeAndCrop

    def decode(self, first: int, out: UInt8[np.ndarray, "count side side 3"]) -> None:
        """Decode images from number `first` on, resize them, and copy their squares into `out`.

        Raises:
            UserError: An image's JPEG data are damaged.
        """
        for number, destination in enumerate(out, first):
            height, width = self.crop.sizes[number].tolist()
            resized = resized_image(self.stored, number, height, width, self.images.scratch())
            if resized is None:
                raise _damaged(self.images, int(self.indices[number]))
            self.crop.cut(number, resized, destination)


def _damaged(images: Beton, index: int) -> UserError:
    return UserError(
        f"{images.path}: image {index} cannot be decoded: the file is damaged. Delete it and run `mem convert` again."
    )
