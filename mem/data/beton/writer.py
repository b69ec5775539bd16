"""A .beton file in the making, which can be left at any moment and gone on with.

Two files stand beside the final name until it is whole: `.train.beton.partial` with the images, in their places, and
`.train.beton.journal` with a line for each of them. A line is written only once its image is on disk, so that whatever
ends the process or the machine, the images that the journal lists are there. The bytes depend on the images alone, not
on how often the writing was broken off.
"""

from __future__ import annotations

import json
import os
import time
from array import array
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Int64

from mem import files
from mem.data.beton.encoding import JPEG, RAW, Encoded
from mem.data.beton.libffcv import (
    ALLOC_TABLE_TYPE,
    CURRENT_VERSION,
    FieldDescType,
    HeaderType,
    IntField,
    RGBImageField,
    get_metadata_type,
)

PAGE_BYTES = 8 << 20
"""No image crosses a page's border, so that FFCV's own page cache can read the file. Where an image is larger, pages of
the whole file are: the next power of two that it fits into."""
FIELDS = {"image": (2, RGBImageField()), "label": (1, IntField())}
"""Name, FFCV's type id, handler."""
METADATA = get_metadata_type([handler for _, handler in FIELDS.values()])
_SYNC_SECONDS = 5.0
_WHOLE = "whole"
_LETTERS = {(RAW, False): "r", (JPEG, False): "j", (JPEG, True): "k"}
_MODES = {letter: mode for mode, letter in _LETTERS.items()}
_COLUMNS = 5


