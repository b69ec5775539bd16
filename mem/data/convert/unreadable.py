"""Messages about unreadable images, and the CSV files that record them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mem import files
from mem.errors import UserError

FAILED_FILE, SKIPPED_FILE = "unreadable.csv", "skipped.csv"
_SHOWN = 10
"""Number of images that a message lists."""


class UnreadableImage(NamedTuple):
    """An image that could not be read."""

    split: str
    number: int
    """Position in the split as the dataset lists it."""
    name: str
    reason: str


def unreadable_error(unreadable: Sequence[UnreadableImage], total: int, out: Path) -> UserError:
    """Record all images in the run folder, and return an error that lists the first ten."""
    _record(out / FAILED_FILE, unreadable)
    return UserError(
        f"{_counted(unreadable, total)}:\n{_listed(unreadable)}\n{out / FAILED_FILE} has the complete list. Replace "
        "these files, remove them from the dataset, or leave them out with `unreadable: skip`. Images before the "
        "first unreadable one of each split stay converted."
    )


def report_skipped(unreadable: Sequence[UnreadableImage], total: int, out: Path, say: Callable[[str], None]) -> None:
    """Record all skipped images in the run folder, and report them to the user."""
    _record(out / SKIPPED_FILE, unreadable)
    say(f"{_counted(unreadable, total)}; skipped:\n{_listed(unreadable)}\n{out / SKIPPED_FILE} has the complete list.")


def remove_failure_record(out: Path) -> None:
    """Remove the record of an earlier attempt, whose files have become readable."""
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
