"""Sentences in captions that state what the intervals of a table cover and what they leave out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mem.config import Study
from mem.config.heads import Finetuned
from mem.report.results import ScoreRow, by_variant, with_finetuning_of


def class_orders(rows: Sequence[ScoreRow]) -> int:
    """Return the number of class orders."""
    return len({row.order for row in rows})


def interval_units(rows: Sequence[ScoreRow]) -> str:
    """Describe the units of the intervals, for example `3 class orders (mean of 3 seeds each)`; "" for a single run."""
    repeats, orders = {row.repeat for row in rows}, class_orders(rows)
    if len(repeats) < 2:
        return ""
    if orders < 2:
        return f"{len(repeats)} seeds of one class order"
    seeds = {sum(order == repeat[0] for repeat in repeats) for order in {repeat[0] for repeat in repeats}}
    low, high = min(seeds), max(seeds)
    averaged = "" if high == 1 else f" (mean of {low if low == high else f'{low} to {high}'} seeds each)"
    return f"{orders} class orders{averaged}"


def error_bars(rows: Sequence[ScoreRow]) -> str:
    """Return a sentence about the error bars of a figure; "" for a single run, which has none."""
    units = interval_units(rows)
    return f" Error bars are 95 % intervals (Student's t) over {units}." if units else ""


def summed_over_runs(rows: Sequence[ScoreRow]) -> str:
    """Return a sentence about numbers of images that are sums over the runs of each method; "" for a single run."""
    repeats = len({row.repeat for row in rows})
    return f" All numbers are summed over {repeats} runs (class orders and seeds)." if repeats > 1 else ""


def over_runs(runs: int) -> str:
    """Return the end of a clause with numbers of images that are sums over runs; "" for a single run."""
    return f", summed over {runs} runs" if runs > 1 else ""


def coverage(rows: Sequence[ScoreRow]) -> str:
    """Return sentences about the variation over runs and over test images, and which of them the intervals cover."""
    if class_orders(rows) > 1:
        runs = (
            "The intervals cover the choice of the training images, the class order and the seed. They cover the "
            "sampling of test images only if each class order has its own."
        )
    elif len({row.repeat for row in rows}) > 1:
        runs = (
            "The intervals cover the variation of training only. They say nothing about other class orders, and they "
            "do not cover the sampling of test images."
        )
    else:
        runs = "The study has one run, so differences of a few points may be due to chance."
    return f"{runs}{_test_images(rows)}"


def _test_images(rows: Sequence[ScoreRow]) -> str:
    """Return a sentence with the standard error due to the test images; "" if the evaluations do not have it."""
    errors = [
        math.sqrt(float(np.mean([row.balanced_se**2 for row in test_rows])))
        for test_rows in by_variant(rows, "test").values()
        if test_rows
    ]
    known = [error for error in errors if not math.isnan(error)]
    if not known:
        return ""
    return (
        f" The standard error of the mean per-class accuracy due to the sampling of test images is {min(known):.2f} to "
        f"{max(known):.2f} points."
    )


def val_error(rows: Sequence[ScoreRow]) -> str:
    """Return a sentence about the standard error of a score on val; "" for one class order."""
    if class_orders(rows) < 2:
        return ""
    return (
        " The standard error of a score on val is over class orders. It contains the difficulty of the orders, which "
        "all methods share. Differences between methods vary less."
    )


def calibration_of_sigmoids(study: Study) -> str:
    """Return a sentence about the ECE of classifiers that are trained with one sigmoid per class; "" without them."""
    names = [
        name
        for name, head in study.heads.items()
        if isinstance(head, Finetuned) and (finetune := study.finetuning(head)) and finetune.objective.trains_sigmoids
    ]
    if not names:
        return ""
    return (
        " The ECE uses softmax probabilities for every head, although the loss of these classifiers trains one sigmoid "
        f"per class: {', '.join(names)}."
    )


SEVERAL_METHODS = (
    "The intervals are not adjusted for the number of methods. They favour a method that was chosen by its score on "
    "val, because the scores on val and test are of the same trained heads; the adjusted p-value allows for any choice "
    "among these methods. A large p-value does not show that two methods are equal: the interval contains the "
    "differences that the data allow."
)
"""Sentences about a table of differences over runs between many methods and one of them."""


def same_backbone(rows: Sequence[ScoreRow], reference: str) -> str:
    """Return what the runs of each difference from a reference have in common, for a caption."""
    shared = "for the same class order and seed"
    return shared if several_finetunings(rows, reference) else "on the same backbone (same seed and class order)"


def several_finetunings(rows: Sequence[ScoreRow], reference: str) -> str:
    """Return sentences about differences between heads on different finetunings; "" if all heads share the backbone."""
    of_reference = with_finetuning_of(rows, reference)
    if len(of_reference) == len(rows):
        return ""
    heads: dict[str, list[str]] = {}
    for variant, finetuning in dict.fromkeys((row.variant, row.finetuning) for row in rows):
        heads.setdefault(f"variant {finetuning}" if finetuning else "`finetune`", []).append(variant)
    of = of_reference[0].finetuning
    own = f"variant {of}" if of else "`finetune`"
    named = "; ".join(f"{finetuning}: {', '.join(names)}" for finetuning, names in heads.items() if finetuning != own)
    return (
        f" Heads on the finetuning of {reference} ({own}) share its backbone. The other heads use other finetunings, "
        f"so their differences contain the difference between the finetunings: {named}."
    )


def equal_results(sets: Sequence[Sequence[str]]) -> str:
    """Return a sentence that names the sets of methods with equal results; "" if there are none."""
    named = "; ".join(" = ".join(names) for names in sets)
    return f" Methods with equal results in every run are one hypothesis: {named}." if named else ""
