"""Table 1: cited methods, results of their recipes and of the study, and the differences."""

from __future__ import annotations

from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.report.paper_format import paper_numbers
from mem.report.results_store import TABLE1_METHODS, ResultsStore, head_for
from mem.report.table1 import build_table1
from tests.conftest import REPOSITORY
from tests.report.synthetic import rows_of_two_seeds, study_of, write_report
from tests.report.test_paper_tables import VIT, table, write_results

PAPER = paper_numbers()


def lines_of(store: ResultsStore, dataset: str, method: str) -> list[list[str]]:
    return [line[2:] for line in table(1, store).lines if line[:2] == [dataset, method]]


def lade_rows(dataset: str, backbone: str, accuracy: float):
    return rows_of_two_seeds(f"{dataset}_lade", dataset, backbone, method="finetuned_lade", finetuned=accuracy)


def test_a_method_whose_recipe_was_run_has_its_result_beside_the_cited_number_and_the_difference(tmp_path):
    write_results(tmp_path, "places_lt_lade", lade_rows("places_lt", "resnet152", 39.0))
    lines = lines_of(ResultsStore("imagenet_lt_vit_base", VIT, tmp_path), "places_lt", "lade")
    assert lines == [
        ["-", "-", "-", "39.2", "cited"],
        [*["39.00 ± 0.00"] * 3, "39.50 ± 6.35", "ours, 2 runs: places_lt_lade, resnet152, head finetuned"],
        ["-", "-", "-", "+0.30 ± 6.35", "difference: places_lt_lade"],
    ]


def test_methods_with_a_recipe_that_was_not_run_are_named_and_those_without_a_recipe_too(tmp_path):
    store = ResultsStore("imagenet_lt_vit_base", VIT, tmp_path)
    assert lines_of(store, "inat18", "mislas") == [["-", "-", "-", "70.7", "cited, not run"]]
    caption = table(1, store).caption
    assert "mislas on inat18" in caption and "livt on imagenet_lt" in caption and "lade on imagenet_lt" in caption
    assert "livt on places_lt" not in caption
    assert "There is no recipe" not in caption
    more = {
        **PAPER,
        "table1": PAPER["table1"] | {"imagenet_lt": PAPER["table1"]["imagenet_lt"] | {"other": [50.0] * 4}},
    }
    assert "There is no recipe for other." in build_table1(store, more).caption


def test_lade_on_imagenet_lt_is_compared_with_the_row_without_a_name(tmp_path):
    store = ResultsStore("imagenet_lt_lade", lade_rows("imagenet_lt", "resnext50", 52.0), tmp_path)
    assert lines_of(store, "imagenet_lt", "unnamed_row") == [["64.4", "47.7", "34.3", "52.3", "cited"]]
    result, difference = lines_of(store, "imagenet_lt", "lade")
    assert result[-1] == "ours, 2 runs: imagenet_lt_lade, resnext50, head finetuned"
    assert difference[-2:] == ["+0.20 ± 6.35", "difference from unnamed_row: imagenet_lt_lade"]


def test_sade_is_compared_with_tade_and_ride_on_places_lt_with_the_code_of_sade(tmp_path):
    rows = rows_of_two_seeds("places_lt_sade", "places_lt", "resnet152", method="finetuned_sade", finetuned=40.0)
    store = ResultsStore("places_lt_sade", rows, tmp_path)
    assert lines_of(store, "places_lt", "tade") == [["40.4", "43.2", "36.8", "40.9", "cited"]]
    result, difference = lines_of(store, "places_lt", "sade")
    assert result[-1] == "ours, 2 runs: places_lt_sade, resnet152, head finetuned"
    assert difference[-2:] == ["−0.40 ± 6.35", "difference from tade: places_lt_sade"]
    assert lines_of(store, "places_lt", "ride") == [["-", "-", "-", "40.3", "not in the paper, not run"]]


def test_livt_is_an_additional_row_that_is_not_from_the_paper(tmp_path):
    lines = lines_of(ResultsStore("imagenet_lt_vit_base", VIT, tmp_path), "imagenet_lt", "livt")
    assert lines == [["73.6", "56.4", "41.0", "60.9", "not in the paper, not run"]]
    rows = rows_of_two_seeds(
        "imagenet_lt_livt", "imagenet_lt", "vit_base", method="finetuned_balanced_bce", finetuned=60.0
    )
    published, ours, difference = lines_of(ResultsStore("imagenet_lt_livt", rows, tmp_path), "imagenet_lt", "livt")
    assert published[-1] == "not in the paper"
    assert ours[-2] == "60.50 ± 6.35"
    assert difference[-2] == "−0.40 ± 6.35"


def test_the_decoupled_head_is_not_balanced_softmax_end_to_end(tmp_path):
    rows = rows_of_two_seeds(
        "imagenet_lt_vit_base", "imagenet_lt", "vit_base", method="balanced_softmax", balanced_softmax=50.0
    )
    store = ResultsStore("imagenet_lt_vit_base", rows, tmp_path)
    assert lines_of(store, "imagenet_lt", "balanced_softmax") == [["64.1", "48.2", "33.4", "52.3", "cited, not run"]]
    end_to_end = rows_of_two_seeds(
        "imagenet_lt_vit_base",
        "imagenet_lt",
        "vit_base",
        method="finetuned_balanced_softmax",
        finetuning="balanced",
        end_to_end=53.0,
    )
    store = ResultsStore("imagenet_lt_vit_base", [*rows, *end_to_end], tmp_path)
    cited, ours, _ = lines_of(store, "imagenet_lt", "balanced_softmax")
    assert cited[-1] == "cited"
    assert ours[-2:] == ["53.50 ± 6.35", "ours, 2 runs: imagenet_lt_vit_base, vit_base, head end_to_end"]