class BetonWriter:
    """Writes one .beton file, image after image, going on where an earlier attempt with the same settings stopped.

    Args:
        path: The final name.
        planned: Images that are to be written or skipped.
        settings: What the bytes depend on; an attempt of other settings is thrown away.
        keep_skipped: Whether an image that an earlier attempt skipped stays so; else the writing goes on from there.
    """

    def __init__(self, path: Path, planned: int, settings: Mapping[str, Any], keep_skipped: bool = True) -> None:
        self.path = path
        self.planned = planned
        self.data = path.with_name(f".{path.name}.partial")
        self.journal = path.with_name(f".{path.name}.journal")
        self._first_line = json.dumps({"planned": planned, **settings}, sort_keys=True).encode() + b"\n"
        self._keep_skipped = keep_skipped
        self._begin()

    def _begin(self) -> None:
        header_bytes = HeaderType.itemsize + len(FIELDS) * FieldDescType.itemsize + self.planned * METADATA.itemsize
        self._position = -(-header_bytes // PAGE_BYTES) * PAGE_BYTES
        self._page_bytes = PAGE_BYTES
        self.images = array("Q")
        """Numbers of the images that were written."""
        self.skipped: dict[int, str] = {}
        """Numbers of the images that were not, with the reasons."""
        self.kept = 0
        """JPEG files that went in as they were."""
        self._pictures = array("Q")
        """Mode, height, width, position and size of each, one after the other: 40 bytes an image."""
        self.whole = False

    @property
    def count(self) -> int:
        """Images that were written or skipped."""
        return len(self.images) + len(self.skipped)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._position

    def __enter__(self) -> BetonWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines_bytes = self._resume()
        self._data = os.open(self._on_disk(), os.O_RDWR | os.O_CREAT, 0o666)
        self._lines = os.open(self.journal, os.O_RDWR | os.O_CREAT, 0o666)
        if not self.whole:
            os.ftruncate(self._data, self._position if self.count else 0)
        os.ftruncate(self._lines, lines_bytes)
        os.lseek(self._lines, 0, os.SEEK_END)
        self._unsaved: list[bytes] = []
        self._saving: Future[None] | None = None
        self._saver = ThreadPoolExecutor(1, "journal")
        self._saved_at = time.monotonic()
        self._saved_position = os.fstat(self._data).st_size
        if not lines_bytes:
            _write(self._lines, self._first_line, self.journal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._saving is not None and not isinstance(error, OSError):
                self._saving.result()
            if isinstance(error, OSError):
                # A full disk, most likely: what the journal does not list yet is given back, as room for the log.
                self._saver.shutdown()
                os.ftruncate(self._data, self._saved_position)
            else:
                self._save(self._unsaved, self._position)
        finally:
            self._saver.shutdown()
            os.close(self._data)
            os.close(self._lines)

    def add(self, image: Encoded) -> None:
        """Write the next image.

        Raises:
            OSError: The disk is full, or fails.
        """
        self._place(image.mode, image.height, image.width, len(image.content), image.kept)
        _write(self._data, image.content, self.data, self._position - len(image.content))
        letter = _LETTERS[image.mode, image.kept]
        self._note(f"{letter} {image.height} {image.width} {len(image.content)}\n")

    def skip(self, reason: str) -> None:
        """Leave the next image out."""
        self.skipped[self.count] = reason
        self._note(f"u {json.dumps(reason)}\n")

    def finish(self, labels: Int64[np.ndarray, " images"]) -> None:
        """Write the tables, once every image was written or skipped; `publish` then gives the file its name.

        Args:
            labels: Class of each planned image.
        """
        assert self.count == self.planned, f"{self.count} of {self.planned} images"
        if self.whole:
            return
        metadata = np.zeros(len(self.images), dtype=METADATA)
        allocations = np.zeros(len(self.images), dtype=ALLOC_TABLE_TYPE)
        metadata["f1"] = labels[np.asarray(self.images, dtype=np.int64)]
        if self._pictures:
            modes, heights, widths, positions, sizes = np.asarray(self._pictures).reshape(-1, _COLUMNS).T
            image = metadata["f0"]
            image["mode"], image["height"], image["width"], image["data_ptr"] = modes, heights, widths, positions
            allocations["sample_id"] = np.arange(len(self.images))
            allocations["ptr"], allocations["size"] = positions, sizes
        _write(self._data, allocations.tobytes(), self.data, self._position)
        _write(self._data, self._header() + metadata.tobytes(), self.data, 0)
        os.ftruncate(self._data, self._position + allocations.nbytes)
        self._unsaved.append(f"{_WHOLE} {self._position + allocations.nbytes}\n".encode())
        if self._saving is not None:
            self._saving.result()
        self._save(self._unsaved, self._position + allocations.nbytes)
        self._unsaved = []
        self.whole = True

    def publish(self) -> None:
        """Give a whole file its name."""
        assert self.whole
        if self.data.exists():
            os.replace(self.data, self.path)

    def forget(self) -> None:
        """Remove the journal, once all that belongs to the file is there too."""
        self.journal.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove both files."""
        self.data.unlink(missing_ok=True)
        self.forget()

    # --- the journal -----------------------------------------------------------------------------------------

    def _on_disk(self) -> Path:
        """Where the images are: under the final name, where an attempt ended between giving names."""
        return self.path if self.whole and not self.data.exists() else self.data

    def _resume(self) -> int:
        """Take over what an earlier attempt left; returns how much of its journal holds."""
        content = self.journal.read_bytes() if self.journal.exists() else b""
        if not content.startswith(self._first_line):
            return 0
        sizes = [path.stat().st_size for path in (self.data, self.path) if path.exists()]
        on_disk = sizes[0] if sizes else 0
        at = len(self._first_line)
        for line in content[at:].split(b"\n")[:-1]:  # what follows the last end of line was torn
            try:
                believed = self._take_over(line.decode(), on_disk)
            except ValueError:  # a disk that lost power may hold anything
                believed = False
            if not believed:
                break
            at += len(line) + 1
        if self.whole or self.data.exists():
            return at
        self._begin()
        return 0

    def _take_over(self, line: str, on_disk: int) -> bool:
        """Believe a line of the journal, or not."""
        word, _, rest = line.partition(" ")
        if word == _WHOLE:
            self.whole = self.count == self.planned and int(rest) == on_disk
            return self.whole
        if self.count == self.planned:
            return False
        if word == "u" and self._keep_skipped:
            self.skipped[self.count] = json.loads(rest)
            return True
        if word not in _MODES:
            return False
        mode, kept = _MODES[word]
        height, width, size = map(int, rest.split())
        if self._start_of(size) + size > on_disk:
            return False
        self._place(mode, height, width, size, kept)
        return True

    def _place(self, mode: int, height: int, width: int, size: int, kept: bool) -> None:
        """Give the next image its place."""
        start = self._start_of(size)
        self.images.append(self.count)
        self._pictures.extend((mode, height, width, start, size))
        self._page_bytes = max(self._page_bytes, _page_for(size))
        self._position = start + size
        self.kept += kept

    def _start_of(self, size: int) -> int:
        """Where the next image goes."""
        page = _page_for(size)
        inside = self._position % page
        return self._position if inside + size <= page else self._position + page - inside

    def _note(self, line: str) -> None:
        self._unsaved.append(line.encode())
        if time.monotonic() - self._saved_at < _SYNC_SECONDS or not (self._saving is None or self._saving.done()):
            return
        if self._saving is not None:
            self._saving.result()
        # By a thread, so that the workers do not wait for the disk.
        self._saving = self._saver.submit(self._save, self._unsaved, self._position)
        self._unsaved = []
        self._saved_at = time.monotonic()

    def _save(self, lines: list[bytes], position: int) -> None:
        """Put on disk what was written up to a position, and then say so in the journal."""
        if lines:
            os.fsync(self._data)
            _write(self._lines, b"".join(lines), self.journal)
            os.fsync(self._lines)
            self._saved_position = position

    def _header(self) -> bytes:
        header = np.zeros((), dtype=HeaderType)
        header["version"] = CURRENT_VERSION
        header["num_samples"] = len(self.images)
        header["num_fields"] = len(FIELDS)
        header["page_size"] = self._page_bytes
        header["alloc_table_ptr"] = self._position
        descriptors = np.zeros(len(FIELDS), dtype=FieldDescType)
        for descriptor, (name, (type_id, _)) in zip(descriptors, FIELDS.items(), strict=True):
            descriptor["type_id"] = type_id
            descriptor["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
        return header.tobytes() + descriptors.tobytes()


def _page_for(size: int) -> int:
    return max(PAGE_BYTES, 1 << (size - 1).bit_length())


def publish_all(partials: list[BetonWriter]) -> None:
    """Give whole files their names, one right after the other."""
    for partial in partials:
        partial.publish()
    for folder in {partial.path.parent for partial in partials}:
        files.sync_folder(folder)


def _write(descriptor: int, content: bytes | bytearray | memoryview, path: Path, position: int | None = None) -> None:
    """Write everything, at a position or at the end; an error names the file."""
    rest = memoryview(content)
    try:
        while rest:
            count = os.write(descriptor, rest) if position is None else os.pwrite(descriptor, rest, position)
            rest = rest[count:]
            position = None if position is None else position + count
    except OSError as error:
        error.filename = str(path)
        raise
