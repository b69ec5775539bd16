"""The first screen of the report: the best method, its difference from the baseline, and how sure this is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from mem.metrics import Interval
from mem.report.answer import _verdict, answer
from mem.report.collect import StudyResults
from mem.report.comparison import BoundedDifference, Comparison, compare
from mem.report.difference_plot import difference_plot
from mem.report.results import SHOTS, ScoreRow
from mem.report.tables import accuracy_tables
from mem.report.transductive import MARK
from tests.report.synthetic import rows_of_two_seeds
from tests.report.test_page import page_of

NOISE = {(0, 0): 0.0, (0, 1): 1.0, (1, 0): 2.0, (1, 1): 3.0}
"""Accuracy of every method in a run of a class order and seed, relative to the others."""


def results_of(gains: Mapping[str, Sequence[float]], **changes: object) -> StudyResults:
    """Return results of heads with the given gain in each of four runs, on val and test, around 60 %."""
    rows: list[ScoreRow] = []
    for name, by_run in gains.items():
        (row, _) = rows_of_two_seeds("s", "d", "b", **{name: 60.0})
        for (order, seed), gain in zip(NOISE, by_run, strict=True):
            score = 60.0 + NOISE[order, seed] + gain
            scores = dict.fromkeys(("many", "medium", "few", "all", "balanced"), score)
            for split in ("val", "test"):
                rows.append(replace(row, order=order, seed=seed, split=split, **scores))
    return StudyResults([replace(row, **changes) for row in rows])


def text_of(results: StudyResults) -> str:
    return " ".join(answer(results).sentences)


def test_a_clear_difference_is_stated_with_its_interval_and_the_units():
    text = text_of(results_of({"ce": [-1.0] * 4, "crt": [0.0] * 4, "mem": [5.0, 5.2, 5.1, 5.3]}))
    assert "<strong>mem</strong> is the best method on val: 66.65 % (mean per-class accuracy" in text
    assert "mem minus crt on test: <strong>+5.15 points</strong> (95 % interval +4.51 to +5.79)" in text
    assert "few-shot classes: +5.15" in text
    assert "mem is better than crt" in text
    assert "Intervals are over 2 class orders (mean of 2 seeds each)." in text


def test_a_screen_reader_reads_the_intervals_of_the_figure():
    html = page_of(answer=answer(results_of({"ce": [-1.0] * 4, "crt": [0.0] * 4, "mem": [5.0, 5.2, 5.1, 5.3]}))).html()
    assert html.count('<span class="hidden-text">95 % interval +4.51 to +5.79</span>') == 4  # all, many, medium and few


def test_seeds_of_one_class_order_refer_to_the_standard_error_below_the_main_table():
    results = results_of({"ce": [-1.0] * 4, "mem": [5.0, 5.2, 5.1, 5.3]}, order=0, balanced_se=1.25)
    rows = [replace(row, seed=i % 4) for i, row in enumerate(results.rows)]
    assert "see the standard error below the main table" in text_of(StudyResults(rows))
    caption = accuracy_tables(StudyResults(rows))[0].caption
    assert "standard error of the mean per-class accuracy due to the sampling of test images is 1.25 to" in caption


def test_an_interval_that_contains_0_shows_no_difference():
    text = text_of(results_of({"crt": [0.0] * 4, "mem": [4.0, 4.0, -3.0, -3.0]}))
    assert "mem minus crt on test: <strong>+0.50 points</strong>" in text
    assert "The interval contains 0: the study does not show that mem and crt differ." in text
    assert "better" not in text


def test_a_difference_that_is_not_significant_after_adjustment_can_be_due_to_chance():
    heads = {f"mem_{i}": [2.0 + 0.02 * i, 2.0, 2.1, 2.1 + 0.01 * i] for i in range(11)}
    text = text_of(results_of({"crt": [0.0] * 4, **heads, "best": [2.4, 2.4, 2.6, 2.6]}))
    assert "best minus crt" in text
    assert "The interval does not contain 0, but p = " in text
    assert "adjusted for 12 methods: the difference can be due to chance." in text


@pytest.mark.parametrize(("p", "is_better"), [(0.125, False), (0.01, True)])
def test_one_method_is_called_better_only_if_p_agrees_with_the_interval(p, is_better):
    """For one run, the interval is a bootstrap and p is that of McNemar's test, so that they can disagree."""
    difference = BoundedDifference(0.8, 0.2, 1.63)
    verdict = _verdict("mem", "crt", Comparison("crt", {"mem": dict.fromkeys(SHOTS, difference)}, {"mem": p}, ""))
    assert ("mem is better than crt" in verdict) == is_better
    assert ("the difference can be due to chance" in verdict) != is_better


def test_equal_differences_of_two_class_orders_are_no_interval():
    text = text_of(results_of({"crt": [0.0] * 4, "mem": [5.0, 5.2, 5.0, 5.2]}))
    assert "<strong>+5.10 points</strong>" in text
    assert "There is no interval, so the study cannot show a difference." in text


