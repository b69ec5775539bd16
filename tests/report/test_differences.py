"""Paired differences between methods: class orders as units, and equal methods as one hypothesis."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mem.metrics import holm
from mem.report.captions import coverage, equal_results, interval_units
from mem.report.differences import equal_sets, identities, paired_differences
from mem.report.method_tables import paired_difference_table
from mem.report.results import ScoreRow, score_interval

ORDERS, SEEDS = 4, 3


def study_rows(gains: dict[str, float], orders: int = ORDERS, seeds: int = SEEDS, **scores: float) -> list[ScoreRow]:
    """Return rows on test for methods with a gain that varies by class order. Methods with equal gains are equal."""
    generator = np.random.default_rng(0)
    shared, by_order = generator.normal(50, 2, (orders, seeds)), generator.normal(0, 1, (len(gains), orders))
    noise = generator.normal(0, 0.2, (len(gains), orders, seeds))
    rows = []
    first_with = {gain: list(gains.values()).index(gain) for gain in gains.values()}
    for variant, gain in gains.items():
        i = first_with[gain]
        for order in range(orders):
            for seed in range(seeds):
                score = shared[order, seed] + gain + (by_order[i, order] + noise[i, order, seed]) * (variant != "crt")
                values = dict.fromkeys(("many", "medium", "few", "all", "balanced"), float(score)) | scores
                rows.append(ScoreRow("s", "d", "v", "m", variant, seed, order, "test", "t", **values, key="k"))
    return rows


GAINS = {"crt": 0.0, "free": 1.0, "residual": 1.0, "additive": 2.5, "free_again": 1.0}


def test_differences_and_p_values_are_those_of_the_means_of_the_class_orders():
    rows = study_rows(GAINS)
    score = {(row.variant, *row.repeat): row.all for row in rows}
    means = {
        variant: [np.mean([score[variant, order, seed] for seed in range(SEEDS)]) for order in range(ORDERS)]
        for variant in GAINS
    }
    found = paired_differences(rows, "test", "crt")["free"]["all"]
    expected = stats.ttest_rel(means["free"], means["crt"])
    assert found.p == pytest.approx(expected.pvalue)
    assert found.mean == pytest.approx(np.mean(means["free"]) - np.mean(means["crt"]))
    assert found.pairs == ORDERS * SEEDS
    interval = score_interval([row for row in rows if row.variant == "free"], "all")
    low, high = stats.t.interval(0.95, ORDERS - 1, np.mean(means["free"]), stats.sem(means["free"]))
    assert interval.half_width == pytest.approx((high - low) / 2)


def test_equal_methods_are_one_hypothesis():
    rows = study_rows(GAINS)
    assert equal_sets(identities(rows, "test")) == [["free", "residual", "free_again"]]
    table = paired_difference_table(rows)
    assert table is not None
    differences = paired_differences(rows, "test", "crt")
    p_values = {variant: scores["all"].p for variant, scores in differences.items()}
    adjusted = holm([p_values["free"], p_values["additive"]])
    cells = {line[0]: line[table[0].index("p, adjusted")] for line in table[1:]}
    assert cells["free"] == cells["residual"] == cells["free_again"] == formatted(adjusted[0])
    assert cells["additive"] == formatted(adjusted[1])
    # Counted as four hypotheses, the adjusted values would be larger.
    assert holm([p_values[variant] for variant in ("free", "residual", "additive", "free_again")])[2] > adjusted[1]


def formatted(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def test_a_method_that_equals_the_reference_is_no_hypothesis():
    rows = study_rows({"crt": 0.0, "other": 1.0})
    alone = paired_difference_table(rows)
    copies = [ScoreRow(**{**vars(row), "variant": "crt_again"}) for row in rows if row.variant == "crt"]
    table = paired_difference_table([*rows, *copies])
    assert table is not None and alone is not None
    assert table[1] == alone[1]
    assert table[2][:1] + table[2][-3:] == ["crt_again", "1.00", "1.00", str(ORDERS * SEEDS)]


def test_methods_that_agree_only_in_overall_accuracy_are_different_hypotheses():
    rows = study_rows({"crt": 0.0, "a": 1.0})
    others = [ScoreRow(**{**vars(row), "variant": "b", "few": row.few + 1}) for row in rows if row.variant == "a"]
    assert equal_sets(identities([*rows, *others], "test")) == []


def test_captions_state_what_the_intervals_cover():
    several, seeds, one = (study_rows({"crt": 0.0}, orders, n) for orders, n in ((4, 3), (1, 3), (1, 1)))
    assert interval_units(several) == "4 class orders (mean of 3 seeds each)"
    assert interval_units(study_rows({"crt": 0.0}, 4, 1)) == "4 class orders"
    assert interval_units(seeds) == "3 seeds of one class order"
    assert interval_units(one) == ""
    assert interval_units(several[1:]) == "4 class orders (mean of 2 to 3 seeds each)"
    assert "They say nothing about other class orders, and they do not cover the sampling of test images" in coverage(
        seeds
    )
    assert "only if each class order has its own" in coverage(several)
    assert "The study has one run" in coverage(one)
    assert "test images is" not in coverage(one)
    with_errors = study_rows({"crt": 0.0, "a": 1.0}, 1, 2, balanced_se=0.3)
    assert coverage(with_errors).endswith("due to the sampling of test images is 0.30 to 0.30 points.")
    assert equal_results([["a", "b"], ["c", "d"]]).endswith("one hypothesis: a = b; c = d.")
    assert equal_results([]) == ""
    assert not math.isnan(with_errors[0].balanced_se)
