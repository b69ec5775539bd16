"""Reports of studies with several finetunings: figures and differences do not mix backbones without saying so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mem.config import Study
from mem.report.captions import calibration_of_sigmoids
from mem.report.collect import StudyResults
from mem.report.paper_figure_numbers import figure1_heads
from mem.report.ranking import reference_variant
from mem.report.results import ScoreRow, to_csv
from mem.report.results_store import ResultsStore
from mem.report.tables import difference_tables, other_score_tables
from mem.report.terminal import study_summary
from tests.report.synthetic import rows_of_two_seeds, study_of, write_report
from tests.report.test_paper_figures import figure_tables
from tests.report.test_paper_tables import table


def rows_on(finetuning: str, *, method: str | None = None, **accuracies: float) -> list[ScoreRow]:
    return rows_of_two_seeds(
        "imagenet_lt_vit_base", "imagenet_lt", "vit_base", method=method, finetuning=finetuning, **accuracies
    )


MEM_ON_VARIANT = [*rows_on("", ce=50.0, crt=55.0), *rows_on("a", mem=60.0, ce_a=52.0)]
"""MEM with the name `mem` on a variant of finetuning; CE and cRT on `finetune`."""


def mem_on_variant(folder: Path) -> Study:
    """Return the mini study with its head `mem` on a variant of finetuning."""
    study = study_of(folder)
    heads = {name: head for name, head in study.heads.items() if name != "mem_on_crt"}
    heads["mem"] = heads["mem"].model_copy(update={"finetuning": "a"})
    return study.model_copy(update={"heads": heads})


def test_figures_1_and_3_do_not_subtract_a_head_on_another_finetuning(tmp_path):
    figures = figure_tables(tmp_path, mem_on_variant(tmp_path), MEM_ON_VARIANT)
    assert figures[1].lines[-1] == ["mem minus ce: few", "not run", "-", "+11.9", "-"]
    assert "Not run: mem." in figures[1].caption
    assert ["mem", *["not run"] * 4, "-"] in figures[3].lines
    assert not any(line[-1] == "ours, paired" for line in figures[3].lines)
    assert not any("ce_a" in line[0] for line in figures[3].lines)
    for figure in figures.values():
        assert "Heads on variants of finetuning are not included." in figure.caption


def test_a_study_with_one_finetuning_has_no_sentence_about_variants(tmp_path):
    figures = figure_tables(tmp_path, study_of(tmp_path), rows_on("", ce=50.0, crt=55.0, mem=60.0))
    assert not any("inetuning" in figure.caption for figure in figures.values())
    assert ["mem minus crt", *["+5.00"] * 4, "ours, paired"] in figures[3].lines


def test_figure_1_of_a_study_without_heads_on_finetune_pairs_heads_on_one_variant_and_is_not_compared(tmp_path):
    rows = [*rows_on("b", mem=60.0), *rows_on("a", ce_a=52.0, mem_a=58.0)]
    assert figure1_heads(rows) == ("ce_a", "mem_a")
    figure = figure_tables(tmp_path, mem_on_variant(tmp_path), rows)[1]
    assert figure.lines[-1] == ["mem minus ce_a: few", "+6.00", "2", "+11.9", "-"]
    assert {line[-1] for line in figure.lines[1:]} == {"-"}
    assert "The heads use the variant of finetuning `a`" in figure.caption


def test_figure_4_leaves_out_heads_on_a_variant_of_finetuning(tmp_path):
    study = study_of(tmp_path, sweeps={"xi": {"of": "mem", "over": {"xi": [20, 100]}}})
    heads = {name: head.model_copy(update={"finetuning": "a"}) for name, head in study.heads.items()}
    rows = [row for name, head in heads.items() for row in rows_on("a", method=head.method, **{name: 50.0})]
    lines = figure_tables(tmp_path, study.model_copy(update={"heads": heads}), rows)[4].lines
    assert [line[0] for line in lines[1:]] == ["depth 1, a transformer block", "xi 100 minus xi 20"]
    assert all(line[1] == "-" for line in lines[1:])


def test_table_5_does_not_compare_a_head_on_a_variant_with_the_paper(tmp_path):
    table5 = table(5, ResultsStore("imagenet_lt_vit_base", MEM_ON_VARIANT, tmp_path))
    lines = {tuple(line[:2]): line[2:] for line in table5.lines}
    assert lines["imagenet_lt_vit_base", "ce"][3] == "50.50 ± 6.35"
    assert lines["imagenet_lt_vit_base", "mem"][:4] == ["not run"] * 4
    assert "Heads on variants of finetuning are not included." in table5.caption


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([*rows_on("a", crt_a=55.0), *rows_on("", ce=50.0, crt_warm=54.0)], "crt_warm"),
        ([*rows_on("a", crt=55.0), *rows_on("", ce=50.0)], "ce"),
        (rows_on("a", ce_a=50.0, crt_a=55.0), "crt_a"),
    ],
)
def test_the_reference_of_the_differences_is_a_head_on_finetune_if_there_is_one(rows, expected):
    assert reference_variant(rows) == expected


def differences_caption(rows: list[ScoreRow]) -> str:
    tables = difference_tables(StudyResults(rows))
    return next(table.caption for table in tables if table.title == "Differences between methods")


def test_the_caption_of_the_differences_says_which_heads_are_on_other_finetunings(tmp_path):
    same = rows_on("", ce=50.0, crt=55.0, mem=60.0)
    start = "Each method minus crt on the same backbone (same seed and class order), on test, in points. Values"
    assert differences_caption(same).startswith(start)
    caption = differences_caption(MEM_ON_VARIANT)
    assert "on the same backbone" not in caption
    assert "Each method minus crt for the same class order and seed, on test, in points. Heads on" in caption
    assert "their differences contain the difference between the finetunings: variant a: mem, ce_a." in caption
    (tmp_path / "results" / "s" / "report").mkdir(parents=True)
    (tmp_path / "results" / "s" / "report" / "results.csv").write_text(to_csv(MEM_ON_VARIANT))
    for minus, others in ((None, "variant a: mem, ce_a."), ("ce_a", "`finetune`: ce, crt.")):
        text = " ".join(study_summary("s", tmp_path, minus).split())
        assert "on the same backbone" not in text
        assert others in text


def test_the_caption_of_chosen_heads_says_that_finetunings_are_mixed():
    def caption(rows: list[ScoreRow]) -> str:
        rows = [replace(row, order=row.seed) for row in rows]
        tables = difference_tables(StudyResults([*rows, *(replace(row, split="val") for row in rows)]))
        return next(table.caption for table in tables if "each chosen on val" in table.title)

    mem = rows_on("", crt=55.0, mem=60.0, mem_wide=61.0)
    sentence = "the differences can contain the difference between two finetunings"
    assert sentence not in caption(mem)
    assert sentence in caption([*mem, *rows_on("a", crt_a=57.0)])


OBJECTIVES = {
    "bce": {"name": "balanced_bce", "tau": 1.0},
    "sigmoid": {"name": "class_balanced", "beta": 0.999, "loss": "sigmoid"},
    "focal": {"name": "class_balanced", "beta": 0.999, "loss": "focal", "gamma": 1.0},
    "softmax": {"name": "class_balanced", "beta": 0.999, "loss": "softmax"},
    "softmax_focal": {"name": "focal", "gamma": 1.0},
}


def test_the_caption_of_the_calibration_error_names_classifiers_that_were_trained_with_sigmoids(tmp_path):
    heads = {"ce": None} | {name: {"method": "finetuned", "finetuning": name} for name in OBJECTIVES}
    variants = {name: {"objective": objective, "label_smoothing": 0.0} for name, objective in OBJECTIVES.items()}
    sentence = calibration_of_sigmoids(study_of(tmp_path, heads=heads, finetune_variants=variants))
    assert sentence.endswith("loss of these classifiers trains one sigmoid per class: bce, focal, sigmoid.")
    tables = other_score_tables(StudyResults(MEM_ON_VARIANT), sentence)
    assert next(table.caption for table in tables if "ECE" in table.caption).endswith(sentence)
    assert calibration_of_sigmoids(study_of(tmp_path)) == ""


@pytest.mark.stage
def test_the_report_of_one_run_names_the_heads_on_other_finetunings(tmp_path):
    mini = study_of(tmp_path)
    heads = {name: mini.heads[name].model_dump(exclude_none=True, mode="json") for name in ("ce", "crt", "mem")}
    heads["mem"] |= {"finetuning": "a", "classifier_from": "ce_a"}
    heads["ce_a"] = {"method": "ce", "finetuning": "a"}
    results = write_report(tmp_path, study_of(tmp_path, heads=heads, finetune_variants={"a": {"epochs": 3}}))
    page = (results / "report" / "index.html").read_text()
    assert "Each method minus crt on the same test images of one class order and seed, in points. Heads on" in page
    assert "variant a: ce_a, mem." in page
    assert "mem minus crt,-,-,-" in (results / "figures" / "figure3.csv").read_text()
