"""Rows of scores: reading, writing, summarising and formatting."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mem.errors import UserError
from mem.metrics import best_in_group
from mem.metrics.predictions import PredictionMetadata, Predictions
from mem.metrics.scores import split_scores
from mem.report.results import (
    ScoreRow,
    from_csv,
    interval,
    score_rows,
    score_table,
    summarise,
    to_csv,
    with_group_given,
)
from mem.report.table_formats import csv_table, markdown_table, text_table


def row(variant: str, seed: int, accuracy: float, split: str = "test") -> ScoreRow:
    return ScoreRow(
        study="s",
        dataset="d",
        backbone="v",
        method="mem",
        variant=variant,
        seed=seed,
        order=0,
        split=split,
        thresholds="many>100 few<20",
        many=accuracy,
        medium=accuracy - 1,
        few=math.nan,
        all=accuracy,
        key="k",
    )


ROWS = [row("ce", 0, 50.0), row("ce", 1, 52.0), row("mem", 0, 60.0), row("mem", 1, 60.5), row("ce", 0, 9.0, "val")]


def test_the_interval_is_that_of_students_t():
    values = [3.0, 4.0, 8.0]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    result = interval(values)
    assert result.mean == pytest.approx(5.0)
    assert result.half_width == pytest.approx((high - low) / 2)


def test_the_group_recall_of_all_images_is_that_of_the_predictions():
    rng = np.random.default_rng(0)
    shots = np.array([0, 0, 1, 1, 2, 2])
    logits, labels = rng.normal(size=(200, 6)), rng.integers(0, 6, 200)
    predicted = logits.argmax(axis=1)
    top = np.argsort(-logits, axis=1)[:, :5]
    predictions = Predictions(
        labels=labels, predictions=predicted, top=top, top_probabilities=np.full((200, 5), 0.1, np.float32),
        best_in_shot=best_in_group(logits, shots, 3),
    )  # fmt: skip
    about = PredictionMetadata("d", "crt", "k", "many>100 few<20", tuple(shots.tolist()), None)
    metrics = {"thresholds": "many>100 few<20", "splits": {"test": split_scores(predictions, about)}}
    record = {
        "dataset": "d", "backbone": "v", "inputs": {"head": "runs/d/v/train_head-k"},
        "labels": {"method": "crt", "variant": "crt", "seed": 0, "order": 0},
    }  # fmt: skip
    (found,) = score_rows("s", [(record, metrics)])
    assert found.group_recall_all == pytest.approx(100 * (shots[predicted] == shots[labels]).mean())


def test_a_row_has_the_mark_of_a_transductive_head_and_the_experts_of_a_router():
    labels = np.array([0, 1, 2, 2])
    predictions = Predictions(
        labels=labels, predictions=labels, top=labels[:, None], top_probabilities=np.full((4, 1), 0.9, np.float32),
        best_in_shot=labels[:, None].repeat(3, axis=1), experts_used=np.array([1, 2, 2, 3]),
    )  # fmt: skip
    about = PredictionMetadata("d", "h", "k", "many>100 few<20", (0, 1, 2), None)
    metrics = {"thresholds": "many>100 few<20", "splits": {"test": split_scores(predictions, about)}}
    record = {
        "dataset": "d", "backbone": "v", "inputs": {"head": "runs/d/v/train_head-k"},
        "labels": {"method": "m", "variant": "h", "seed": 0, "order": 0},
    }  # fmt: skip
    plain, marked = score_rows("s", [(record, metrics), (record, metrics | {"transductive": True})])
    assert (plain.transductive, marked.transductive) == (False, True)
    used = (plain.experts_used_many, plain.experts_used_medium, plain.experts_used_few, plain.experts_used_all)
    assert used == (1.0, 2.0, 2.5, 2.0)


def test_the_oracle_is_shown_as_a_method_whose_group_is_given():
    first = replace(ROWS[0], oracle_many=91.0, oracle_medium=92.0, oracle_few=93.0, oracle_all=94.0, top5=99.0)
    rows = with_group_given([first, *ROWS[2:]], ["ce"])
    assert [r.variant for r in rows] == ["ce", "mem", "mem", "ce", "ce, group given", "ce, group given"]
    given = rows[4]
    assert (given.many, given.medium, given.few, given.all) == (91.0, 92.0, 93.0, 94.0)
    assert math.isnan(given.top5)
    assert summarise(rows, "test")["ce, group given"]["all"].mean == 94.0
    with pytest.raises(KeyError, match="No method in the results is named crt"):
        with_group_given(rows, ["ce", "crt"])


def test_a_single_run_has_no_interval():
    assert str(interval([3.14159])) == "3.14"
    assert interval([1.0]).half_width is None
    assert str(interval([math.nan])) == "-"


def test_rows_written_as_csv_are_read_back(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(to_csv(ROWS))
    assert to_csv(from_csv(path)) == to_csv(ROWS)
    assert from_csv(path)[2].all == 60.0


def test_scores_that_an_older_file_lacks_are_nan(tmp_path):
    path = tmp_path / "results.csv"
    lines = [line.split(",")[:14] for line in to_csv(ROWS).splitlines()]
    path.write_text("\n".join(",".join(line) for line in lines))
    first = from_csv(path)[0]
    assert (first.all, first.key) == (50.0, "k")
    assert math.isnan(first.top5) and math.isnan(first.oracle_few)


def test_a_file_without_results_is_named(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"results.csv is not a results file of a study, or it is damaged"):
        from_csv(path)


def test_variants_are_summarised_by_split_in_the_order_of_the_study():
    summary = summarise(ROWS, "test")
    assert list(summary) == ["ce", "mem"]
    assert summary["ce"]["all"].mean == pytest.approx(51.0)
    assert summarise(ROWS, "val")["ce"]["all"].mean == pytest.approx(9.0)


def test_tables_are_formatted_as_markdown_csv_and_aligned_text():
    lines = score_table(summarise(ROWS, "test"))
    markdown = markdown_table(lines).splitlines()
    assert markdown[0] == "| method | many | medium | few | all |"
    assert markdown[2].startswith("| ce | 51.00 ± 12.71 |")
    assert csv_table(lines).splitlines()[1].startswith("ce,51.00 ± 12.71,")
    text = text_table(lines).splitlines()
    assert len({len(line) for line in text}) == 1
