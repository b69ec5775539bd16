"""The answer on the report's first screen: which method is best, by how much, and how sure this is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from mem.report.captions import class_orders
from mem.report.collect import StudyResults
from mem.report.comparison import BoundedDifference, Comparison, compare
from mem.report.crop_marks import crops_mark
from mem.report.difference_plot import DifferencePlot, difference_plot, interval_text
from mem.report.differences import format_p_value, format_signed
from mem.report.page import Answer
from mem.report.ranking import best_on_val, reference_variant, sorted_variants, val_scores, variants_to_plot
from mem.report.results import ScoreRow, inductive, summarise
from mem.report.transductive import MARK, NOTE, marked_text, transductive_heads

MAX_ROWS = 8
"""Maximum number of methods in the figure."""
MAX_BASELINES = 10
"""Maximum number of baselines to choose from on the page."""
SIGNIFICANT = 0.05


def answer(results: StudyResults) -> Answer:
    """Return the sentences and the figures of the first screen.

    The first figure has the baseline that all tables use. The others, with another baseline each, can be chosen on the
    page. Transductive heads are no baselines, because they are not comparable with the others.
    """
    rows = results.rows
    reference, best = reference_variant(rows), best_on_val(rows)
    plotted = _best_first(rows, variants_to_plot(rows, MAX_ROWS))
    comparable = {row.variant for row in inductive(rows)} - {reference}
    baselines = [reference, *(variant for variant in plotted if variant in comparable)][:MAX_BASELINES]
    full = compare(results, reference, sorted_variants(rows))
    others = [found for baseline in baselines[1:] if (found := compare(results, baseline, plotted)) is not None]
    comparisons = [] if full is None else [_only(full, plotted), *others]
    caption = _caption(rows, full, len(plotted)) if full is not None else ""
    return Answer(
        [*_sentences(rows, reference, best, full), _certainty(rows, full)],
        _plots(rows, comparisons, best),
        caption,
    )


def _only(comparison: Comparison, variants: Sequence[str]) -> Comparison:
    differences = {v: comparison.differences[v] for v in variants if v in comparison.differences}
    return replace(comparison, differences=differences)


def _best_first(rows: Sequence[ScoreRow], variants: Sequence[str]) -> list[str]:
    """Return the variants, best on val first. Transductive heads, which are never chosen, come last."""
    on_val = {variant: score.mean for variant, score in val_scores(inductive(rows)).items()}
    return sorted(variants, key=lambda variant: -on_val.get(variant, -1.0)) if on_val else list(variants)


def _plots(rows: Sequence[ScoreRow], comparisons: Sequence[Comparison], best: str | None) -> list[DifferencePlot]:
    summary, transductive = summarise(rows, "test"), transductive_heads(rows)
    names = {variant: marked_text(variant, transductive) + crops_mark(rows) for variant in summary}
    return [difference_plot(each, summary[each.baseline], best, names) for each in comparisons]


def _sentences(
    rows: Sequence[ScoreRow], reference: str, best: str | None, comparison: Comparison | None
) -> list[Markup]:
    """Return which method is the best on val, and its difference from the baseline on test."""
    summary = summarise(rows, "test")
    if len(summary) == 1:
        (only,) = summary
        name = marked_text(only, transductive_heads(rows))
        return [
            Markup("The study has one method, <strong>{}</strong>: {} % on test.").format(name, summary[only]["all"])
        ]
    if best is None:
        top = max(summary, key=lambda variant: summary[variant]["all"].mean)
        name = marked_text(top, transductive_heads(rows))
        return [
            Markup(
                "There is no val split to choose a method by. <strong>{}</strong> has the highest accuracy on test, "
                "{} %. A choice on test favours the chosen method."
            ).format(name, summary[top]["all"])
        ]
    on_val = val_scores(inductive(rows))
    score = on_val[best]
    error = "" if score.standard_error is None else f", standard error {score.standard_error:.2f}"
    value = f"{score.mean:.2f} % (mean per-class accuracy{error})"
    tied = [variant for variant in on_val if on_val[variant].mean == score.mean]
    names = Markup(" and ").join(Markup("<strong>{}</strong>").format(variant) for variant in tied)
    verb = "is the best method" if len(tied) == 1 else "are the best methods, with equal scores,"
    first = Markup("{} {} on val: {}.").format(names, verb, value)
    if comparison is None:
        return [first + Markup(" On test, it has {} %.").format(summary[best]["all"])]
    others = [variant for variant in tied if variant in comparison.differences]
    if not others:
        others = [variant for variant in _best_first(rows, list(comparison.differences)) if variant in on_val][:1]
        first += Markup(" It is the baseline. The next best on val is {}.").format(others[0]) if others else ""
    return [first, *(_difference(variant, reference, comparison) for variant in others[:1])]


def _difference(variant: str, reference: str, comparison: Comparison) -> Markup:
    differences = comparison.differences[variant]
    overall, few = differences["all"], differences["few"]
    on_few = "" if format_signed(few.mean) == "-" else f"; few-shot classes: {_with_interval(few)}"
    return Markup("{} minus {} on test: <strong>{} points</strong> ({}){}. {}").format(
        variant,
        reference,
        format_signed(overall.mean),
        interval_text(overall),
        on_few,
        _verdict(variant, reference, comparison),
    )


def _with_interval(difference: BoundedDifference) -> str:
    return f"{format_signed(difference.mean)} ({interval_text(difference).removeprefix('95 % interval ')})"


def _verdict(variant: str, reference: str, comparison: Comparison) -> str:
    """Return whether the study shows a difference over all classes."""
    overall, p = comparison.differences[variant]["all"], comparison.adjusted_p[variant]
    if overall.low is None:
        return "There is no interval, so the study cannot show a difference."
    if overall.contains_zero:
        return f"The interval contains 0: the study does not show that {variant} and {reference} differ."
    better = "better" if overall.mean > 0 else "worse"
    methods = len(comparison.differences)
    adjusted = f", adjusted for {methods} methods" if methods > 1 else ""
    p_value = f"p = {format_p_value(p)}".replace("= <", "< ") + adjusted
    if p < SIGNIFICANT:
        return f"The interval does not contain 0: {variant} is {better} than {reference} ({p_value})."
    return f"The interval does not contain 0, but {p_value}: the difference can be due to chance."


def _certainty(rows: Sequence[ScoreRow], comparison: Comparison | None) -> Markup:
    """Return what the intervals do not cover."""
    if comparison is None:
        return Markup("")
    if not comparison.units:
        return Markup(
            "The study has <strong>one run</strong>: its intervals cover only the sampling of test images. Another "
            "seed or class order can change the result."
        )
    if class_orders(rows) < 2:
        return Markup(
            "Intervals are over {}. They say nothing about other class orders, and do not contain the sampling of test "
            "images; see the standard error below the main table."
        ).format(comparison.units)
    return Markup("Intervals are over {}.").format(comparison.units)


def _caption(rows: Sequence[ScoreRow], comparison: Comparison, plotted: int) -> str:
    over = f"over {comparison.units}" if comparison.units else "over the test images"
    order = " Methods are sorted by their score on val, best first." if best_on_val(rows) else ""
    methods = len({row.variant for row in rows})
    left_out = (
        f" The figure shows CE, the baseline and the best methods on val; the tables have all {methods}."
        if plotted < methods
        else ""
    )
    note = f" {NOTE}" if any(MARK in name for name in _plotted_names(rows, plotted)) else ""
    return (
        f"Accuracy on test minus that of the baseline, in points, with 95 % intervals {over}. A filled dot means that "
        f"the interval does not contain 0.{order}{left_out}{note}"
    )


def _plotted_names(rows: Sequence[ScoreRow], plotted: int) -> list[str]:
    transductive = transductive_heads(rows)
    return [marked_text(variant, transductive) for variant in variants_to_plot(rows, plotted)]
