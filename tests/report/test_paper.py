"""The paper's tables beside ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from mem.report.paper_tables import ResultsStore, numbers, tables
from mem.report.results import Row, to_csv


def rows(study: str, dataset: str, backbone: str, **accuracies: float) -> list[Row]:
    """Test rows of heads that are named like their methods, over two seeds one point apart."""
    return [
        Row(
            study,
            dataset,
            backbone,
            name.partition("_")[0],
            name,
            seed,
            0,
            "test",
            "many>100 few<20",
            a,
            a,
            a,
            a + seed,
            "k",
        )
        for name, a in accuracies.items()
        for seed in (0, 1)
    ]


def lines_of(number: int, library: ResultsStore) -> list[list[str]]:
    return next(one.lines for one in tables(library) if one.number == number)


def stored(folder: Path, study: str, found: list[Row]) -> None:
    (folder / study / "report").mkdir(parents=True)
    (folder / study / "report" / "results.csv").write_text(to_csv(found))


VIT = rows("imagenet_lt_vit_base", "imagenet_lt", "vit_base", ce=53.0, crt=58.0, mem=60.0)


def test_ours_stands_beside_the_papers_with_the_difference_and_what_was_not_run(tmp_path):
    lines = lines_of(2, ResultsStore("imagenet_lt_vit_base", VIT, tmp_path))
    assert ["vit_base", "mem", "60.50 ± 6.35", "2", "58.88", "+1.62 ± 6.35"] in lines
    assert ["vit_base", "lws", "not run", "-", "57.87", "-"] in lines
    assert ["resnext50", "mem", "not run", "-", "49.6", "-"] in lines
    caption = next(
        one.caption for one in tables(ResultsStore("imagenet_lt_vit_base", VIT, tmp_path)) if one.number == 2
    )
    assert "Not run: resnext50, vit_large, convmae_base." in caption


def test_other_studies_that_were_run_fill_their_columns(tmp_path):
    stored(tmp_path, "imagenet_lt_resnext50", rows("imagenet_lt_resnext50", "imagenet_lt", "resnext50", mem=49.0))
    lines = lines_of(2, ResultsStore("imagenet_lt_vit_base", VIT, tmp_path))
    assert ["resnext50", "mem", "49.50 ± 6.35", "2", "49.6", "−0.10 ± 6.35"] in lines


def test_methods_of_others_stand_as_cited_and_not_run(tmp_path):
    lines = lines_of(1, ResultsStore("imagenet_lt_vit_base", VIT, tmp_path))
    assert ["imagenet_lt", "paco", "68.2", "58.7", "41.0", "60.0", "cited, not run"] in lines
    assert ["imagenet_lt", "ace", "-", "-", "-", "56.6", "cited, not run"] in lines
    assert not any(line[-1].startswith("ours") for line in lines)
    large = rows("imagenet_lt_vit_large", "imagenet_lt", "vit_large", mem=64.0)
    lines = lines_of(1, ResultsStore("imagenet_lt_vit_large", large, tmp_path))
    assert ["imagenet_lt", "mem", *["64.00 ± 0.00"] * 3, "64.50 ± 6.35", "ours, 2 runs"] in lines
    assert any(line[-1] == "difference" and line[-2] == "−0.40 ± 6.35" for line in lines)


def test_a_study_from_scratch_stands_in_table_5_and_not_for_the_pretrained_one(tmp_path):
    scratch = rows("table5_scratch_100", "imagenet_lt", "vit_base", ce=27.0, mem=30.0)
    library = ResultsStore("table5_scratch_100", scratch, tmp_path)
    assert all(line[2] == "not run" for line in lines_of(2, library)[1:])
    found = {tuple(line[:2]): line for line in lines_of(5, library)}
    assert found["table5_scratch_100", "ce"][5:] == ["27.50 ± 6.35", "2", "27.72", "−0.22 ± 6.35"]
    assert found["imagenet_lt_vit_base", "mem"][5] == "not run"


def test_the_papers_numbers_are_all_there():
    paper = numbers()
    assert [entry["table"] for entry in paper["tables"]] == [2, 3, 4]
    assert set(paper["table1"]) == {"imagenet_lt", "inat18", "places_lt"}
    assert len(paper["table5"]) == 7
    assert paper["figure1"]["misclassified_to"]["medium_to_many"] == pytest.approx(73.6)
