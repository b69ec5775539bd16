"""Why listed files are not there: an archive half unpacked, the other archive, another root, other suffixes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from mem.data.check.findings import Findings, Severity
from mem.data.datasets.file_listing import FolderListing

_LAYOUTS = ({"train", "val"}, {"data_256", "val_256"}, {"data_large", "val_large"})
"""Folders of the archives of Places365-Standard."""
_PACKED = (".tar", ".tar.gz", ".tgz", ".zip", ".tar.xz", ".tar.bz2")
_SEARCHED = 2_000
"""Folders that a search for a moved one opens at most."""
_DEPTH = 4


def explain_missing_files(listings: Sequence[FolderListing], findings: Findings) -> None:
    """Add what is missing, folder by folder and file by file, with the likeliest reason."""
    groups: dict[tuple[str, str], list[FolderListing]] = {}
    for listing in listings:
        if listing.closed:
            findings.add(
                Severity.WRONG,
                f"Folder cannot be read ({listing.closed}), with {len(listing.listed):,} listed images",
                (listing.folder,),
                advice="Mend its permissions.",
            )
        elif not listing.exists:
            groups.setdefault(_break(listing.folder), []).append(listing)
    parents: dict[str, list[str]] = {}
    for parent, child in groups:
        parents.setdefault(parent, []).append(child)
    for parent, children in sorted(parents.items()):
        _tell_folders(parent, sorted(children), groups, listings, findings)
    _tell_files([listing for listing in listings if listing.exists and listing.missing], findings)


def _break(folder: str) -> tuple[str, str]:
    """The deepest folder of a path that exists, and the name below it that does not."""
    child = folder
    while True:
        parent = os.path.dirname(child) or "."
        if os.path.isdir(parent) or parent == child:
            return parent, os.path.basename(child)
        child = parent


# --- whole folders -------------------------------------------------------------------------------------


def _tell_folders(
    parent: str,
    children: Sequence[str],
    groups: dict[tuple[str, str], list[FolderListing]],
    listings: Sequence[FolderListing],
    findings: Findings,
) -> None:
    images = sum(len(listing.listed) for child in children for listing in groups[parent, child])
    expected = sorted(_children(parent, (listing.folder for listing in listings)))
    there = _names(parent)
    if len(children) == 1:
        what = f"{images:,} listed images lie in {os.path.join(parent, children[0])}/, which does not exist"
        examples: tuple[str, ...] = ()
    else:
        what = f"{len(children):,} of {len(expected):,} folders in {parent}/ are missing, with {images:,} listed images"
        examples = tuple(children)
    reason = _reason(parent, children, groups, there)
    if not reason and len(children) < len(expected):
        they = "It is the last one" if len(children) == 1 else "They are the last ones"
        last = f"{they} in alphabetical order. " if children == expected[-len(children) :] else ""
        reason = f"{last}The archive was unpacked or copied only in part; unpack it again."
    if not reason:
        held = f"It holds: {_few(there)}." if there else "It is empty."
        reason = f"{parent}/ {'exists' if os.path.isdir(parent) else 'does not exist either'}. {held} " + (
            "Is the root in the study the folder that the lists start from?"
        )
    findings.add(Severity.WRONG, what, examples, advice=reason)


def _reason(
    parent: str, children: Sequence[str], groups: dict[tuple[str, str], list[FolderListing]], there: Sequence[str]
) -> str:
    first = children[0]
    sample = groups[parent, first][0]
    listed = next((layout for layout in _LAYOUTS if layout.issuperset(children)), set())
    others = [layout for layout in _LAYOUTS if layout is not listed and layout.intersection(there)]
    if listed and others:
        found = ", ".join(f"{name}/" for name in sorted(set.union(*others).intersection(there)))
        return (
            f"The lists say {', '.join(f'{child}/' for child in children)}; on disk there is {found}: another archive "
            "of Places. Use the lists that are written for it, or unpack the archive that these are written for."
        )
    packed = [name for name in there if any(name == child + end for child in children[:50] for end in _PACKED)]
    if packed:
        return f"Not unpacked: {_few(packed)} in {parent}/. Unpack each into a folder of its name."
    folded = {name.casefold(): name for name in there}
    if first.casefold() in folded:
        return f"On disk it is written {folded[first.casefold()]}/, with other capitals. Rename it or mend the lists."
    if os.path.exists(os.path.join(parent, min(sample.listed))):
        return f"The images lie in {parent}/ itself. Move them into their folders, or use lists without the folders."
    moved = _search(parent, first, os.path.relpath(sample.folder, os.path.join(parent, first)))
    if moved is not None:
        return f"{os.path.join(moved, first)}/ has them: set the root in the study to {moved}."
    return ""


def _search(root: str, name: str, below: str) -> str | None:
    """A folder under `root` that holds `name`/`below`; nearest first, a bounded search."""
    queue, opened = [(root, 0)], 0
    while queue and opened < _SEARCHED:
        folder, depth = queue.pop(0)
        opened += 1
        if depth and os.path.isdir(os.path.join(folder, name, below)):
            return folder
        if depth < _DEPTH:
            queue += [(os.path.join(folder, child), depth + 1) for child in _names(folder, folders_only=True)]
    above = os.path.dirname(os.path.abspath(root))
    return above if os.path.isdir(os.path.join(above, name, below)) else None


def _children(parent: str, folders: Iterable[str]) -> set[str]:
    """Names right below `parent` that paths lead through."""
    start = "" if parent == "." else parent.rstrip("/") + "/"
    return {
        folder[len(start) :].split("/", 1)[0] for folder in folders if folder.startswith(start) and folder != parent
    }


def _names(folder: str, folders_only: bool = False) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not folders_only or entry.is_dir())
    except OSError:
        return []


# --- files in folders that are there ------------------------------------------------------------------


def _tell_files(listings: Sequence[FolderListing], findings: Findings) -> None:
    missing = [os.path.join(listing.folder, name) for listing in listings for name in listing.missing]
    if not missing:
        return
    renamed = _renamed(listings[:50])
    cut = [listing for listing in listings if _is_tail(listing)]
    if renamed:
        advice = f"Beside them lie files of nearly the same name ({renamed}): other suffixes or capitals than listed."
    elif cut and len(cut) == len(listings):
        advice = (
            f"In {_few([listing.folder for listing in cut])} the last ones in alphabetical order are missing: the "
            "archive was unpacked or copied only in part; unpack it again."
        )
    else:
        advice = "Download or unpack them again."
    where = f" in {len(listings):,} folders that are there" if len(listings) > 1 else ""
    findings.add(Severity.WRONG, f"{_files(len(missing), 'missing')}{where}", missing, advice=advice)


def _renamed(listings: Sequence[FolderListing]) -> str:
    for listing in listings:
        stems = {os.path.splitext(name)[0].casefold(): name for name in listing.missing}
        for name in _names(listing.folder):
            wanted = stems.get(os.path.splitext(name)[0].casefold())
            if wanted is not None and name not in listing.listed:
                return f"{name} for {wanted}"
    return ""


def _is_tail(listing: FolderListing) -> bool:
    return 3 <= len(listing.missing) < len(listing.listed) and (
        sorted(listing.listed)[-len(listing.missing) :] == list(listing.missing)
    )


def _files(count: int, what: str) -> str:
    return f"{count:,} listed file is {what}" if count == 1 else f"{count:,} listed files are {what}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6:,} more" if len(names) > 6 else "")