def test_a_head_with_the_name_of_another_method_does_not_represent_it():
    rows = rows_of_two_seeds("s", "d", "b", method="finetuned_balanced_softmax", balanced_softmax=50.0)
    assert head_for(rows, "balanced_softmax") is None
    assert head_for(rows, "finetuned_balanced_softmax") == "balanced_softmax"


def test_recipes_of_table_1_are_not_the_recipes_of_tables_2_to_4(tmp_path):
    rows = rows_of_two_seeds("imagenet_lt_mislas", "imagenet_lt", "resnext50", ce=45.0)
    store = ResultsStore("imagenet_lt_mislas", rows, tmp_path)
    lines = table(2, store).lines
    assert all(line[2] == "not run" for line in lines[1:])
    assert {line[0] for line in lines[1:]} == {"resnext50", "vit_base", "vit_large", "convmae_base"}
    other = ResultsStore(
        "imagenet_lt_own", rows_of_two_seeds("imagenet_lt_own", "imagenet_lt", "own", ce=45.0), tmp_path
    )
    assert ["own", "ce", "45.50 ± 6.35", "2", "-", "-"] in table(2, other).lines


def test_heads_on_variants_of_finetuning_are_not_in_tables_2_to_4(tmp_path):
    on_lade = rows_of_two_seeds("s", "imagenet_lt", "vit_base", method="mem", finetuning="lade", mem_on_lade=70.0)
    store = ResultsStore("imagenet_lt_vit_base", [*VIT[:4], *on_lade], tmp_path)
    assert ["vit_base", "mem", "not run", "-", "58.88", "-"] in table(2, store).lines


def test_the_recipe_of_every_method_exists_and_has_its_head():
    for dataset, cited in PAPER["table1"].items():
        names = {**{method: method for method in cited}, **PAPER["table1_names"].get(dataset, {})}
        for method in {*names, *PAPER["table1_other"].get(dataset, {})} & {*TABLE1_METHODS}:
            study = load_study([REPOSITORY / "config" / "table1" / f"{dataset}_{method}.yaml"])
            assert (study.study, study.dataset.name) == (f"{dataset}_{method}", dataset)
            assert TABLE1_METHODS[method] in {study.method_of(head) for head in study.heads.values()}


def test_the_caption_of_another_dataset_says_which_head_represents_a_method(tmp_path):
    rows = rows_of_two_seeds("s", "d", "b", crt=50.0, crt_warm=60.0)
    table1 = table(1, ResultsStore("s", rows, tmp_path))
    assert [line[1] for line in table1.lines[1:]] == ["crt"]
    assert (
        "A method is represented by the head with its name or, without such a head, by its best head" in table1.caption
    )


@pytest.fixture(scope="module")
def with_variants(tmp_path_factory) -> Path:
    """Return the results of a study with variants of finetuning."""
    folder = tmp_path_factory.mktemp("variants")
    training = {"epochs": 1, "global_batch": 32, "optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0}
    training["sampler"] = "class_balanced"
    heads = {
        "ce": None,
        "crt": {"training": training},
        "balanced_softmax": {"training": {**training, "sampler": "instance"}},
        "finetuned_balanced_softmax": {"method": "finetuned", "finetuning": "balanced"},
        "ce_sqrt": {"method": "ce", "finetuning": "sqrt"},
        "crt_on_balanced": {"method": "crt", "finetuning": "balanced", "training": training},
    }
    variants = {"balanced": {"objective": "balanced_softmax"}, "sqrt": {"sampler": "sqrt"}}
    return write_report(folder, study_of(folder, heads=heads, sweeps={}, finetune_variants=variants, seeds=[0, 1]))


@pytest.mark.stage
def test_table_1_of_another_dataset_contains_every_method_on_every_variant_of_finetuning(with_variants):
    lines = [line.split(",") for line in (with_variants / "tables" / "table1.csv").read_text().splitlines()]
    heads = [line[1] for line in lines[1:]]
    assert heads[:2] == ["ce", "crt"]
    assert sorted(heads[2:]) == ["balanced_softmax", "ce_sqrt", "crt_on_balanced", "finetuned_balanced_softmax"]
    assert "Not run: tau, lws, mem." in (with_variants / "tables" / "table1.md").read_text()
    methods = [line.split(",")[1] for line in (with_variants / "tables" / "table2.csv").read_text().splitlines()[1:]]
    assert methods == ["ce", "crt", "balanced_softmax"]


@pytest.mark.stage
def test_results_name_the_variant_of_finetuning(with_variants):
    lines = [line.split(",") for line in (with_variants / "report" / "results.csv").read_text().splitlines()]
    column = lines[0].index("finetuning")
    assert {(line[4], line[column]) for line in lines[1:]} == {
        ("ce", ""),
        ("crt", ""),
        ("balanced_softmax", ""),
        ("finetuned_balanced_softmax", "balanced"),
        ("crt_on_balanced", "balanced"),
        ("ce_sqrt", "sqrt"),
    }
