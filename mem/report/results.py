"""Scores of a study, with one row per head, seed, class order and split, and means over runs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mem.config import Crops
from mem.errors import UserError
from mem.metrics import Interval, interval
from mem.report.table_formats import without_formula

SHOTS = ("many", "medium", "few", "all")
"""Accuracy columns: the three shot groups and all classes."""


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one head on one split, in percent. Each object corresponds to a row of `results.csv`."""

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
    """Key of the head's run."""
    top5: float = math.nan
    balanced: float = math.nan
    """Mean of the per-class accuracies."""
    ece: float = math.nan
    """Expected calibration error."""
    oracle_many: float = math.nan
    """Oracle accuracy (four columns): predictions are restricted to the classes of the image's true shot group."""
    oracle_medium: float = math.nan
    oracle_few: float = math.nan
    oracle_all: float = math.nan
    group_recall_many: float = math.nan
    """Percentage of a shot group's images that are predicted as any class of this group (three columns)."""
    group_recall_medium: float = math.nan
    group_recall_few: float = math.nan
    group_by_norm: float = math.nan
    """Percentage of images whose true group has the largest MEM sub-network norm; NaN for other heads."""
    group_by_class: float = math.nan
    """Percentage of images that are predicted as any class of their true group of MEM's partition; NaN for heads
    without a partition."""
    balanced_se: float = math.nan
    """Standard error of `balanced` due to the sampling of images, in points."""
    group_recall_all: float = math.nan
    """Percentage of all images that are predicted as any class of their shot group."""
    finetuning: str = ""
    """Name of the variant of finetuning that the head uses; empty for the study's section `finetune`."""
    transductive: bool = False
    """Whether the head was adapted to the test images. It is then never chosen by its scores on val."""
    experts_used_many: float = math.nan
    """Mean number of experts that RIDE's router uses for the images of a shot group (four columns); NaN for other
    heads."""
    experts_used_medium: float = math.nan
    experts_used_few: float = math.nan
    experts_used_all: float = math.nan
    crops: str = ""
    """Crops of each image whose logits are averaged, for example `five crops at 248`; empty for one central crop."""

    @property
    def repeat(self) -> tuple[int, int]:
        """Class order and seed. Heads that have both in common use the same images and the same backbone."""
        return self.order, self.seed


SCORES = tuple(field.name for field in fields(ScoreRow) if field.type == "float")
"""Columns that contain scores, mostly percentages. Columns missing from an older `results.csv` are read as NaN."""


