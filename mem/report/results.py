"""A study's scores as rows, and their means over seeds and class orders."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mem.errors import UserError
from mem.metrics import Interval, interval

SHOTS = ("many", "medium", "few", "all")


@dataclass(frozen=True)
class Row:
    """One head's scores on one split: a line of results.csv. Scores are percentages."""

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
    top5: float = math.nan
    balanced: float = math.nan
    """Mean over classes of their accuracy."""
    ece: float = math.nan
    """Expected calibration error."""
    oracle_many: float = math.nan
    """Accuracy with the group given, as are the next three."""
    oracle_medium: float = math.nan
    oracle_few: float = math.nan
    oracle_all: float = math.nan
    group_recall_many: float = math.nan
    """Share of the images predicted as some class of their own group, as are the next two."""
    group_recall_medium: float = math.nan
    group_recall_few: float = math.nan
    group_by_norm: float = math.nan
    """How often MEM's largest norm names the image's group; nothing for other heads."""

    @property
    def repeat(self) -> tuple[int, int]:
        """Class order and seed: runs that agree in both stand on the same backbone and the same images."""
        return self.order, self.seed


SCORES = tuple(field.name for field in fields(Row) if field.type == "float")
"""Columns that are percentages; those that an older results.csv lacks are NaN."""


def rows_of(study: str, evaluations: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[Row]:
    """The rows of evaluate runs, val and test, given their `run.json` and `metrics.json`."""
    rows: list[Row] = []
    for record, metrics in evaluations:
        labels = record["labels"]
        for split, scores in metrics["splits"].items():
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
                    **_scores(scores),
                )
            )
    return rows


def _scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(scores["accuracy"])
    found |= {name: scores[name] for name in ("top5", "balanced", "ece")}
    found |= {f"oracle_{name}": value for name, value in scores["oracle"].items()}
    found |= {f"group_recall_{name}": value for name, value in scores["group_recall"].items()}
    found["group_by_norm"] = scores["group_by_norm"]["all"] if "group_by_norm" in scores else None
    return {name: math.nan if value is None else float(value) for name, value in found.items()}


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with a header; scores with four decimals."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(Row)]
    table.writerow(names)
    for row in rows:
        values = asdict(row)
        table.writerow([_cell(values[n]) if n in SCORES else values[n] for n in names])
    return text.getvalue()


def _cell(value: float) -> str:
    return "nan" if math.isnan(value) else f"{value:.4f}"


def from_csv(path: Path) -> list[Row]:
    """Read what `to_csv` wrote, or an older version of it.

    Raises:
        UserError: A column is missing that every version has, or a number is none.
    """
    numbers = dict.fromkeys(("seed", "order"), int) | dict.fromkeys(SCORES, float)
    known = {field.name for field in fields(Row)}
    with open(path, encoding="utf-8", newline="") as file:
        try:
            return [
                Row(**{name: numbers.get(name, str)(value) for name, value in line.items() if name in known})  # type: ignore[arg-type]
                for line in csv.DictReader(file)
            ]
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: no results of a study, or damaged: {error}. Make the report again.") from None


def by_variant(rows: Iterable[Row], split: str) -> dict[str, list[Row]]:
    """The rows of a split, by variant in the order in which variants first appear."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        mine = found.setdefault(row.variant, [])
        if row.split == split:
            mine.append(row)
    return found


def summarised(rows: Sequence[Row], split: str, columns: Sequence[str] = SHOTS) -> dict[str, dict[str, Interval]]:
    """For each variant, in the rows' order, the interval of each score over seeds and orders."""
    return {
        variant: {name: interval([getattr(row, name) for row in mine]) for name in columns}
        for variant, mine in by_variant(rows, split).items()
    }


def table(summary: Mapping[str, Mapping[str, Interval]]) -> list[list[str]]:
    """Header and lines: method x scores."""
    columns = list(next(iter(summary.values()))) if summary else list(SHOTS)
    return [
        ["method", *columns],
        *[[name, *map(str, (scores[c] for c in columns))] for name, scores in summary.items()],
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