def test_a_worse_method_is_called_worse():
    results = results_of({"crt": [0.0] * 4, "mem": [-5.0, -5.2, -5.1, -5.3]})
    better_on_val = [replace(row, balanced=90.0) if row.split == "val" and row.variant == "mem" else row
                     for row in results.rows]  # fmt: skip
    assert "mem is worse than crt" in text_of(StudyResults(better_on_val))


def test_the_baseline_can_be_the_best_method_and_ties_are_named():
    text = text_of(results_of({"ce": [-2.0] * 4, "crt": [0.0] * 4, "mem": [-1.0, -1.0, -1.1, -1.1]}))
    assert "<strong>crt</strong> is the best method on val" in text
    assert "It is the baseline. The next best on val is mem." in text
    assert "mem minus crt on test" in text
    text = text_of(results_of({"ce": [-2.0] * 4, "crt": [0.0] * 4, "mem": [0.0] * 4}))
    assert "<strong>crt</strong> and <strong>mem</strong> are the best methods, with equal scores, on val" in text
    assert "mem minus crt on test: <strong>+0.00 points</strong>" in text


def test_without_val_no_method_is_called_the_best():
    results = results_of({"crt": [0.0] * 4, "mem": [5.0] * 4})
    text = text_of(StudyResults([row for row in results.rows if row.split == "test"]))
    assert "There is no val split to choose a method by." in text
    assert "A choice on test favours the chosen method." in text
    assert "best method" not in text


def test_a_single_head_has_no_comparison():
    single = answer(results_of({"ce": [0.0] * 4}))
    assert not single.plots
    assert single.sentences[0].startswith("The study has one method, <strong>ce</strong>: 61.50 ± ")
    assert "best" not in " ".join(single.sentences)


def test_each_method_can_be_the_baseline_except_transductive_heads_which_are_marked():
    results = results_of({"ce": [-1.0] * 4, "crt": [0.0] * 4, "sade": [9.0] * 4})
    rows = [replace(row, transductive=row.variant == "sade") for row in results.rows]
    first_screen = answer(StudyResults(rows))
    marked = f"sade{MARK}"
    assert [plot.baseline for plot in first_screen.plots] == ["crt", "ce"]
    assert [[row.name for row in plot.rows] for plot in first_screen.plots] == [
        ["ce", marked],
        ["crt", marked],
    ]
    assert "<strong>crt</strong> is the best method on val" in first_screen.sentences[0]
    assert "not comparable with the other heads" in first_screen.caption


def test_many_methods_are_compared_but_only_the_best_are_plotted():
    heads = {f"mem_{i}": [0.1 * i] * 4 for i in range(20)}
    first_screen = answer(results_of({"ce": [-3.0] * 4, "crt": [0.0] * 4, **heads}))
    names = [row.name for row in first_screen.plots[0].rows]
    assert names == ["mem_19", "mem_18", "mem_17", "mem_16", "mem_15", "mem_14", "ce"]
    assert [row.is_best for row in first_screen.plots[0].rows] == [True, *[False] * 6]
    assert "the tables have all 22" in first_screen.caption


def test_differences_over_runs_are_those_of_the_paired_t_test():
    results = results_of({"crt": [0.0] * 4, "mem": [1.0, 3.0, 4.0, 6.0]})
    comparison = compare(results, "crt", ["mem"])
    assert comparison is not None
    difference = comparison.differences["mem"]["all"]
    # Two class orders with means 2 and 5: Student's t with one degree of freedom.
    half_width = 12.7062 * 1.5
    assert difference.mean == pytest.approx(3.5)
    assert (difference.low, difference.high) == (
        pytest.approx(3.5 - half_width, abs=1e-3),
        pytest.approx(3.5 + half_width, abs=1e-3),
    )
    assert comparison.units == "2 class orders (mean of 2 seeds each)"


def test_positions_in_the_figure_are_proportional_to_differences():
    shots = ("many", "medium", "few", "all")
    wide, narrow = BoundedDifference(10.0, -10.0, 30.0), BoundedDifference(20.0, 15.0, 25.0)
    missing = BoundedDifference(float("nan"), None, None)
    differences = {"a": dict.fromkeys(shots, wide), "b": {**dict.fromkeys(shots, narrow), "few": missing}}
    accuracy = {**dict.fromkeys(shots, Interval(50.0, 1.0)), "few": Interval(float("nan"), None)}
    plot = difference_plot(Comparison("crt", differences, {}, ""), accuracy, "a", {"a": "a", "b": "b", "crt": "crt"})
    first, second = (row.cells[0] for row in plot.rows)
    # The axis goes from -10 to 30, with a margin of 6 % at both ends.
    assert first.start == pytest.approx(100 * 0.06 / 1.12, abs=0.01)
    points = (second.start - first.start) / 25  # from -10 to 15
    assert first.width == pytest.approx(40 * points, abs=0.02)
    assert first.dot == pytest.approx(first.start + 20 * points, abs=0.02)
    assert plot.zero == pytest.approx(first.start + 10 * points, abs=0.02)
    assert (first.excludes_zero, second.excludes_zero) == (False, True)
    assert plot.rows[1].cells[2].dot is None
    assert {tick.text: tick.position for tick in plot.ticks}["+20"] == pytest.approx(second.dot)
    assert plot.scores == ["50.00 %", "50.00 %", "-", "50.00 %"]
