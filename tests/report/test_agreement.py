"""The warning about a head that is the best on val and significantly worse on test than another one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy import stats

from mem.report.agreement import disagreement, disagreement_text
from mem.report.results import ScoreRow, to_csv
from mem.report.terminal import study_summary


def row(variant: str, split: str, score: float, *, se: float = 0.5, order: int = 0, seed: int = 0, **more) -> ScoreRow:
    values = {"many": score, "medium": score, "few": score, "all": score, "balanced": score, "balanced_se": se}
    return ScoreRow(
        "s",
        "d",
        "v",
        "mem",
        variant,
        seed,
        order,
        split,
        "many>100 few<20",
        **{**values, **more},
        key=f"{variant}{seed}",
    )


def heads(*test: float, val: tuple[float, ...] = (70.0, 60.0), se: float = 0.5) -> list[ScoreRow]:
    """Return rows of one run. The first head is the best on val."""
    scores = {"val": val + (50.0,) * (len(test) - 2), "test": test}
    names = [f"head{i}" for i in range(len(test))]
    return [
        row(name, split, x, se=se) for split, values in scores.items() for name, x in zip(names, values, strict=True)
    ]


@pytest.mark.parametrize(("better", "warns"), [(61.3, False), (61.5, True)])
def test_one_run_is_compared_by_the_sampling_of_its_images(better, warns):
    """The difference of two scores with the error 0.5 has the error 0.71; 1.96 times this is 1.39 points."""
    found = disagreement(heads(60.0, better))
    assert (found is not None) == warns
    if found is not None:
        assert (found.best_on_val, found.better, found.number, found.heads) == ("head0", "head1", 1, 1)
        assert found.difference == pytest.approx(1.5)
        assert found.half_width == pytest.approx(1.959964 * math.sqrt(0.5), rel=1e-5)
        assert found.p == pytest.approx(2 * stats.norm.sf(1.5 / math.sqrt(0.5)), rel=1e-4)


def test_the_number_of_heads_is_taken_into_account():
    assert disagreement(heads(60.0, 61.5, 60.3)) is None
    found = disagreement(heads(60.0, 62.5, 63.0, 55.0))
    assert found is not None
    assert (found.better, found.number, found.heads) == ("head2", 2, 3)


def test_several_runs_are_compared_by_their_paired_differences():
    def rows(*gains: float) -> list[ScoreRow]:
        listed = []
        for order, gain in enumerate(gains):
            for name, score, val in (("a", 60.0 + 5 * order, 70.0), ("b", 60.0 + 5 * order + gain, 65.0)):
                listed += [row(name, "test", score, se=0.1, order=order), row(name, "val", val, order=order)]
        return listed

    found = disagreement(rows(2.0, 2.4, 2.2))
    assert found is not None and found.better == "b"
    runs, images = (0.2**2) / 3, 2 * 0.1**2
    error = math.sqrt(runs + images)
    freedom = (runs + images) ** 2 / (runs**2 / 2)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, freedom) * error, rel=1e-6)
    assert found.p == pytest.approx(2 * stats.t.sf(2.2 / error, freedom), rel=1e-6)
    assert disagreement(rows(6.0, -1.0, 1.6)) is None, "the difference varies between the class orders"


def test_heads_that_cannot_be_chosen_or_compared_give_no_warning():
    rows = heads(60.0, 70.0)
    assert disagreement([each for each in rows if each.split == "test"]) is None
    assert (
        disagreement([row(each.variant, each.split, each.all, transductive=each.variant == "head1") for each in rows])
        is None
    )
    assert disagreement(heads(60.0, 60.0)) is None
    assert disagreement(heads(60.0, 70.0, se=math.nan)) is None, "one run without errors says nothing"


def test_the_warning_is_a_sentence_in_the_results(tmp_path):
    assert disagreement_text(heads(60.0, 60.5)) == ""
    text = disagreement_text(heads(60.0, 65.0, 63.0))
    assert text.startswith(
        "Warning: val and test disagree. head0, the best head on val, is significantly worse on test "
    )
    assert "than head1, by 5.00 ± 1.39 points of mean per-class accuracy (p < 0.001, adjusted for 2 heads)" in text
    assert "1 other head is significantly better, too." in text
    path = Path(tmp_path, "results/s/report/results.csv")
    path.parent.mkdir(parents=True)
    path.write_text(to_csv(heads(60.0, 65.0)))
    assert "val and test disagree" in study_summary("s", tmp_path)
    path.write_text(to_csv(heads(60.0, 60.5)))
    assert "disagree" not in study_summary("s", tmp_path)
