"""Calibration with and without temperature scaling (Guo et al. 2017). Temperatures are fitted on val only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mem.metrics import interval
from mem.report.captions import interval_units
from mem.report.collect import StudyResults
from mem.report.page import CaptionedTable
from mem.report.ranking import sorted_variants
from mem.report.results import ScoreRow, by_variant, is_refitted

HEADER: tuple[str, ...] = ("method", "ECE", "ECE, scaled", "temperature", "NLL", "NLL, scaled")
MANY_LINES = 20
"""Longer tables are folded."""
_BALANCED_UP_TO = 2.0
"""Largest ratio of the numbers of images of two classes in a val split that counts as balanced."""


@dataclass(frozen=True)
class ScaledScores:
    """Scores of one run on test, with and without temperature scaling. NaN if there is no temperature."""

    temperature: float
    ece: float
    scaled_ece: float
    nll: float
    scaled_nll: float
    at_edge: bool = False
    """Whether the temperature is the smallest or the largest of all."""


def scaled_scores(scores: Mapping[str, Mapping[str, Any]], temperatures: Sequence[float], ece: float) -> ScaledScores:
    """Return the scores of a run on test at the temperature with the smallest negative log-likelihood on val.

    Args:
        scores: `nll` and `ece` at each temperature, for each split.
        temperatures: The temperatures.
        ece: Calibration error on test without scaling.
    """
    nothing = math.nan
    if "test" not in scores:
        return ScaledScores(nothing, ece, nothing, nothing, nothing)
    on_test = _numbers(scores["test"]["nll"])
    unscaled = float(on_test[int(np.argmin(np.abs(np.asarray(temperatures) - 1)))])
    on_val = _numbers(scores["val"]["nll"]) if "val" in scores else np.full(len(temperatures), np.nan)
    if np.isnan(on_val).all():
        return ScaledScores(nothing, ece, nothing, unscaled, nothing)
    best = int(np.nanargmin(on_val))
    return ScaledScores(
        temperatures[best],
        ece,
        float(scores["test"]["ece"][best]),
        unscaled,
        float(on_test[best]),
        at_edge=best in (0, len(temperatures) - 1),
    )


def calibration_table(results: StudyResults, manifest: Mapping[str, Any]) -> CaptionedTable:
    """Return a table with one line per method: calibration error and loss on test, before and after scaling.

    Args:
        results: Results of the study.
        manifest: Recorded results of the convert run, with the images of each class of val.
    """
    rows_of = by_variant(results.rows, "test")
    scores = {variant: _scores_of(results, rows_of[variant]) for variant in sorted_variants(results.rows)}
    lines = [list(HEADER)]
    for variant, of_runs in scores.items():
        orders = [row.order for row in rows_of[variant]]

        errors = [str(interval([getattr(run, name) for run in of_runs], orders)) for name in ("ece", "scaled_ece")]
        losses = [_loss([getattr(run, name) for run in of_runs], orders) for name in ("nll", "scaled_nll")]
        lines.append([variant, *errors, _range([run.temperature for run in of_runs]), *losses])
    caption = f"{_method(results)}{_conditions(results, scores, manifest)}"
    return CaptionedTable("Calibration with temperature scaling", caption, lines, folded=len(lines) > MANY_LINES)


def change_text(results: StudyResults, variant: str) -> str:
    """Return a sentence with the calibration error of a method before and after scaling; "" without temperatures."""
    of_runs = _scores_of(results, by_variant(results.rows, "test")[variant])
    before, after = (float(np.mean([getattr(run, name) for run in of_runs])) for name in ("ece", "scaled_ece"))
    if math.isnan(after):
        return ""
    return (
        f"The calibration error of {variant} on test is {before:.2f} %, and {after:.2f} % with a temperature that is "
        "fitted on val."
    )


def _scores_of(results: StudyResults, rows: Sequence[ScoreRow]) -> list[ScaledScores]:
    return [
        scaled_scores(results.calibration.get((row.variant, *row.repeat), {}), results.temperatures, row.ece)
        for row in rows
    ]


def _method(results: StudyResults) -> str:
    known = results.temperatures
    grid = f"of {len(known)} temperatures from {known[0]:.2g} to {known[-1]:g} " if known else ""
    units = interval_units(results.rows)
    spread = f" Values are the mean and 95 % interval (Student's t) over {units}." if units else ""
    return (
        "ECE is the expected calibration error on test in percent (15 bins), and NLL the negative log-likelihood on "
        "test in nats per image; smaller is better. Temperature scaling divides the logits by one number, which "
        f"changes no prediction. In each run, the temperature is the one {grid}with the smallest NLL on val. It does "
        f"not depend on test.{spread}"
    )


def _conditions(
    results: StudyResults, scores: Mapping[str, Sequence[ScaledScores]], manifest: Mapping[str, Any]
) -> str:
    """Return sentences about what limits the scaled scores."""
    known = [name for name, runs in scores.items() if any(math.isfinite(run.nll) for run in runs)]
    sentences: list[str] = []
    if earlier := [name for name in scores if not any("test" in split for split in _splits(results, name))]:
        sentences.append(
            f"The evaluations of {', '.join(earlier)} are of an earlier version, which did not compute scores at other "
            "temperatures. Evaluate them again with `mem run STUDY --forcerun evaluate`."
        )
    if not any("val" in split for name in scores for split in _splits(results, name)):
        if known:
            sentences.append("The study has no val split, so there are no temperatures.")
    elif is_refitted(results.rows):
        sentences.append(
            "Val are held-out training images with the long tail of train, so the temperature is mainly that of "
            "frequent classes. It is fitted to the head that was trained without them, and used for the head that was "
            "trained on all training images."
        )
    else:
        of_val = manifest["splits"]["val"]
        sentences.append(f"Val has {of_val['images']:,} images.")
        if (ratio := _imbalance(of_val["counts"])) > _BALANCED_UP_TO:
            sentences.append(
                f"It has a long tail (the largest class has {ratio:.0f} times as many images as the smallest), so the "
                "temperature is mainly that of frequent classes."
            )
    if edge := [name for name, runs in scores.items() if any(run.at_edge for run in runs)]:
        sentences.append(f"The smallest or largest of all temperatures was chosen for {', '.join(edge)}.")
    return "".join(f" {sentence}" for sentence in sentences)


def _loss(values: Sequence[float], orders: Sequence[int]) -> str:
    """Return a mean and its interval with three decimals."""
    mean = interval(values, orders)
    if math.isnan(mean.mean):
        return "-"
    return f"{mean.mean:.3f}" if mean.half_width is None else f"{mean.mean:.3f} ± {mean.half_width:.3f}"


def _splits(results: StudyResults, variant: str) -> list[Mapping[str, Any]]:
    return [splits for (name, _, _), splits in results.calibration.items() if name == variant]


def _imbalance(counts: Sequence[int]) -> float:
    present = [count for count in counts if count]
    return max(present) / min(present) if present else 1.0


def _range(values: Sequence[float]) -> str:
    """Return a value, or the smallest and the largest one; `-` without values."""
    known = [value for value in values if not math.isnan(value)]
    return " to ".join(dict.fromkeys(f"{value:.2f}" for value in (min(known), max(known)))) if known else "-"


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
