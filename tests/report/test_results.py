"""Tables of scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mem.errors import UserError
from mem.report.results import Row, from_csv, interval, summarised, table, to_csv, to_markdown, to_text


def row(variant: str, seed: int, accuracy: float, split: str = "test") -> Row:
    return Row(
        "s",
        "d",
        "v",
        "mem",
        variant,
        seed,
        0,
        split,
        "many>100 few<20",
        accuracy,
        accuracy - 1,
        math.nan,
        accuracy,
        "k",
    )


ROWS = [row("ce", 0, 50.0), row("ce", 1, 52.0), row("mem", 0, 60.0), row("mem", 1, 60.5), row("ce", 0, 9.0, "val")]


def test_the_interval_is_students():
    values = [3.0, 4.0, 8.0]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    found = interval(values)
    assert found.mean == pytest.approx(5.0)
    assert found.half_width == pytest.approx((high - low) / 2)


def test_a_single_run_has_no_interval():
    assert str(interval([3.14159])) == "3.14"
    assert interval([1.0]).half_width is None
    assert str(interval([math.nan])) == "-"


def test_rows_come_back_from_csv(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(to_csv(ROWS))
    assert to_csv(from_csv(path)) == to_csv(ROWS)
    assert from_csv(path)[2].all == 60.0


def test_scores_that_an_older_file_lacks_are_unknown(tmp_path):
    path = tmp_path / "results.csv"
    lines = [line.split(",")[:14] for line in to_csv(ROWS).splitlines()]
    path.write_text("\n".join(",".join(line) for line in lines))
    (found, *_) = from_csv(path)
    assert (found.all, found.key) == (50.0, "k")
    assert math.isnan(found.top5) and math.isnan(found.oracle_few)


def test_a_file_that_is_no_results_is_named(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"results.csv: no results of a study, or damaged"):
        from_csv(path)


def test_variants_are_summarised_in_the_order_of_the_study_and_by_split():
    summary = summarised(ROWS, "test")
    assert list(summary) == ["ce", "mem"]
    assert summary["ce"]["all"].mean == pytest.approx(51.0)
    assert summarised(ROWS, "val")["ce"]["all"].mean == pytest.approx(9.0)


def test_tables_line_up():
    lines = table(summarised(ROWS, "test"))
    markdown = to_markdown(lines).splitlines()
    assert markdown[0] == "| method | many | medium | few | all |"
    assert markdown[2].startswith("| ce | 51.00 ± 12.71 |")
    text = to_text(lines).splitlines()
    assert len({len(line) for line in text}) == 1
