"""A study's scores as rows, and their means over seeds and class orders."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from mem.errors import UserError

SHOTS = ("many", "medium", "few", "all")


@dataclass(frozen=True)
class Row:
    """One head's scores on one split: a line of results.csv. Accuracies are percentages."""

    study: str
    dataset: str
    backbone: str
    method: str
    variant: str
    seed: int
    order: int
    split: str
    thresholds: str
    many: float
    medium: float
    few: float
    all: float
    key: str
    """The head's run."""


@dataclass(frozen=True)
class Interval:
    """A mean with the half-width of its 95 % interval."""

    mean: float
    half_width: float | None
    """Student's t over runs; nothing for a single run."""

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.2f}" if self.half_width is None else f"{self.mean:.2f} ± {self.half_width:.2f}"


def rows_of(study: str, evaluations: Iterable[Path]) -> list[Row]:
    """The rows of the given evaluate runs, val and test.

    Raises:
        UserError: A run is not finished.
    """
    rows: list[Row] = []
    for folder in evaluations:
        record, metrics = read_evaluation(folder)
        labels = record["labels"]
        for split, scores in metrics["splits"].items():
            accuracy = {name: _number(scores["accuracy"][name]) for name in SHOTS}
            rows.append(
                Row(
                    study=study,
                    dataset=record["dataset"],
                    backbone=record["backbone"],
                    method=labels["method"],
                    variant=labels["variant"],
                    seed=labels["seed"],
                    order=labels["order"],
                    split=split,
                    thresholds=metrics["thresholds"],
                    key=record["inputs"]["head"].rsplit("-", 1)[1],
                    **accuracy,
                )
            )
    return rows


def read_evaluation(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `run.json` and `metrics.json` of an evaluate run.

    Raises:
        UserError: The run is not finished.
    """
    try:
        return json.loads((folder / "run.json").read_text()), json.loads((folder / "metrics.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file: this evaluation was not run yet") from None


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with a header; accuracies with four decimals."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(Row)]
    table.writerow(names)
    for row in rows:
        values = asdict(row)
        table.writerow([f"{values[n]:.4f}" if n in SHOTS else values[n] for n in names])
    return text.getvalue()


def from_csv(path: Path) -> list[Row]:
    """Read what `to_csv` wrote."""
    numbers = dict.fromkeys(("seed", "order"), int) | dict.fromkeys(SHOTS, float)
    with open(path, encoding="utf-8", newline="") as file:
        return [
            Row(**{name: numbers.get(name, str)(value) for name, value in line.items()})  # type: ignore[arg-type]
            for line in csv.DictReader(file)
        ]


def summarised(rows: Sequence[Row], split: str) -> dict[str, dict[str, Interval]]:
    """For each variant, in the rows' order, the interval of each shot's accuracy over seeds and orders."""
    variants = dict.fromkeys(row.variant for row in rows)
    return {
        variant: {
            shot: interval([getattr(row, shot) for row in rows if row.variant == variant and row.split == split])
            for shot in SHOTS
        }
        for variant in variants
    }


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of independent runs (Student's t)."""
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean()) if len(numbers) else math.nan
    if len(numbers) < 2:
        return Interval(mean, None)
    error = float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return Interval(mean, float(stats.t.ppf(0.975, len(numbers) - 1)) * error)


def table(summary: Mapping[str, Mapping[str, Interval]]) -> list[list[str]]:
    """Header and lines: method x many, medium, few, all."""
    return [
        ["method", *SHOTS],
        *[[name, *map(str, (scores[s] for s in SHOTS))] for name, scores in summary.items()],
    ]


def to_markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first line is the header."""
    header, *body = [f"| {' | '.join(line)} |" for line in lines]
    rule = "|" + "|".join(["---", *["---:"] * (len(lines[0]) - 1)]) + "|"
    return "\n".join([header, rule, *body]) + "\n"


def to_text(lines: Sequence[Sequence[str]]) -> str:
    """A table for the terminal."""
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    aligned = [
        "  ".join(
            cell.ljust(w) if c == 0 else cell.rjust(w) for c, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([aligned[0], "-" * len(aligned[0]), *aligned[1:]])


def _number(value: float | None) -> float:
    return math.nan if value is None else value
