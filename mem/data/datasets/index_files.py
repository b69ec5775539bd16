"""Reader for index files, which list image paths and labels.

Lists may have a million lines. Each list is therefore read into memory at once, and its paths are stored as
plain strings.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mem.data.datasets.problems import Problems
from mem.data.datasets.spellings import composed
from mem.errors import UserError

SEPARATORS = {"space": " ", "tab": "\t", "comma": ","}
_OTHER_FORMATS = {
    b"\xff\xfe": "is UTF-16 text. Save it as UTF-8.",
    b"\xfe\xff": "is UTF-16 text. Save it as UTF-8.",
    b"\x1f\x8b": "is compressed. Unpack it with gunzip.",
    b"PK\x03\x04": "is a zip archive. Unpack it.",
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself. Run `git lfs pull` in its repository.",
    b"<!DOCTYPE": "is a web page, not the expected file. Download it again.",
    b"<html": "is a web page, not the expected file. Download it again.",
}
"""First bytes of files that are often mistaken for an index file, and the corresponding error message."""
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True)
class Rows:
    """Paths and labels from an index file, as text."""

    origin: str
    """Path of the index file, for error messages."""
    paths: list[str]
    """Relative, normalised paths."""
    labels: list[str]
    lines: Sequence[int]
    """Position of each row in the index file, counted from 1."""
    unit: str = "line"
    """What `lines` counts (lines or rows), for error messages."""

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self, i: int) -> str:
        """Describe row `i` for error messages: line number, path and label."""
        return f"{self.unit} {self.lines[i]}: {self.paths[i]} {self.labels[i]}"


def read_bytes(path: Path) -> bytes:
    """Return the content of an index file.

    Raises:
        UserError: The file does not exist, cannot be read, or has a different format.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file, but the study refers to it. See docs/how-to/data.md for the files that each "
            "source needs."
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    for start, problem in _OTHER_FORMATS.items():
        if content.startswith(start):
            raise UserError(f"{path}: {problem}")
    return content


def read_text(path: Path) -> str:
    r"""Return the text of an index file, with `\n` line endings and without a byte-order mark.

    Bytes that are not valid UTF-8 are decoded to surrogates, as by `os.fsdecode`.

    Raises:
        UserError: See `read_bytes`.
    """
    text = read_bytes(path).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_list(path: Path, separator: str = "space") -> Rows:
    """Read a list file. Each line contains a path, a separator and a label. Blank lines are skipped.

    Paths may contain the separator, because the label is the last field.

    Raises:
        UserError: The file is missing or empty, or lines have no label, no path, or an invalid path.
    """
    delimiter = SEPARATORS[separator]
    problems = Problems(str(path))
    paths: list[str] = []
    labels: list[str] = []
    lines: list[int] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.rstrip(" \t")
        if not line:
            continue
        image, found, label = line.rpartition(delimiter)
        image, label = image.rstrip(" \t"), label.strip(" \t")
        if not found or not label:
            advice = f"Expected a path, a {separator} and a label"
            problems.add("lines without a label", f"line {number}: {line}", advice)
            continue
        if not image:
            problems.add("lines without a path", f"line {number}: {line}")
            continue
        paths.append(image)
        labels.append(label)
        lines.append(number)
    if not paths and not problems:
        raise UserError(f"{path}: the list is empty. Expected one line per image: a path, a {separator} and a label.")
    normalised = normalise_paths(paths, lines, problems)
    problems.raise_if_any()
    return Rows(str(path), normalised, labels, lines)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read a file with one class name per line.

    Raises:
        UserError: The file is missing or empty, or class names are not unique.
    """
    names = [name for line in read_text(path).split("\n") if (name := line.strip())]
    if not names:
        raise UserError(f"{path}: the file is empty. Expected one class name per line.")
    require_distinct_names(names, str(path))
    return tuple(names)


def require_distinct_names(names: Sequence[str], origin: str) -> None:
    """Check that class names are unique. Two Unicode forms (NFC, NFD) of a name are equal.

    Raises:
        UserError: Class names are not unique. The message lists the duplicates.
    """
    if len({composed(name) for name in names}) < len(names):
        problems = Problems(origin)
        first: dict[str, int] = {}
        for i, name in enumerate(names):
            if composed(name) in first:
                problems.add("duplicate class names", f"{name} (classes {first[composed(name)]} and {i})")
            first.setdefault(composed(name), i)
        problems.raise_if_any()


def normalise_paths(paths: list[str], lines: Sequence[int], problems: Problems, unit: str = "line") -> list[str]:
    """Normalise paths by removing `.` components and double slashes, so that each file has a unique path.

    Adds absolute paths, web addresses, paths with `..` and paths with a null byte to `problems`.
    """
    normalised: list[str] = []
    for number, path in zip(lines, paths, strict=True):
        if path[0] == "/" or (path[1:2] == ":" and _DRIVE.match(path)):
            problems.add("absolute paths", f"{unit} {number}: {path}", "Paths must be relative to `root`")
        elif "://" in path:
            advice = "Download the images, and list their paths relative to `root`"
            problems.add("web addresses instead of paths", f"{unit} {number}: {path}", advice)
        elif ".." in path and ".." in path.split("/"):
            problems.add("paths with `..`", f"{unit} {number}: {path}", "Images must be inside `root`")
        elif "\0" in path:
            problems.add("paths with a null byte", f"{unit} {number}")
        elif "//" in path or path.startswith("./") or "/./" in path or path.endswith("/."):
            path = posixpath.normpath(path)
        normalised.append(path)
    return normalised
