"""Tables that show results of this study next to the paper's numbers: their cells and captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mem.metrics import Interval, PairedDifference
from mem.report.differences import format_signed
from mem.report.results import ScoreRow

EMPTY = "-"
NOT_RUN = "not run"


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables, or one of its figures in numbers, with the results of this study."""

    number: int
    title: str
    caption: str
    lines: list[list[str]]


def paper_numbers() -> dict[str, Any]:
    """Return the numbers of the paper's tables and figures from paper.yaml."""
    return yaml.safe_load((Path(__file__).parent / "paper.yaml").read_text(encoding="utf-8"))


def format_accuracy(accuracy: float | None) -> str:
    """Return an accuracy of the paper with at most two decimals, without a trailing zero in the second."""
    return EMPTY if accuracy is None else f"{accuracy:.2f}".removesuffix("0")


def format_runs(runs: int) -> str:
    """Return the source of a result of this study: `ours, 3 runs`."""
    return f"ours, {runs} run{'s' * (runs > 1)}"


def minus_paper(result: Interval | PairedDifference, paper: float | None) -> str:
    """Return a result minus the paper's number, with the interval of the result."""
    return EMPTY if paper is None else format_signed(result.mean - paper, result.half_width)


def minus_paper_by_shot(accuracy: Mapping[str, Interval], paper: Sequence[float | None]) -> list[str]:
    """Return the accuracy for each shot group minus the paper's."""
    return [minus_paper(result, number) for result, number in zip(accuracy.values(), paper, strict=True)]


def paper_caption(rows: Sequence[ScoreRow], text: str, not_run: Sequence[str]) -> str:
    """Return a caption: the given text, thresholds of the shot groups, seeds, class orders, and what was not run."""
    repeats = sorted({row.repeat for row in rows})
    orders = sorted({order for order, _ in repeats})
    seeds = sorted({seed for _, seed in repeats})
    runs = f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    runs += f", class orders {', '.join(map(str, orders))}" if len(orders) > 1 else ""
    spread = "mean ± 95 % interval (Student's t) over runs" if len(repeats) > 1 else "one run, no interval"
    missing = f" Not run: {', '.join(not_run)}." if not_run else ""
    return f"{text} Shot groups by training images per class: {rows[0].thresholds}. {runs}: {spread}.{missing}"
