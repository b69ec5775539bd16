"""The few methods that the sections about classes and images show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mem.report.ranking import best_on_val, reference_variant
from mem.report.results import ScoreRow
from mem.report.results_store import head_for


@dataclass(frozen=True)
class ChosenMethods:
    """The methods that are shown. No choice depends on test."""

    focus: str
    """The method whose classes and errors are shown: the best on val."""
    reason: str
    """Why it was chosen, in words that follow its name."""
    baseline: str | None
    """The method that it is compared with: the reference, or CE if the focus is the reference. None without another."""
    shown: tuple[str, ...]
    """CE, the reference, the focus and MEM, without repetition."""


def chosen_methods(rows: Sequence[ScoreRow]) -> ChosenMethods:
    """Choose the methods from the rows of a study.

    Without a val split, the focus is the MEM head or, in a study without MEM, the reference.
    """
    reference, ce, mem = reference_variant(rows), head_for(rows, "ce"), head_for(rows, "mem")
    best = best_on_val(rows)
    focus = best or mem or reference
    reason = "the best method on val" if best else "shown because the study has no val split"
    shown = dict.fromkeys(name for name in (ce, reference, focus, mem) if name is not None)
    others = [*(name for name in (reference, ce, *shown) if name), *(row.variant for row in rows)]
    baseline = next((name for name in others if name != focus), None)
    return ChosenMethods(focus, reason, baseline, tuple(shown))
