"""Search for listed image files on disk, with one directory listing per folder and many folders in parallel.

A dataset with a million files in ten thousand folders requires ten thousand listings. File sizes require one additional
call per file. The threads that list the folders also read the sizes, up to a time limit.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mem.data.codecs.suffixes import is_image_name
from mem.data.datasets import ImageSet, ImageSplit
from mem.data.datasets.problems import MAX_EXAMPLES, Problems

THREADS = 16
"""Number of concurrent listings. Network file systems have a high latency, but serve many requests in parallel."""


@dataclass(frozen=True)
class FolderListing:
    """The listed files in one folder, compared with the files on disk."""

    folder: str
    listed: frozenset[str]
    """Names of the listed files."""
    exists: bool = True
    unreadable: str = ""
    """Reason why an existing folder cannot be read; empty for readable folders."""
    missing: tuple[str, ...] = ()
    """Listed names without a file on disk, sorted."""
    empty: tuple[str, ...] = ()
    """Listed files of 0 bytes, sorted."""
    unlisted: int = 0
    """Number of image files on disk that are not listed."""
    unlisted_examples: tuple[str, ...] = ()
    unsized: int = 0
    """Number of listed files whose size was not read due to the time limit."""


def list_folders(splits: Iterable[ImageSplit], seconds: float | None = None) -> list[FolderListing]:
    """Compare the files listed in the splits with the files on disk. Return one listing per folder, sorted by folder.

    Args:
        splits: The splits. Splits whose images are not in separate files are skipped.
        seconds: Time limit for reading file sizes. None disables the limit.
    """
    folders: dict[str, set[str]] = {}
    for split in splits:
        for file in split.files or ():
            folder, _, name = file.rpartition("/")
            folders.setdefault(folder or ("/" if file.startswith("/") else "."), set()).add(name)
    deadline = None if seconds is None else time.monotonic() + seconds
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda folder: _list_folder(folder, folders[folder], deadline), sorted(folders)))


def _list_folder(folder: str, names: set[str], deadline: float | None) -> FolderListing:
    listed = frozenset(names)
    missing = set(names)
    empty: list[str] = []
    unlisted, unlisted_examples, unsized = 0, [], 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name in missing:
                    if deadline is not None and time.monotonic() > deadline:
                        unsized += 1
                    else:
                        size = _file_size(entry)
                        if size is None:
                            continue
                        if size == 0:
                            empty.append(name)
                    missing.discard(name)
                elif name not in listed and is_image_name(name):
                    unlisted += 1
                    if len(unlisted_examples) < MAX_EXAMPLES:
                        unlisted_examples.append(name)
    except (FileNotFoundError, NotADirectoryError):
        return FolderListing(folder, listed, exists=False, missing=tuple(sorted(names)))
    except OSError as error:
        return FolderListing(folder, listed, unreadable=error.strerror or str(error), missing=tuple(sorted(names)))
    return FolderListing(
        folder,
        listed,
        missing=tuple(sorted(missing)),
        empty=tuple(sorted(empty)),
        unlisted=unlisted,
        unlisted_examples=tuple(sorted(unlisted_examples)),
        unsized=unsized,
    )


def _file_size(entry: os.DirEntry[str]) -> int | None:
    """Return the size of a file in bytes; None if the entry is not a regular file or cannot be accessed."""
    try:
        status = entry.stat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def require_files(images: ImageSet, *, empty_too: bool = True) -> None:
    """Raise an error if image files are missing or empty, or if their folders cannot be read.

    Args:
        images: The dataset. Splits whose images are not in separate files are skipped.
        empty_too: Whether files of 0 bytes are an error.

    Raises:
        UserError: Files are missing or empty, or folders cannot be read. The message gives counts and examples.
    """
    problems = Problems("Listed images are not on disk")
    for listing in list_folders(images.splits.values()):
        if listing.unreadable:
            folder = f"{listing.folder} ({listing.unreadable})"
            problems.add_many("images in folders that cannot be read", [folder], len(listing.listed))
            continue
        kind = "missing files" if listing.exists else "files in missing folders"
        for name in listing.missing:
            problems.add(kind, os.path.join(listing.folder, name))
        for name in listing.empty if empty_too else ():
            problems.add("empty files", os.path.join(listing.folder, name))
    if problems:
        problems.subject += ". Run `mem data check` on the study for details"
    problems.raise_if_any()
