"""The ranking of methods by their scores on val, and their order in tables and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mem.metrics import unit_means
from mem.report.results import ScoreRow, by_variant, inductive, of_finetune

MANY_VARIANTS = 12
"""Tables with more variants than this are sorted by their score on val."""


@dataclass(frozen=True)
class ValScore:
    """Mean per-class accuracy of a method on val, in percent. Methods are ranked by it."""

    mean: float
    standard_error: float | None
    """Standard error of the mean over class orders. With one order: that due to its val images and seeds together.
    None if it is not known."""

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.standard_error is None else f" (SE {self.standard_error:.2f})")


def val_score(balanced: Sequence[float], image_errors: Sequence[float], orders: Sequence[int]) -> ValScore:
    """Return the score of a method on val from the scores of its runs.

    Args:
        balanced: Mean per-class accuracy of each run.
        image_errors: Standard error of each of these accuracies due to the sampling of the val images; NaN if unknown.
        orders: Class order of each run.
    """
    units = unit_means(balanced, orders)
    if units.over == "class orders":
        return ValScore(units.mean, units.standard_error)
    # The seeds of one class order share their val images, so that more seeds do not reduce this part.
    known = [error**2 for error in image_errors if not math.isnan(error)]
    parts = [float(np.mean(known))] if known else []
    if (over_seeds := units.standard_error) is not None:
        parts.append(over_seeds**2)
    return ValScore(units.mean, math.sqrt(sum(parts)) if parts else None)


def val_scores(rows: Sequence[ScoreRow]) -> dict[str, ValScore]:
    """Return the score on val of every variant that was evaluated on val."""
    return {
        variant: val_score(
            [_balanced(row) for row in val_rows],
            [row.balanced_se for row in val_rows],
            [row.order for row in val_rows],
        )
        for variant, val_rows in by_variant(rows, "val").items()
        if val_rows
    }


def _balanced(row: ScoreRow) -> float:
    """Return the mean per-class accuracy, or the share of correct images in a `results.csv` that has no such column."""
    return row.all if math.isnan(row.balanced) else row.balanced


def best_on_val(rows: Sequence[ScoreRow]) -> str | None:
    """Return the variant with the highest score on val (the first in a tie), or `None` without a val split.

    Transductive heads are left out, because they were adapted to the test images.
    """
    scores = val_scores(inductive(rows))
    return max(scores, key=lambda variant: scores[variant].mean) if scores else None


def best_on_val_text(rows: Sequence[ScoreRow]) -> str:
    """Describe the method with the highest score on val, including this score and its standard error."""
    best = best_on_val(rows)
    if best is None:
        return "no val split"
    score = val_scores(rows)[best]
    error = "" if score.standard_error is None else f" (standard error {score.standard_error:.2f})"
    return f"{best}, {score.mean:.2f} %{error}"


def reference_variant(rows: Sequence[ScoreRow]) -> str:
    """Return the variant that all others are compared with: cRT if present, otherwise the first variant.

    Only if all heads are transductive, it is such a head. Only if no other head uses the section `finetune`, it is a
    head on a variant of finetuning.
    """
    comparable = inductive(rows) or rows
    methods = {row.variant: row.method for row in of_finetune(comparable) or comparable}
    if methods.get("crt") == "crt":
        return "crt"
    return next((variant for variant, method in methods.items() if method == "crt"), next(iter(methods)))


def sorted_variants(rows: Sequence[ScoreRow]) -> list[str]:
    """Return the variants in the study's order, or sorted by their score on val if there are many and val exists.

    Transductive heads have no rank: they follow the sorted ones in the study's order.
    """
    variants = list(dict.fromkeys(row.variant for row in rows))
    ranked = inductive(rows)
    scores = val_scores(ranked)
    if len(variants) <= MANY_VARIANTS or not scores:
        return variants
    means = {variant: score.mean for variant, score in scores.items()}
    names = dict.fromkeys(row.variant for row in ranked)
    by_score = sorted(names, key=lambda variant: -means.get(variant, float("-inf")))
    return [*by_score, *(variant for variant in variants if variant not in names)]


def variants_to_plot(rows: Sequence[ScoreRow], limit: int) -> list[str]:
    """Return up to `limit` variants for a figure: CE, the reference, and the first variants in sorted order.

    If there are more variants than `limit`, transductive heads are left out, unless there are no others.
    """
    variants = sorted_variants(rows)
    if len(variants) <= limit:
        return variants
    methods = {row.variant: row.method for row in rows}
    required = {reference_variant(rows), *[v for v in variants if methods[v] == "ce"][:1]}
    ranked = {row.variant for row in inductive(rows)}
    best = [variant for variant in variants if variant in ranked - required][: limit - len(required)]
    return [variant for variant in variants if variant in required or variant in best]
