"""What is said and recorded of files that are no whole images."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mem import files
from mem.errors import UserError

FAILED_FILE, SKIPPED_FILE = "unreadable.csv", "skipped.csv"
_NAMED = 10


class UnreadableImage(NamedTuple):
    """An image that could not be read."""

    split: str
    number: int
    """Its place in the split, as the data set lists it."""
    name: str
    reason: str


def unreadable_error(unread: Sequence[UnreadableImage], total: int, out: Path) -> UserError:
    """Record them all in the run folder; the error to raise names the first ten."""
    _record(out / FAILED_FILE, unread)
    return UserError(
        f"{_counted(unread, total)}:\n{_named(unread)}\nAll are listed in {out / FAILED_FILE}. Get them again or take "
        "them out of the data set, or leave them out with `unreadable: skip`. The other images stay converted, as far "
        "as the first of these."
    )


def report_skipped(unread: Sequence[UnreadableImage], total: int, out: Path, say: Callable[[str], None]) -> None:
    """Record them in the run folder, and say so."""
    _record(out / SKIPPED_FILE, unread)
    say(f"{_counted(unread, total)} and were left out:\n{_named(unread)}\nAll are listed in {out / SKIPPED_FILE}.")


def remove_failure_record(out: Path) -> None:
    """Remove the record of an earlier attempt, whose files have become readable."""
    (out / FAILED_FILE).unlink(missing_ok=True)


def _counted(unread: Sequence[UnreadableImage], total: int) -> str:
    return f"{len(unread):,} of {total:,} files {'is no whole image' if len(unread) == 1 else 'are no whole images'}"


def _named(unread: Sequence[UnreadableImage]) -> str:
    lines = [f"  {one.name} {one.reason}" for one in unread[:_NAMED]]
    if len(unread) > _NAMED:
        lines.append(f"  and {len(unread) - _NAMED:,} more")
    return "\n".join(lines)


def _record(path: Path, unread: Sequence[UnreadableImage]) -> None:
    with files.atomic(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["split", "number", "name", "reason"])
        table.writerows(unread)
