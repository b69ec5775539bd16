"""Whether val and test agree on the heads: a warning if the head that val chooses is significantly worse on test.

Heads are ranked by their mean per-class accuracy. The difference between two heads has a standard error of two parts:
that over class orders (or the seeds of one class order), from the paired differences, and that due to the sampling of
images. For the latter, the errors of both heads are added as if they were independent. The heads are evaluated on the
same images, so this part is too large rather than too small. p-values are from Student's t with the degrees of freedom
of Welch and Satterthwaite, adjusted for the number of comparisons by Holm's method. Differences with p < 0.05 count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mem.metrics import holm, unit_means
from mem.report.differences import identities
from mem.report.ranking import best_on_val
from mem.report.results import ScoreRow, by_variant, inductive

SIGNIFICANT = 0.05
"""Largest adjusted p-value of a difference that counts."""


@dataclass(frozen=True)
class Disagreement:
    """A head that is significantly better on test than the best head on val."""

    best_on_val: str
    better: str
    difference: float
    """Mean per-class accuracy of `better` minus that of the best head on val, on test, in points."""
    half_width: float
    """Half-width of the 95 % interval of this difference."""
    p: float
    """p-value, adjusted for the number of heads."""
    number: int
    """Number of heads that are significantly better."""
    heads: int
    """Number of other heads, those with equal predictions counted once."""


def disagreement(rows: Sequence[ScoreRow]) -> Disagreement | None:
    """Return the head with the largest significant advantage on test over the best head on val; None without one.

    Transductive heads are left out, because they cannot be chosen on val.
    """
    rows = inductive(rows)
    best = best_on_val(rows)
    grouped, identity_of = by_variant(rows, "test"), identities(rows, "test")
    if best is None or not grouped[best]:
        return None
    found = {
        variant: _difference(variant_rows, grouped[best])
        for variant, variant_rows in grouped.items()
        if variant_rows and identity_of[variant] != identity_of[best]
    }
    names = [variant for variant, (_, _, p) in found.items() if not math.isnan(p)]
    adjusted = holm([found[name][2] for name in names], [identity_of[name] for name in names])
    p_of = dict(zip(names, adjusted, strict=True))
    better = [name for name in names if found[name][0] > 0 and p_of[name] < SIGNIFICANT]
    if not better:
        return None
    first = max(better, key=lambda name: found[name][0])
    difference, half_width, _ = found[first]
    heads = len({identity_of[name] for name in names})
    return Disagreement(best, first, difference, half_width, p_of[first], len(better), heads)


def disagreement_text(rows: Sequence[ScoreRow]) -> str:
    """Return the warning about a disagreement between val and test; "" if there is none."""
    found = disagreement(rows)
    if found is None:
        return ""
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    others = found.number - 1
    more = "" if not others else f" {others} other head{'s are' if others > 1 else ' is'} significantly better, too."
    return (
        f"Warning: val and test disagree. {found.best_on_val}, the best head on val, is significantly worse on test "
        f"than {found.better}, by {found.difference:.2f} ± {found.half_width:.2f} points of mean per-class accuracy "
        f"({p}, adjusted for {found.heads} head{'s' * (found.heads > 1)}).{more} Do not choose a head by its scores on "
        "test. Check that val has enough images, that it is drawn like test, and that it has no near copies of "
        "training images (dataset.holdout.group_by)."
    )


def _difference(first: Sequence[ScoreRow], second: Sequence[ScoreRow]) -> tuple[float, float, float]:
    """Return the mean difference first - second over common runs, the half-width of its interval, and its p-value.

    The half-width and the p-value are NaN if nothing is known about the error.
    """
    other = {row.repeat: row for row in second}
    pairs = [(row, other[row.repeat]) for row in first if row.repeat in other]
    if not pairs:
        return math.nan, math.nan, math.nan
    units = unit_means([_score(a) - _score(b) for a, b in pairs], [a.order for a, _ in pairs])
    errors = [a.balanced_se**2 + b.balanced_se**2 for a, b in pairs]
    known = [error for error in errors if not math.isnan(error)]
    of_images = float(np.mean(known)) if known else 0.0
    over_runs = 0.0 if units.standard_error is None else units.standard_error**2
    variance = of_images + over_runs
    if variance == 0:
        return units.mean, math.nan, math.nan
    from scipy import special

    # The error due to the images has infinitely many degrees of freedom, that over the runs one fewer than units.
    freedom = math.inf if over_runs == 0 else variance**2 / (over_runs**2 / (len(units.means) - 1))
    freedom = min(freedom, 1e9)
    error = math.sqrt(variance)
    p = 2 * float(special.stdtr(freedom, -abs(units.mean) / error))
    return units.mean, float(special.stdtrit(freedom, 0.975)) * error, p


def _score(row: ScoreRow) -> float:
    """Return the score by which heads are ranked on val (see `mem.report.ranking`)."""
    return row.all if math.isnan(row.balanced) else row.balanced
