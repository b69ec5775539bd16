"""Means and intervals of a study's heads over their runs, from the `results.csv` of its report."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mem.metrics import interval

_SCORES = ("many", "medium", "few", "all", "balanced", "top5", "ece")
"""Columns of `results.csv` that are summarised. Metrics of the heads have the same names."""
_SPLITS = ("val", "test")


@dataclass(frozen=True)
class Summary:
    """Means of a head over its runs."""

    head: str
    """Name of the head in the study."""
    method: str
    runs: int
    """Number of runs with scores on test or, without them, on val."""
    seeds: str
    orders: str
    metrics: dict[str, float]
    """Mean of each score, by its name in the heads' runs. If there are several runs, `NAME_low` and `NAME_high` are the
    ends of the 95 % interval, over class orders or, with one order, over seeds."""

    @property
    def repeats(self) -> str:
        """Number of runs, in words."""
        return f"mean of {self.runs} runs" if self.runs > 1 else "1 run"


def read_summaries(results: Path) -> list[Summary]:
    """Return the summary of each head in the order of `results.csv`.

    Raises:
        OSError: The file cannot be read.
        ValueError: A value is not a number, or a column is missing.
    """
    with open(results, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    heads: dict[str, list[dict[str, str]]] = {}
    try:
        for row in rows:
            heads.setdefault(row["variant"], []).append(row)
        return [_summary(head, found) for head, found in heads.items()]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{results}: the column {error} is missing") from None


def _summary(head: str, rows: Sequence[dict[str, str]]) -> Summary:
    metrics: dict[str, float] = {}
    by_split = {split: [row for row in rows if row["split"] == split] for split in _SPLITS}
    for split, found in by_split.items():
        orders = [int(row["order"]) for row in found]
        for name in _SCORES if found else ():
            values = [float(row.get(name) or math.nan) for row in found]
            score = interval(values, orders)
            if not math.isfinite(score.mean):
                continue
            metrics[f"{split}/{name}"] = score.mean
            if score.half_width is not None:
                metrics[f"{split}/{name}_low"] = score.mean - score.half_width
                metrics[f"{split}/{name}_high"] = score.mean + score.half_width
    counted = by_split["test"] or by_split["val"]
    seeds, orders = (sorted({int(row[name]) for row in counted}) for name in ("seed", "order"))
    metrics["runs"] = float(len(counted))
    return Summary(
        head, rows[0]["method"], len(counted), ", ".join(map(str, seeds)), ", ".join(map(str, orders)), metrics
    )
