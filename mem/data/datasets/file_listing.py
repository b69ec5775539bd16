"""Which of the listed files are on disk: one directory listing a folder, many folders at a time.

A data set of a million files in ten thousand folders is ten thousand listings. Sizes cost a call a file more; they are
asked for in the same threads, and only as long as there is time.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mem.data.datasets import ImageSet, ImageSplit
from mem.data.datasets.problems import MAX_EXAMPLES, Problems

THREADS = 16
"""Listings at a time: network file systems answer late, but many at once."""
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
)
"""Of image files, in lower case."""


@dataclass(frozen=True)
class FolderListing:
    """What a folder holds of the files that are listed in it."""

    folder: str
    listed: frozenset[str]
    exists: bool = True
    closed: str = ""
    """Why it cannot be listed, where it is there."""
    missing: tuple[str, ...] = ()
    """Listed names that are no file on disk, sorted."""
    empty: tuple[str, ...] = ()
    """Listed files of 0 bytes, sorted."""
    surplus: int = 0
    """Image files that are not listed."""
    surplus_named: tuple[str, ...] = ()
    unsized: int = 0
    """Listed files whose size was not asked for, the time being over."""


def list_folders(splits: Iterable[ImageSplit], seconds: float | None = None) -> list[FolderListing]:
    """Look for the files of the splits; folders in sorted order.

    Args:
        splits: Those without files of their own are left out.
        seconds: After so long sizes are no longer asked for. Without it, all are.
    """
    folders: dict[str, set[str]] = {}
    for split in splits:
        for file in split.files or ():
            folder, _, name = file.rpartition("/")
            folders.setdefault(folder or ("/" if file.startswith("/") else "."), set()).add(name)
    until = None if seconds is None else time.monotonic() + seconds
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda folder: _look(folder, folders[folder], until), sorted(folders)))


def _look(folder: str, names: set[str], until: float | None) -> FolderListing:
    listed = frozenset(names)
    missing = set(names)
    empty: list[str] = []
    surplus, surplus_named, unsized = 0, [], 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name in missing:
                    if until is not None and time.monotonic() > until:
                        unsized += 1
                    else:
                        size = _size(entry)
                        if size is None:
                            continue
                        if size == 0:
                            empty.append(name)
                    missing.discard(name)
                elif name not in listed and os.path.splitext(name)[1].lower() in SUFFIXES:
                    surplus += 1
                    if len(surplus_named) < MAX_EXAMPLES:
                        surplus_named.append(name)
    except (FileNotFoundError, NotADirectoryError):
        return FolderListing(folder, listed, exists=False, missing=tuple(sorted(names)))
    except OSError as error:
        return FolderListing(folder, listed, closed=error.strerror or str(error), missing=tuple(sorted(names)))
    return FolderListing(
        folder,
        listed,
        missing=tuple(sorted(missing)),
        empty=tuple(sorted(empty)),
        surplus=surplus,
        surplus_named=tuple(sorted(surplus_named)),
        unsized=unsized,
    )


def _size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a file; nothing for a folder or a link that leads nowhere."""
    try:
        state = entry.stat()
    except OSError:
        return None
    return state.st_size if stat.S_ISREG(state.st_mode) else None


def require_files(images: ImageSet, *, empty_too: bool = True) -> None:
    """Refuse a data set whose files are not all there, before any work is done on it.

    Args:
        images: Its splits; nothing is asked of those without files.
        empty_too: Whether files of 0 bytes are refused as well.

    Raises:
        UserError: How many files are missing and how many are empty, the first few by name.
    """
    faults = Problems("Images that are listed are not on disk")
    for listing in list_folders(images.splits.values()):
        if listing.closed:
            where = f"{listing.folder} ({listing.closed})"
            faults.add_all("images in folders that cannot be read", [where], len(listing.listed))
            continue
        kind = "files are missing" if listing.exists else "files are missing with their folder"
        for name in listing.missing:
            faults.add(kind, os.path.join(listing.folder, name))
        for name in listing.empty if empty_too else ():
            faults.add("files are empty (0 bytes)", os.path.join(listing.folder, name))
    if faults:
        faults.subject += " (`mem data check` on the study says more)"
    faults.raise_if_any()
