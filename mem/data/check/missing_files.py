"""Report of missing files with the likely cause, such as a partially unpacked archive or a wrong root or suffix."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from mem.data.check.findings import Findings, Severity, counted
from mem.data.datasets.file_listing import FolderListing
from mem.data.datasets.spellings import composed, form

_PLACES_LAYOUTS = ({"train", "val"}, {"data_256", "val_256"}, {"data_large", "val_large"})
"""Top-level folders in the Places365-Standard archives: one set per archive layout."""
_ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip", ".tar.xz", ".tar.bz2")
_MAX_SEARCHED_FOLDERS = 2_000
"""Maximum number of folders that the search for a moved folder visits."""
_MAX_SEARCH_DEPTH = 4

_BACKSLASH = "\\"
_ADVICE_ON_BACKSLASHES = "The paths contain backslashes, as on Windows. Replace each backslash with `/` in the lists."

_MissingFolders = Mapping[tuple[str, str], Sequence[FolderListing]]
"""Listings of missing folders, by the deepest existing folder on their path and the first missing name below it."""


def explain_missing_files(listings: Sequence[FolderListing], findings: Findings) -> None:
    """Add findings for folders that are missing or cannot be read, and for missing files in existing folders."""
    missing: dict[tuple[str, str], list[FolderListing]] = {}
    for listing in listings:
        if listing.unreadable:
            findings.add(
                Severity.ERROR,
                f"A folder with {len(listing.listed):,} listed images cannot be read ({listing.unreadable})",
                (listing.folder,),
                advice="Fix its permissions.",
            )
        elif not listing.exists:
            missing.setdefault(_existing_parent(listing.folder), []).append(listing)
    children_of: dict[str, list[str]] = {}
    for parent, child in missing:
        children_of.setdefault(parent, []).append(child)
    for parent, children in sorted(children_of.items()):
        _report_folders(parent, sorted(children), missing, listings, findings)
    _report_files([listing for listing in listings if listing.exists and listing.missing], findings)


def _existing_parent(folder: str) -> tuple[str, str]:
    """Return the deepest existing folder on a path and the first missing name below it."""
    child = folder
    while True:
        parent = os.path.dirname(child) or "."
        if os.path.isdir(parent) or parent == child:
            return parent, os.path.basename(child)
        child = parent


# --- missing folders -----------------------------------------------------------------------------------


def _report_folders(
    parent: str,
    children: Sequence[str],
    missing: _MissingFolders,
    listings: Sequence[FolderListing],
    findings: Findings,
) -> None:
    images = sum(len(listing.listed) for child in children for listing in missing[parent, child])
    expected = sorted(_children(parent, (listing.folder for listing in listings)))
    existing = _names_in(parent)
    if len(children) == 1:
        text = f"The folder {os.path.join(parent, children[0])}/ with {images:,} listed images does not exist"
        examples: tuple[str, ...] = ()
    else:
        text = f"{len(children):,} of {len(expected):,} folders in {parent}/ with {images:,} listed images do not exist"
        examples = tuple(children)
    advice = _advice_on_layout(parent, children, missing, [name for name in existing if name not in expected])
    if not advice and len(children) < len(expected):
        they = "It is the last one" if len(children) == 1 else "They are the last ones"
        last = f"{they} in alphabetical order. " if children == expected[-len(children) :] else ""
        advice = f"{last}The archive was only partially unpacked or copied. Unpack it again."
    if not advice:
        content = f"contains {_first_few(existing)}" if existing else "is empty"
        advice = f"{parent}/ {content}. Check that the paths in the lists are relative to the study's root."
    findings.add(Severity.ERROR, text, examples, advice=advice)


def _advice_on_layout(parent: str, children: Sequence[str], missing: _MissingFolders, unlisted: Sequence[str]) -> str:
    """Return advice if a known difference between the folders on disk and in the lists is recognised, else "".

    Args:
        parent: Existing folder.
        children: Names of the missing folders below it.
        missing: Listings of the missing folders.
        unlisted: Names below `parent` on disk that are not in the lists.
    """
    first = children[0]
    if any(_BACKSLASH in child for child in children):
        return _ADVICE_ON_BACKSLASHES
    sample = missing[parent, first][0]
    listed = next((layout for layout in _PLACES_LAYOUTS if layout.issuperset(children)), set())
    others = [layout for layout in _PLACES_LAYOUTS if layout is not listed and layout.intersection(unlisted)]
    if listed and others:
        found = ", ".join(f"{name}/" for name in sorted(set.union(*others).intersection(unlisted)))
        return (
            f"The lists refer to {', '.join(f'{child}/' for child in children)}, but {found} is on disk: a "
            "different Places archive. Use the lists for that archive, or unpack the archive that matches these lists."
        )
    packed = [
        name
        for name in unlisted
        if any(name == child + suffix for child in children[:50] for suffix in _ARCHIVE_SUFFIXES)
    ]
    if packed:
        return f"Not unpacked: {_first_few(packed)} in {parent}/. Unpack each archive into a folder with the same name."
    on_disk = {_without_case(name): name for name in unlisted}
    renamed = next((child for child in children if _without_case(child) in on_disk), None)
    if renamed is not None:
        found = on_disk[_without_case(renamed)]
        if composed(found) == composed(renamed):
            return _advice_on_forms(renamed, found)
        return f"The folder on disk is {found}/, with different capitalisation. Rename it or correct the lists."
    if os.path.exists(os.path.join(parent, min(sample.listed))):
        return f"The images are directly in {parent}/. Move them into the folders, or use lists without the folders."
    moved = _find_moved(parent, first, os.path.relpath(sample.folder, os.path.join(parent, first)))
    if moved is not None:
        return f"The folder was found at {os.path.join(moved, first)}/. Set the root in the study to {moved}."
    return ""


def _find_moved(root: str, name: str, below: str) -> str | None:
    """Return the folder nearest to `root` that contains `name`/`below`, by a bounded breadth-first search."""
    queue, opened = [(root, 0)], 0
    while queue and opened < _MAX_SEARCHED_FOLDERS:
        folder, depth = queue.pop(0)
        opened += 1
        if depth and os.path.isdir(os.path.join(folder, name, below)):
            return folder
        if depth < _MAX_SEARCH_DEPTH:
            queue += [(os.path.join(folder, child), depth + 1) for child in _names_in(folder, folders_only=True)]
    above = os.path.dirname(os.path.abspath(root))
    return above if os.path.isdir(os.path.join(above, name, below)) else None


def _children(parent: str, folders: Iterable[str]) -> set[str]:
    """Return the names directly below `parent` in the given folder paths."""
    prefix = "" if parent == "." else parent.rstrip("/") + "/"
    return {
        folder[len(prefix) :].split("/", 1)[0] for folder in folders if folder.startswith(prefix) and folder != parent
    }


def _names_in(folder: str, folders_only: bool = False) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not folders_only or entry.is_dir())
    except OSError:
        return []


# --- missing files in existing folders -----------------------------------------------------------------


def _report_files(listings: Sequence[FolderListing], findings: Findings) -> None:
    missing = [os.path.join(listing.folder, name) for listing in listings for name in listing.missing]
    if not missing:
        return
    renamed = _renamed_example(listings[:50])
    wanted, found = renamed or ("", "")
    truncated = [listing for listing in listings if _lacks_its_end(listing)]
    if any(_BACKSLASH in name for listing in listings for name in listing.missing):
        advice = _ADVICE_ON_BACKSLASHES
    elif renamed and composed(wanted) == composed(found):
        advice = _advice_on_forms(wanted, found)
    elif renamed:
        advice = (
            f"Files with a similar name exist ({found} for {wanted}). The suffix or capitalisation differs. Rename "
            "them or correct the lists."
        )
    elif truncated and len(truncated) == len(listings):
        folders = _first_few([listing.folder for listing in truncated])
        advice = (
            f"They are the last ones in alphabetical order in {folders}. The archive was only partially unpacked or "
            "copied. Unpack it again."
        )
    else:
        advice = "Download or unpack them again."
    where = f" in {len(listings):,} existing folders" if len(listings) > 1 else ""
    text = f"{counted(len(missing), 'listed file is', 'listed files are')} missing{where}"
    findings.add(Severity.ERROR, text, missing, advice=advice)


def _renamed_example(listings: Sequence[FolderListing]) -> tuple[str, str] | None:
    """Return a missing and an existing file whose names differ only in suffix, capitalisation or Unicode form."""
    for listing in listings:
        stems = {_without_case(os.path.splitext(name)[0]): name for name in listing.missing}
        for name in _names_in(listing.folder):
            wanted = stems.get(_without_case(os.path.splitext(name)[0]))
            if wanted is not None and name not in listing.listed:
                return wanted, name
    return None


def _without_case(name: str) -> str:
    """Return a text that is equal for names that differ only in capitalisation or Unicode form."""
    return composed(composed(name).casefold())


def _advice_on_forms(listed: str, on_disk: str) -> str:
    """Return advice for a name that the list and the disk spell in different Unicode forms."""
    return (
        f"{on_disk} exists, but its name on disk is in the Unicode form {form(on_disk)} and in the lists in "
        f"{form(listed)}, which look the same. Convert the lists to {form(on_disk)}, or rename the files, for example "
        f"with `convmv -r -f utf8 -t utf8 --{form(listed).lower()} --notest FOLDER`."
    )


def _lacks_its_end(listing: FolderListing) -> bool:
    """Return whether at least three files are missing and they are the last listed files in alphabetical order."""
    return 3 <= len(listing.missing) < len(listing.listed) and (
        sorted(listing.listed)[-len(listing.missing) :] == list(listing.missing)
    )


def _first_few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6:,} more" if len(names) > 6 else "")
