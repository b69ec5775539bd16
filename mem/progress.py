"""Progress display for stages: a bar on a terminal, and occasional lines in other output streams."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from io import TextIOBase
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from mem import files

LINE_SECONDS = 20
"""Minimum time between progress lines if the output is not a terminal, in seconds."""
RECORD_FILE = "progress.json"
"""File in the folder of a run with its progress, which `mem status` reads. It exists only while items are counted."""
RECORD_SECONDS = 5
"""Minimum time in seconds between two versions of this file."""


class Progress:
    """Counts completed items, and displays the rate and the estimated remaining time.

    Args:
        title: Label of the progress bar.
        total: Total number of items.
        start: Number of items that an earlier attempt completed.
        unit: Name of an item, displayed after the numbers.
        quiet: Whether to display nothing, as on ranks other than 0.
        stream: Output stream; stderr by default.
        folder: Folder of the run, in which `RECORD_FILE` is written. None writes no file.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        start: int = 0,
        unit: str = "img",
        quiet: bool = False,
        stream: TextIOBase | None = None,
        folder: Path | None = None,
    ) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._stream: Any = stream or sys.stderr
        self._done = self._first = start
        self._started = self._shown = self._recorded = time.monotonic()
        self._quiet = quiet
        self._record = None if folder is None or quiet else folder / RECORD_FILE
        self._bar: tqdm | None = None
        if not quiet and self._stream.isatty():
            self._bar = tqdm(
                total=total,
                initial=start,
                desc=title,
                unit=unit,
                unit_scale=True,
                leave=False,
                dynamic_ncols=True,
                file=self._stream,
            )

    def advance(self, count: int, note: str = "") -> None:
        """Add `count` completed items. `note` is displayed after the numbers."""
        self._done += count
        if self._record is not None and time.monotonic() - self._recorded >= RECORD_SECONDS:
            self._recorded = time.monotonic()
            content = {"time": time.time(), "done": self._done, "total": self._total, "rate": self.rate}
            with contextlib.suppress(OSError):  # the stage itself reports a full disk
                files.write_text(self._record, json.dumps(content), durable=False)
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif not self._quiet and time.monotonic() - self._shown >= LINE_SECONDS:
            self._shown = time.monotonic()
            print(self.line(note), file=self._stream, flush=True)

    def line(self, note: str = "") -> str:
        """Format the progress as one line."""
        rate = self.rate
        seconds_left = (self._total - self._done) / rate if rate else 0
        parts = [
            f"{self._title}: {100 * self._done / max(self._total, 1):.0f} %",
            f"{self._done:,} of {self._total:,} {self._unit}",
            f"{rate:,.0f} {self._unit}/s",
            f"{format_duration(seconds_left)} left",
            note,
        ]
        return " · ".join(part for part in parts if part)

    @property
    def rate(self) -> float:
        """Items per second since the start of this attempt."""
        return (self._done - self._first) / max(time.monotonic() - self._started, 1e-9)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._record is not None:
            self._record.unlink(missing_ok=True)


def format_duration(seconds: float) -> str:
    """Format a duration, for example as 5:07 or 2:05:07."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
