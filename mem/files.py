"""Atomic file writes: readers never observe a partly written file. Errors of the operating system as messages."""

from __future__ import annotations

import errno
import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

DISK_FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers for a full disk and for an exceeded disk quota."""
_PERMISSION_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
USER_ERRORS = DISK_FULL_ERRORS | _PERMISSION_ERRORS
"""Error numbers of problems that the user can solve."""
_LOCKS_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""Error numbers of lock requests on file systems that do not support locks, such as some Lustre mounts."""


def describe_os_error(error: OSError, folder: Path) -> str:
    """Return the message for an error that the operating system reported, such as a full disk.

    Args:
        error: The error.
        folder: Folder that the message names if the error has no file name.
    """
    path = error.filename or folder
    if error.errno in DISK_FULL_ERRORS:
        return f"{path}: the disk is full. No incomplete output was left. Free disk space and run the command again."
    if error.errno in _PERMISSION_ERRORS:
        return f"{path}: no permission to write. Change the permissions, or use another folder."
    return str(error) if error.filename else f"{path}: {error}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise an OSError of the body that has no file name, such as that of a failed write, with the name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic(path: Path, mode: str = "w", *, durable: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file next to `path`; on exit, flush it to disk and rename it to `path`.

    If `durable` is not set, the file is not flushed to disk. It can then be lost or empty after a power failure, but
    not after the end of a process.

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
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    if durable:
        sync_folder(path.parent)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file atomically. For `durable`, see `atomic`."""
    with atomic(path, durable=durable) as file:
        file.write(text)


def try_lock(file: IO[Any], *, shared: bool = False) -> bool | None:
    """Lock a file (flock) without waiting. The kernel releases the lock when the file is closed or the process ends.

    Args:
        file: The open file.
        shared: Whether other processes can have a shared lock at the same time.

    Returns:
        Whether the file is locked now: False if another process holds a lock, and None if the file system does not
        support locks.

    Raises:
        OSError: The request failed for another reason.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _LOCKS_UNSUPPORTED:
            return None
        raise
    return True


def read_array(path: Path, *, mapped: bool = False) -> np.ndarray:
    """Return the array in a `.npy` file.

    Args:
        path: The file.
        mapped: Whether to map the file into memory instead of reading it.

    Raises:
        ValueError: The file does not contain an array of numbers, or is an archive of arrays (NumPy's format .npz).
        OSError: The file is missing or cannot be read.
        EOFError: The file is empty.
    """
    with open(path, "rb") as file:
        if file.read(2) == b"PK":  # NumPy does not close a damaged archive
            raise ValueError("it is an archive of arrays (.npz); save each array with numpy.save")
    return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a `.npy` file atomically. In contrast to `np.save`, an error has an error number and a file name."""
    content = io.BytesIO()
    np.save(content, array)
    with atomic(path, "wb") as file:
        file.write(content.getbuffer())


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
