"""MEM minus other methods, each represented by the head that val chooses within the run.

A head that is chosen by its mean score on val over all class orders is favoured on test, because its scores on val and
test are of the same trained heads (docs/reference/report.md). If each run chooses with its own val split, the choice is
part of what is compared, and the class orders are independent repetitions of it. The interval is then as valid as that
of a comparison without a choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from mem.report.captions import class_orders
from mem.report.differences import format_difference, format_p_value, paired_scores
from mem.report.ranking import val_scores
from mem.report.results import SHOTS, ScoreRow, inductive

CAPTION = (
    "In each run (class order and seed), the head with the highest score on val (mean per-class accuracy) represents "
    "its method. The differences on test include this choice, so that their intervals and p-values need no adjustment "
    "for the number of heads. A method with more heads has more to choose from. crt: all cRT heads; others: all heads "
    "of other methods than MEM, including the controls."
)


def chosen_finetunings(rows: Sequence[ScoreRow]) -> str:
    """Return a sentence for the caption of a study with several finetunings; "" for a study with one."""
    if len({row.finetuning for row in rows}) < 2:
        return ""
    return (
        " The choice includes the heads on all finetunings of the study, so the differences can contain the difference "
        "between two finetunings."
    )


def chosen_head_table(rows: Sequence[ScoreRow]) -> list[list[str]] | None:
    """Return a table of the differences between the chosen MEM head and the chosen head of other methods.

    Returns `None` if there is no choice between MEM heads, no other method, no val split or only one class order, whose
    seeds share the val split. Transductive heads are left out.
    """
    rows = inductive(rows)
    if class_orders(rows) < 2:
        return None
    mem = _chosen(rows, lambda row: row.method == "mem")
    if len(mem) < 2 or len({row.variant for row in rows if row.method == "mem"}) < 2:
        return None
    lines = [["chosen on val in each run", *SHOTS, "p", "chosen"]]
    for name, included in (("crt", lambda row: row.method == "crt"), ("others", lambda row: row.method != "mem")):
        other = _chosen(rows, included)
        pairs = [(mem[repeat], other[repeat]) for repeat in mem if repeat in other]
        if len(pairs) < 2:
            continue
        scores = paired_scores(pairs, SHOTS)
        p = scores["all"].p
        names = " − ".join(_names(chosen) for chosen in zip(*pairs, strict=True))
        cells = [format_difference(scores[shot]) for shot in SHOTS]
        lines.append([f"mem − {name}", *cells, "-" if p is None else format_p_value(p), names])
    return lines if len(lines) > 1 else None


def _chosen(rows: Sequence[ScoreRow], included: Callable[[ScoreRow], bool]) -> dict[tuple[int, int], ScoreRow]:
    """Return the row on test of the head with the highest score on val (the first in a tie) in each run."""
    by_run: dict[tuple[int, int], list[ScoreRow]] = {}
    for row in rows:
        if included(row):
            by_run.setdefault(row.repeat, []).append(row)
    chosen: dict[tuple[int, int], ScoreRow] = {}
    for repeat, run_rows in by_run.items():
        on_val = {variant: score.mean for variant, score in val_scores(run_rows).items()}
        on_test = {row.variant: row for row in run_rows if row.split == "test"}
        candidates = [variant for variant in on_val if variant in on_test]
        if candidates:
            chosen[repeat] = on_test[max(candidates, key=lambda variant: on_val[variant])]
    return chosen


def _names(chosen: Iterable[ScoreRow]) -> str:
    """Return the names of the chosen heads and how often each was chosen, for example `mem (3), mem_frozen (2)`."""
    return ", ".join(f"{name} ({times})" for name, times in Counter(row.variant for row in chosen).most_common())
