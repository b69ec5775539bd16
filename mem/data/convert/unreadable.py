"""Messages about unreadable images, and CSV files that list them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mem import files
from mem.errors import UserError

FAILED_FILE, SKIPPED_FILE = "unreadable.csv", "skipped.csv"
_SHOWN = 10
"""Maximum number of images listed in a message."""


class UnreadableImage(NamedTuple):
    """An image that could not be read."""

    split: str
    number: int
    """Index of the image in the split, including skipped images."""
    name: str
    reason: str


def unreadable_error(unreadable: Sequence[UnreadableImage], total: int, out: Path) -> UserError:
    """Write a list of all unreadable images to the run folder, and return an error that names the first ten."""
    _record(out / FAILED_FILE, unreadable)
    return UserError(
        f"{_counted(unreadable, total)}:\n{_listed(unreadable)}\n"
        f"{out / FAILED_FILE} contains the complete list. Replace these files, remove them from the dataset, or skip "
        "them with `unreadable: skip`. In each split, images before the first unreadable one remain converted."
    )


def report_skipped(unreadable: Sequence[UnreadableImage], total: int, out: Path, say: Callable[[str], None]) -> None:
    """Write a list of all skipped images to the run folder, and report them to the user."""
    _record(out / SKIPPED_FILE, unreadable)
    say(
        f"{_counted(unreadable, total)}; skipped:\n{_listed(unreadable)}\n"
        f"{out / SKIPPED_FILE} contains the complete list."
    )


def remove_failure_record(out: Path) -> None:
    """Delete the list of unreadable images that an earlier attempt wrote."""
    (out / FAILED_FILE).unlink(missing_ok=True)


def _counted(unreadable: Sequence[UnreadableImage], total: int) -> str:
    verb = "is not a complete image" if len(unreadable) == 1 else "are not complete images"
    return f"{len(unreadable):,} of {total:,} files {verb}"


def _listed(unreadable: Sequence[UnreadableImage]) -> str:
    lines = [f"  {image.name} {image.reason}" for image in unreadable[:_SHOWN]]
    if len(unreadable) > _SHOWN:
        lines.append(f"  and {len(unreadable) - _SHOWN:,} more")
    return "\n".join(lines)


def _record(path: Path, unreadable: Sequence[UnreadableImage]) -> None:
    with files.atomic(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["split", "number", "name", "reason"])
        table.writerows(unreadable)
