"""Resumable writer for .beton files.

An incomplete file consists of two hidden files in the destination folder: `.train.beton.partial` contains the images at
their final positions, and `.train.beton.journal` contains one line per image. A line is written only after its image
has reached the disk. The images listed in the journal are therefore on disk even if the process was killed or the
machine crashed. The bytes of the finished file depend only on the images and the settings, not on interruptions.
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
from mem.data.beton.encoding import EncodedImage
from mem.data.beton.format import JPEG, PAGE_BYTES, RAW
from mem.data.beton.tables import ALLOCATION, FIELD, FIELDS, HEADER, METADATA, VERSION

_SYNC_SECONDS = 5.0
_COMPLETE = "whole"
"""First word of the journal line that marks a complete file. Existing journals contain it, so it must not change."""
_SKIPPED = "u"
_LETTERS = {(RAW, False): "r", (JPEG, False): "j", (JPEG, True): "k"}
"""First letter of an image's journal line, by storage mode and whether the JPEG data were copied."""
_MODES = {letter: mode for mode, letter in _LETTERS.items()}
_COLUMNS = 5


class BetonWriter:
    """Writes a .beton file image by image. Resumes an interrupted attempt with the same settings.

    Args:
        path: Final path of the file.
        planned: Total number of images, including skipped ones.
        settings: Everything that the file's bytes depend on. An attempt with different settings is discarded.
        keep_skipped: Whether images that the earlier attempt skipped remain skipped. If False, writing resumes at the
            first skipped image.
    """

    def __init__(self, path: Path, planned: int, settings: Mapping[str, Any], keep_skipped: bool = True) -> None:
        self.path = path
        self.planned = planned
        self.partial_path = path.with_name(f".{path.name}.partial")
        self.journal_path = path.with_name(f".{path.name}.journal")
        self._first_line = json.dumps({"planned": planned, **settings}, sort_keys=True).encode() + b"\n"
        self._keep_skipped = keep_skipped
        self._reset()

    def _reset(self) -> None:
        header_bytes = HEADER.itemsize + len(FIELDS) * FIELD.itemsize + self.planned * METADATA.itemsize
        self._position = -(-header_bytes // PAGE_BYTES) * PAGE_BYTES
        self._page_bytes = PAGE_BYTES
        self.written = array("Q")
        """Indices of the images in the file."""
        self.skipped: dict[int, str] = {}
        """Reason for each skipped image, by image index."""
        self.copied = 0
        """Number of JPEG files that were copied without re-encoding."""
        self._entries = array("Q")
        """Mode, height, width, position and size of each image in turn: 40 bytes per image."""
        self.complete = False

    @property
    def count(self) -> int:
        """Number of images that were written or skipped."""
        return len(self.written) + len(self.skipped)

    def __enter__(self) -> BetonWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        journal_bytes = self._resume()
        self._data = os.open(self._data_path(), os.O_RDWR | os.O_CREAT, 0o666)
        self._journal = os.open(self.journal_path, os.O_RDWR | os.O_CREAT, 0o666)
        if not self.complete:
            os.ftruncate(self._data, self._position if self.count else 0)
        os.ftruncate(self._journal, journal_bytes)
        os.lseek(self._journal, 0, os.SEEK_END)
        self._unsaved: list[bytes] = []
        self._saving: Future[None] | None = None
        self._saver = ThreadPoolExecutor(1, "journal")
        self._saved_at = time.monotonic()
        self._saved_position = os.fstat(self._data).st_size
        if not journal_bytes:
            _write(self._journal, self._first_line, self.journal_path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._saving is not None and not isinstance(error, OSError):
                self._saving.result()
            if isinstance(error, OSError):
                # The disk is probably full. Delete images that are not in the journal, to free some space for the log.
                self._saver.shutdown()
                os.ftruncate(self._data, self._saved_position)
            else:
                self._save(self._unsaved, self._position)
        finally:
            self._saver.shutdown()
            os.close(self._data)
            os.close(self._journal)

    def add(self, image: EncodedImage) -> None:
        """Write the next image.

        Raises:
            OSError: Writing failed, for example because the disk is full.
        """
        self._append_entry(image.mode, image.height, image.width, len(image.content), image.copied)
        _write(self._data, image.content, self.partial_path, self._position - len(image.content))
        letter = _LETTERS[image.mode, image.copied]
        self._append_line(f"{letter} {image.height} {image.width} {len(image.content)}\n")

    def skip(self, reason: str) -> None:
        """Skip the next image."""
        self.skipped[self.count] = reason
        self._append_line(f"{_SKIPPED} {json.dumps(reason)}\n")

    def finish(self, labels: Int64[np.ndarray, " images"]) -> None:
        """Write the tables after the last image. Call `publish` afterwards to rename the file to its final name.

        Args:
            labels: Class of each image, including skipped ones.
        """
        assert self.count == self.planned, f"{self.count} of {self.planned} images"
        if self.complete:
            return
        metadata = np.zeros(len(self.written), dtype=METADATA)
        allocations = np.zeros(len(self.written), dtype=ALLOCATION)
        metadata["f1"] = labels[np.asarray(self.written, dtype=np.int64)]
        if self._entries:
            modes, heights, widths, positions, sizes = np.asarray(self._entries).reshape(-1, _COLUMNS).T
            image = metadata["f0"]
            image["mode"], image["height"], image["width"], image["data_ptr"] = modes, heights, widths, positions
            allocations["sample_id"] = np.arange(len(self.written))
            allocations["ptr"], allocations["size"] = positions, sizes
        _write(self._data, allocations.tobytes(), self.partial_path, self._position)
        _write(self._data, self._header() + metadata.tobytes(), self.partial_path, 0)
        os.ftruncate(self._data, self._position + allocations.nbytes)
        self._unsaved.append(f"{_COMPLETE} {self._position + allocations.nbytes}\n".encode())
        if self._saving is not None:
            self._saving.result()
        self._save(self._unsaved, self._position + allocations.nbytes)
        self._unsaved = []
        self.complete = True

    def publish(self) -> None:
        """Rename a complete file to its final name."""
        assert self.complete
        if self.partial_path.exists():
            os.replace(self.partial_path, self.path)

    def remove_journal(self) -> None:
        """Remove the journal. Call this after the file has been published and the manifest has been written."""
        self.journal_path.unlink(missing_ok=True)

    # --- the journal -----------------------------------------------------------------------------------------

    def _data_path(self) -> Path:
        """Return the path of the file that contains the images: the final path if publishing was interrupted."""
        return self.path if self.complete and not self.partial_path.exists() else self.partial_path

    def _resume(self) -> int:
        """Restore the state of an interrupted attempt and return the number of valid bytes in its journal."""
        content = self.journal_path.read_bytes() if self.journal_path.exists() else b""
        if not content.startswith(self._first_line):
            return 0
        sizes = [path.stat().st_size for path in (self.partial_path, self.path) if path.exists()]
        bytes_on_disk = sizes[0] if sizes else 0
        journal_bytes = len(self._first_line)
        for line in content[journal_bytes:].split(b"\n")[:-1]:  # text after the last newline is a truncated line
            try:
                valid = self._restore(line.decode(), bytes_on_disk)
            except ValueError:  # a power failure can leave arbitrary bytes
                valid = False
            if not valid:
                break
            journal_bytes += len(line) + 1
        if self.complete or self.partial_path.exists():
            return journal_bytes
        self._reset()
        return 0

    def _restore(self, line: str, bytes_on_disk: int) -> bool:
        """Restore the state from one journal line. Return whether the line is valid."""
        word, _, rest = line.partition(" ")
        if word == _COMPLETE:
            self.complete = self.count == self.planned and int(rest) == bytes_on_disk
            return self.complete
        if self.count == self.planned:
            return False
        if word == _SKIPPED and self._keep_skipped:
            self.skipped[self.count] = json.loads(rest)
            return True
        if word not in _MODES:
            return False
        mode, copied = _MODES[word]
        height, width, size = map(int, rest.split())
        if self._start_of(size) + size > bytes_on_disk:
            return False
        self._append_entry(mode, height, width, size, copied)
        return True

    def _append_entry(self, mode: int, height: int, width: int, size: int, copied: bool) -> None:
        """Add the next image to the table and advance the position past it."""
        start = self._start_of(size)
        self.written.append(self.count)
        self._entries.extend((mode, height, width, start, size))
        self._page_bytes = max(self._page_bytes, _page_bytes_for(size))
        self._position = start + size
        self.copied += copied

    def _start_of(self, size: int) -> int:
        """Return the position at which the next image, of the given size, starts."""
        page_bytes = _page_bytes_for(size)
        offset = self._position % page_bytes
        return self._position if offset + size <= page_bytes else self._position + page_bytes - offset

    def _append_line(self, line: str) -> None:
        self._unsaved.append(line.encode())
        if time.monotonic() - self._saved_at < _SYNC_SECONDS or not (self._saving is None or self._saving.done()):
            return
        if self._saving is not None:
            self._saving.result()
        # Flush in a thread, so that the workers do not wait for the disk.
        self._saving = self._saver.submit(self._save, self._unsaved, self._position)
        self._unsaved = []
        self._saved_at = time.monotonic()

    def _save(self, lines: list[bytes], position: int) -> None:
        """Flush the data file to disk, then append lines to the journal. `position` is the end of the last image."""
        if lines:
            os.fsync(self._data)
            _write(self._journal, b"".join(lines), self.journal_path)
            os.fsync(self._journal)
            self._saved_position = position

    def _header(self) -> bytes:
        header = np.zeros((), dtype=HEADER)
        header["version"] = VERSION
        header["num_samples"] = len(self.written)
        header["num_fields"] = len(FIELDS)
        header["page_size"] = self._page_bytes
        header["alloc_table_ptr"] = self._position
        descriptors = np.zeros(len(FIELDS), dtype=FIELD)
        for descriptor, (name, type_id) in zip(descriptors, FIELDS.items(), strict=True):
            descriptor["type_id"] = type_id
            descriptor["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
        return header.tobytes() + descriptors.tobytes()


def _page_bytes_for(size: int) -> int:
    return max(PAGE_BYTES, 1 << (size - 1).bit_length())


def publish_all(writers: list[BetonWriter]) -> None:
    """Rename complete files to their final names, one immediately after the other."""
    for writer in writers:
        writer.publish()
    for folder in {writer.path.parent for writer in writers}:
        files.sync_folder(folder)


def _write(descriptor: int, content: bytes | bytearray | memoryview, path: Path, position: int | None = None) -> None:
    """Write all bytes at `position`, or at the current position if it is None. Exceptions contain the file name."""
    rest = memoryview(content)
    try:
        while rest:
            count = os.write(descriptor, rest) if position is None else os.pwrite(descriptor, rest, position)
            rest = rest[count:]
            position = None if position is None else position + count
    except OSError as error:
        error.filename = str(path)
        raise
