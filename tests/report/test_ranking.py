"""The ranking of methods on val: by the mean per-class accuracy, with its standard error."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mem.report.method_tables import accuracy_table, val_table
from mem.report.ranking import ValScore, best_on_val, best_on_val_text, sorted_variants, val_score, val_scores
from mem.report.results import ScoreRow
from mem.report.results_store import head_for


def row(variant: str, *, every: float, balanced: float = math.nan, order: int = 0, seed: int = 0, **scores) -> ScoreRow:
    """Return a row on val with the share of correct images `every`."""
    values = {"many": every, "medium": every, "few": every, "all": every, "balanced": balanced, **scores}
    return ScoreRow("s", "d", "v", "mem", variant, seed, order, "val", "many>100 few<20", **values, key="k")


LONG_TAIL = [
    row("frequent", every=90.0, balanced=40.0),
    row("rare", every=60.0, balanced=55.0),
    row("both", every=70.0, balanced=54.0),
]


def test_every_class_has_the_same_weight_in_the_ranking():
    assert best_on_val(LONG_TAIL) == "rare"
    assert head_for(LONG_TAIL, "mem") == "rare"
    # The share of correct images is another ranking on this val split.
    assert max(LONG_TAIL, key=lambda row: row.all).variant == "frequent"
    many = [row(f"v{i}", every=0.0, balanced=10.0 + i) for i in range(12)]
    assert sorted_variants([*LONG_TAIL, *many])[:4] == ["rare", "both", "frequent", "v11"]


def test_the_first_of_several_equal_methods_is_the_best():
    rows = [row("a", every=1.0, balanced=50.0), row("b", every=9.0, balanced=51.0), row("c", every=10.0, balanced=51.0)]
    assert best_on_val(rows) == "b"


def test_a_results_file_without_balanced_accuracy_is_ranked_by_the_share_of_correct_images():
    rows = [row("a", every=50.0), row("b", every=60.0)]
    assert best_on_val(rows) == "b"
    assert best_on_val_text(rows) == "b, 60.00 %"


def test_the_standard_error_with_one_class_order_is_that_of_val_images_and_seeds_together():
    one = val_score([50.0], [1.5], [0])
    assert one == ValScore(50.0, 1.5)
    assert val_score([50.0], [math.nan], [0]) == ValScore(50.0, None)
    seeds = val_score([50.0, 52.0, 54.0], [1.0, 2.0, 2.0], [0, 0, 0])
    # The seeds share the val images: 3 is the mean of their squared standard errors.
    assert seeds.standard_error == pytest.approx(math.sqrt(3 + np.var([50, 52, 54], ddof=1) / 3))


def test_the_standard_error_with_several_class_orders_is_that_of_their_means():
    found = val_score([50.0, 52.0, 60.0, 62.0], [9.0] * 4, [0, 0, 1, 1])
    assert (found.mean, found.standard_error) == pytest.approx((56.0, np.std([51, 61], ddof=1) / math.sqrt(2)))


def test_the_standard_error_is_next_to_the_ranking():
    rows = [replace(row, balanced_se=1.25) for row in LONG_TAIL]
    assert best_on_val_text(rows) == "rare, 55.00 % (standard error 1.25)"
    assert val_table(rows)[:2] == [
        ["method", "balanced", "many", "medium", "few", "all"],
        ["frequent", "40.00 (SE 1.25)", *["90.00"] * 4],
    ]
    many = [row(f"v{i}", every=0.0, balanced=10.0 + i, balanced_se=0.5) for i in range(12)]
    table = accuracy_table([*rows, *many])
    assert [line[:2] for line in table[:2]] == [["method", "val, balanced"], ["rare", "55.00 (SE 1.25)"]]
    assert val_scores(rows)["rare"].standard_error == 1.25