def score_rows(study: str, evaluations: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[ScoreRow]:
    """Return one row for each evaluate run and split.

    Args:
        study: Name of the study.
        evaluations: Contents of `run.json` and `metrics.json` of each run.
    """
    rows: list[ScoreRow] = []
    for record, metrics in evaluations:
        labels = record["labels"]
        for split, scores in metrics["splits"].items():
            rows.append(
                ScoreRow(
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
                    finetuning=labels.get("finetuning", ""),
                    transductive=metrics.get("transductive", False),
                    crops=str(Crops(**metrics["crops"])) if "crops" in metrics else "",
                    **_score_columns(scores),
                )
            )
    return rows


def _score_columns(scores: Mapping[str, Any]) -> dict[str, Any]:
    columns = dict(scores["accuracy"])
    columns |= {name: scores[name] for name in ("top5", "balanced", "ece")}
    columns |= {f"oracle_{shot}": value for shot, value in scores["oracle"].items()}
    columns |= {f"group_recall_{shot}": value for shot, value in scores["group_recall"].items()}
    columns["group_recall_all"] = _group_recall(scores["wrong_by_group"], scores["images"])
    columns["balanced_se"] = scores["balanced_se"]
    columns |= {name: scores[name]["all"] for name in ("group_by_norm", "group_by_class") if name in scores}
    columns |= {f"experts_used_{shot}": value for shot, value in scores.get("experts_used", {}).items()}
    return {name: math.nan if value is None else float(value) for name, value in columns.items()}


def _group_recall(wrong_by_group: Sequence[Sequence[float]], images: int) -> float | None:
    """Return the percentage of images that are predicted as a class of their shot group, or None without images.

    Args:
        wrong_by_group: Number of misclassified images by true (rows) and predicted (columns) shot group.
        images: Number of all images.
    """
    other_group = sum(count for g, row in enumerate(wrong_by_group) for h, count in enumerate(row) if g != h)
    return 100 * (1 - other_group / images) if images else None


def with_group_given(rows: Sequence[ScoreRow], variants: Sequence[str]) -> list[ScoreRow]:
    """Return the rows and, for some variants, rows of a variant "NAME, group given" with the oracle accuracies.

    In these rows, the scores that are not accuracies by shot group are NaN.

    Raises:
        KeyError: There is no variant of this name.
    """
    if unknown := set(variants) - {row.variant for row in rows}:
        raise KeyError(f"No method in the results is named {', '.join(sorted(unknown))}.")
    nothing = {name: math.nan for name in SCORES if name not in SHOTS}
    return [
        *rows,
        *(
            replace(
                row,
                variant=f"{row.variant}, group given",
                **{shot: getattr(row, f"oracle_{shot}") for shot in SHOTS},
                **nothing,
            )
            for row in rows
            if row.variant in variants
        ),
    ]


def to_csv(rows: Sequence[ScoreRow]) -> str:
    """Format rows as CSV with a header. Scores have four decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [field.name for field in fields(ScoreRow)]
    writer.writerow(columns)
    for row in rows:
        values = asdict(row)
        texts = [_format_score(values[name]) if name in SCORES else str(values[name]) for name in columns]
        writer.writerow([without_formula(text) for text in texts])
    return text.getvalue()


def _format_score(value: float) -> str:
    return "nan" if math.isnan(value) else f"{value:.4f}"


def from_csv(path: Path) -> list[ScoreRow]:
    """Read a file written by `to_csv` of this or an older version.

    Raises:
        UserError: A required column is missing, or a value is not a number.
    """
    types: dict[str, Callable[[str], Any]] = {**dict.fromkeys(("seed", "order"), int), **dict.fromkeys(SCORES, float)}
    types["transductive"] = lambda text: text == str(True)
    known = {field.name for field in fields(ScoreRow)}
    with open(path, encoding="utf-8", newline="") as file:
        try:
            return [
                ScoreRow(**{name: types.get(name, str)(value) for name, value in line.items() if name in known})  # type: ignore[arg-type]
                for line in csv.DictReader(file)
            ]
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not a results file of a study, or it is damaged: {error}. To write it again, run: "
                f"mem run STUDY --forcerun report"
            ) from None


def by_variant(rows: Iterable[ScoreRow], split: str) -> dict[str, list[ScoreRow]]:
    """Group the rows of a split by variant. Variants are in the order of their first row on any split."""
    grouped: dict[str, list[ScoreRow]] = {}
    for row in rows:
        split_rows = grouped.setdefault(row.variant, [])
        if row.split == split:
            split_rows.append(row)
    return grouped


def of_finetune(rows: Iterable[ScoreRow]) -> list[ScoreRow]:
    """Return the rows of the heads that use the study's section `finetune`, not a variant of finetuning."""
    return [row for row in rows if not row.finetuning]


def with_finetuning_of(rows: Sequence[ScoreRow], variant: str) -> list[ScoreRow]:
    """Return the rows of all heads that use the same finetuning, and therefore the same backbone, as a variant."""
    finetunings = {row.finetuning for row in rows if row.variant == variant}
    return [row for row in rows if row.finetuning in finetunings]


def inductive(rows: Iterable[ScoreRow]) -> list[ScoreRow]:
    """Return the rows of the heads that are not transductive. Only these heads can be chosen by their scores on val."""
    return [row for row in rows if not row.transductive]


def is_refitted(rows: Iterable[ScoreRow]) -> bool:
    """Return whether the scores on val and test are of different heads.

    This is so in a study with `selection`: the heads of the scores on val are trained without the held-out images, and
    those of the scores on test on all training images.
    """
    keys = {(row.variant, row.repeat): row.key for row in rows if row.split == "val"}
    return any(keys.get((row.variant, row.repeat), row.key) != row.key for row in rows if row.split == "test")


def summarise(rows: Sequence[ScoreRow], split: str, columns: Sequence[str] = SHOTS) -> dict[str, dict[str, Interval]]:
    """Return the mean of each score over seeds and class orders, and its interval, by variant."""
    return {
        variant: {name: score_interval(split_rows, name) for name in columns}
        for variant, split_rows in by_variant(rows, split).items()
    }


def score_interval(rows: Sequence[ScoreRow], column: str) -> Interval:
    """Return the mean and interval of a score over the runs of one variant. Class orders are the independent units."""
    return interval([getattr(row, column) for row in rows], [row.order for row in rows])


def score_table(summary: Mapping[str, Mapping[str, Interval]]) -> list[list[str]]:
    """Format the result of `summarise` as a table with one line per method and one column per score."""
    columns = list(next(iter(summary.values()))) if summary else list(SHOTS)
    return [
        ["method", *columns],
        *[[variant, *(str(scores[column]) for column in columns)] for variant, scores in summary.items()],
    ]
