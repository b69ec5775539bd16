"""Rows of an index, path and label, as text: from list files, without a look at the images.

A list of a million lines takes seconds: it is read in one go, and no object is made of a path but its string.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mem.data.datasets.problems import Problems
from mem.errors import UserError

SEPARATORS = {"space": " ", "tab": "\t", "comma": ","}
_FOREIGN = {
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
    b"\x1f\x8b": "is compressed; unpack it first (gunzip)",
    b"PK\x03\x04": "is a zip archive; unpack it first",
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; run `git lfs pull` where it came from",
    b"<!DOCTYPE": "is a web page, not the file; download it again",
    b"<html": "is a web page, not the file; download it again",
}
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True)
class Rows:
    """Paths and labels as they were written."""

    origin: str
    """The file, for messages."""
    paths: list[str]
    """Relative and normalised."""
    labels: list[str]
    lines: Sequence[int]
    """Line of each row, counted from 1."""
    unit: str = "line"
    """What `lines` count."""

    def __len__(self) -> int:
        return len(self.paths)

    def where(self, i: int) -> str:
        """The i-th row, for messages."""
        return f"{self.unit} {self.lines[i]}: {self.paths[i]} {self.labels[i]}"


def read_bytes(path: Path) -> bytes:
    """The content of an index file.

    Raises:
        UserError: There is no such file, or it is something else than an index.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file. The study names it; docs/how-to/data.md says what should be there."
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    for start, what in _FOREIGN.items():
        if content.startswith(start):
            raise UserError(f"{path}: {what}.")
    return content


def read_text(path: Path) -> str:
    """An index file's text: UTF-8, with or without a byte-order mark, with line ends of any system.

    Bytes that are no UTF-8 stay in it as surrogates, as in file names that Python gives.

    Raises:
        UserError: As `read_bytes`.
    """
    text = read_bytes(path).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_list(path: Path, separator: str = "space") -> Rows:
    """A list file: in each line a path, a separator and a label, which is the last field. Blank lines are skipped.

    Raises:
        UserError: There is no such file, it is empty, or lines have no label or a path that leads elsewhere. All are
            counted, the first few named.
    """
    mark = SEPARATORS[separator]
    faults = Problems(str(path))
    paths: list[str] = []
    labels: list[str] = []
    lines: list[int] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.rstrip(" \t")
        if not line:
            continue
        image, found, label = line.rpartition(mark)
        image, label = image.rstrip(" \t"), label.strip(" \t")
        if not found or not label:
            faults.add("lines without a label", f"line {number}: {line}", f"Expected a path, a {separator} and a label")
            continue
        if not image:
            faults.add("lines without a path", f"line {number}: {line}")
            continue
        paths.append(image)
        labels.append(label)
        lines.append(number)
    if not paths and not faults:
        raise UserError(
            f"{path}: the list is empty. Expected a line for each image: its path, a {separator}, its label."
        )
    normalised = normalised_paths(paths, lines, faults)
    faults.raise_if_any()
    return Rows(str(path), normalised, labels, lines)


def read_names(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line.

    Raises:
        UserError: There is no such file, it is empty, or a name stands twice.
    """
    names = [name for line in read_text(path).split("\n") if (name := line.strip())]
    if not names:
        raise UserError(f"{path}: the file is empty. Expected the name of a class in each line.")
    distinct_names(names, str(path))
    return tuple(names)


def distinct_names(names: Sequence[str], origin: str) -> None:
    """Raise where two classes have one name.

    Raises:
        UserError: The names.
    """
    if len(set(names)) < len(names):
        faults = Problems(origin)
        first: dict[str, int] = {}
        for i, name in enumerate(names):
            if name in first:
                faults.add("names of classes that stand twice", f"{name} (classes {first[name]} and {i})")
            first.setdefault(name, i)
        faults.raise_if_any()


def normalised_paths(paths: list[str], lines: Sequence[int], faults: Problems, unit: str = "line") -> list[str]:
    """Paths without `.` and doubled slashes, so that one file is spelt one way.

    Absolute paths, paths with `..` and paths that no file can have are added to `faults`.
    """
    normalised: list[str] = []
    for number, path in zip(lines, paths, strict=True):
        if path[0] == "/" or (path[1:2] == ":" and _DRIVE.match(path)):
            faults.add("absolute paths", f"{unit} {number}: {path}", "Paths are relative to `root`")
        elif ".." in path and ".." in path.split("/"):
            faults.add("paths with `..`", f"{unit} {number}: {path}", "Images must lie inside `root`")
        elif "\0" in path:
            faults.add("paths with a zero byte", f"{unit} {number}")
        elif "//" in path or path.startswith("./") or "/./" in path or path.endswith("/."):
            path = posixpath.normpath(path)
        normalised.append(path)
    return normalised
