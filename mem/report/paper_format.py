"""Cells and captions for tables that show results of this study next to the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mem.metrics import Interval, PairedDifference
from mem.report.captions import coverage, interval_units
from mem.report.crop_marks import crops_note
from mem.report.differences import format_signed
from mem.report.results import ScoreRow

EMPTY = "-"
NOT_RUN = "not run"


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables or figures, as a table that includes the results of this study."""

    number: int
    title: str
    caption: str
    lines: list[list[str]]


def paper_numbers() -> dict[str, Any]:
    """Return the numbers of the paper's tables and figures from `paper.yaml`."""
    return yaml.safe_load((Path(__file__).parent / "paper.yaml").read_text(encoding="utf-8"))


def format_accuracy(accuracy: float | None) -> str:
    """Format an accuracy from the paper with two decimals, or with one if the second is zero."""
    return EMPTY if accuracy is None else f"{accuracy:.2f}".removesuffix("0")


def format_runs(runs: int) -> str:
    """Describe the source of a result of this study, for example `ours, 3 runs`."""
    return f"ours, {runs} run{'s' * (runs > 1)}"


def minus_paper(result: Interval | PairedDifference, paper: float | None) -> str:
    """Format a result minus the paper's number, with the interval of the result."""
    return EMPTY if paper is None else format_signed(result.mean - paper, result.half_width)


def minus_paper_by_shot(accuracy: Mapping[str, Interval], paper: Sequence[float | None]) -> list[str]:
    """Format the differences between this study's accuracies and the paper's accuracies, by shot group."""
    return [minus_paper(result, number) for result, number in zip(accuracy.values(), paper, strict=True)]


def without_variants(rows: Sequence[ScoreRow]) -> str:
    """Return a sentence that the heads on variants of finetuning are left out; "" if there are none."""
    return " Heads on variants of finetuning are not included." if any(row.finetuning for row in rows) else ""


def paper_caption(rows: Sequence[ScoreRow], text: str, not_run: Sequence[str]) -> str:
    """Return a caption: the given text, shot-group thresholds, seeds and class orders, and missing results."""
    repeats = sorted({row.repeat for row in rows})
    orders = sorted({order for order, _ in repeats})
    seeds = sorted({seed for _, seed in repeats})
    runs = f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    runs += f", class orders {', '.join(map(str, orders))}" if len(orders) > 1 else ""
    units = interval_units(rows)
    spread = f"mean ± 95 % interval (Student's t) over {units}" if units else "one run, no interval"
    covered = f" {coverage(rows)}" if units else ""
    missing = f" Not run: {', '.join(not_run)}." if not_run else ""
    crops = f" {note}" if (note := crops_note(rows)) else ""
    thresholds = f"Shot groups by training images per class: {rows[0].thresholds}."
    return f"{text}{crops} {thresholds} {runs}: {spread}.{covered}{missing}"
