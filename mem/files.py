"""Atomic file writes: readers never observe a partly written file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

DISK_FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers for a full disk and for an exceeded disk quota."""


@contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file next to `path`; on exit, flush it to disk and rename it to `path`.

    If the body raises an exception or the disk is full, the temporary file is deleted, and an existing file at `path`
    remains unchanged. An OSError that has no file name, or that of the temporary file, is raised with `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # If the text contains file names that are not valid UTF-8, write their original bytes (see os.fsdecode).
        encoding, errors = (None, None) if "b" in mode else ("utf-8", "surrogateescape")
        with open(temporary, mode, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as file:
        file.write(text)


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, if the file system supports this, so that a rename in the folder is durable."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
