"""MEM minus other methods if each run chooses its heads on its own val split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mem.report.chosen_heads import chosen_head_table
from mem.report.results import ScoreRow


def rows_of(variant: str, method: str, val: list[float], test: list[float]) -> list[ScoreRow]:
    """Return rows of a head on val and test, with one class order per score."""
    return [
        ScoreRow("s", "d", "v", method, variant, 0, order, split, "t", *[score] * 4, key="k", balanced=score)
        for split, scores in (("val", val), ("test", test))
        for order, score in enumerate(scores)
    ]


ROWS = [
    *rows_of("ce", "ce", [40.0, 40.0, 40.0], [99.0, 99.0, 99.0]),
    *rows_of("crt", "crt", [50.0, 50.0, 50.0], [50.0, 51.0, 52.0]),
    *rows_of("fusion", "logit_fusion", [49.0, 49.0, 60.0], [0.0, 0.0, 56.0]),
    *rows_of("mem_a", "mem", [60.0, 60.0, 10.0], [52.0, 54.0, 90.0]),
    *rows_of("mem_b", "mem", [10.0, 10.0, 60.0], [90.0, 90.0, 53.0]),
]


def test_each_run_chooses_on_its_own_val_split_and_test_decides_nothing():
    header, minus_crt, minus_others = chosen_head_table(ROWS) or []
    assert header == ["chosen on val in each run", "many", "medium", "few", "all", "p", "chosen"]
    assert minus_crt[-1] == "mem_a (2), mem_b (1) − crt (3)"
    assert minus_others[-1] == "mem_a (2), mem_b (1) − crt (2), fusion (1)"
    for line, differences in ((minus_crt, [2.0, 3.0, 1.0]), (minus_others, [2.0, 3.0, -3.0])):
        half = stats.t.ppf(0.975, 2) * np.std(differences, ddof=1) / np.sqrt(3)
        assert line[4] == f"{np.mean(differences):+.2f} ± {half:.2f}"
        _, p = stats.ttest_1samp(differences, 0)
        assert float(line[5]) == pytest.approx(p, abs=0.006)


def test_there_is_no_table_without_a_choice_without_val_or_with_one_run():
    assert chosen_head_table([row for row in ROWS if row.variant != "mem_b"]) is None
    assert chosen_head_table([row for row in ROWS if row.split == "test"]) is None
    assert chosen_head_table([row for row in ROWS if row.order == 0]) is None
    assert chosen_head_table([row for row in ROWS if row.method == "mem"]) is None
    seeds = [replace(row, seed=row.order, order=0) for row in ROWS]  # which share the val split
    assert chosen_head_table(seeds) is None


def test_the_choice_is_no_advantage_for_methods_that_are_equal():
    """Heads of the same quality, whose scores on val and test share the noise of training: no difference on average."""
    generator = np.random.default_rng(0)
    rejected = 0
    studies = 150
    for _ in range(studies):
        rows: list[ScoreRow] = []
        for method in ("mem", "crt"):
            for i in range(3):
                trained = generator.normal(50, 1, 5)
                val, test = (trained + generator.normal(0, 0.5, 5) for _ in range(2))
                rows += rows_of(f"{method}{i}", method, val.tolist(), test.tolist())
        table = chosen_head_table(rows)
        assert table is not None
        p = table[1][5]
        rejected += p == "<0.001" or float(p) < 0.05
    assert 0.01 <= rejected / studies <= 0.1
