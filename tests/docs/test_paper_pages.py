"""The pages on the paper's claims and errors agree with the paper's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs._site.paper_claims import BLOCK, PAGES, TABLES, regenerate, weighted_mean
from mem.report.paper_format import paper_numbers

PAPER = paper_numbers()
CLAIMS, ERRORS = (page.read_text() for page in PAGES)
COLUMNS = [
    {method: entry[method][column] for method in ("ce", "tau", "lws", "crt", "mem")}
    for entry in PAPER["tables"]
    for column in range(len(entry["backbones"]))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_regenerating_the_tables_of_a_page_changes_nothing(page: Path):
    assert page.read_text() == regenerate(page), "Run `make tables` and commit the pages."


def test_every_table_is_on_a_page():
    assert {match[2] for match in BLOCK.finditer(CLAIMS + ERRORS)} == set(TABLES)


def test_a_changed_digit_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(ERRORS.replace("| 58.88 |", "| 58.89 |"))
    assert page.read_text() != regenerate(page) == ERRORS


def test_the_gains_over_crt_in_the_text_are_those_of_table_2():
    entry = PAPER["tables"][0]
    gains = {b: f"{m - c:.2f}" for b, m, c in zip(entry["backbones"], entry["mem"], entry["crt"], strict=True)}
    expected = "by {vit_base} (ViT-Base), {vit_large} (ViT-Large) and {convmae_base} (ConvMAE-Base)"
    assert expected.format(**gains) in CLAIMS
    assert f"({gains['vit_base']} in section 4.2.1)" in " ".join(ERRORS.split())


def test_the_gains_over_previous_work_in_the_text_are_those_of_table_1():
    gains = {
        dataset: cited["mem"][3] - max(shots[3] for method, shots in cited.items() if method != "mem")
        for dataset, cited in PAPER["table1"].items()
    }
    expected = "by {imagenet_lt:.1f} (ImageNet-LT), {inat18:.1f} (iNaturalist 2018) and {places_lt:.1f} (Places-LT)"
    assert expected.format(**gains) in CLAIMS


def test_the_statements_about_the_order_of_methods_hold():
    best = [max(("ce", "tau", "lws", "crt"), key=column.__getitem__) for column in COLUMNS]
    assert f"in {best.count('crt')} of the {len(COLUMNS)} columns of tables 2 to 4" in CLAIMS
    assert all(column["mem"] == max(column.values()) for column in COLUMNS)
    gains = sorted(column["mem"] - column["crt"] for column in COLUMNS)
    assert f"is between {gains[0]:.2f} and {gains[-1]:.2f} points" in CLAIMS
    assert gains[-2] < 1 < gains[-1]
    inat = next(entry for entry in PAPER["tables"] if entry["dataset"] == "inat18")
    lws = [b for b, lws, crt in zip(inat["backbones"], inat["lws"], inat["crt"], strict=True) if lws > crt]
    assert lws == ["vit_large", "convmae_base"]


def test_the_numbers_of_figure_1_in_the_text_are_the_paper_s():
    figure = PAPER["figure1"]
    few, wrong = figure["few_accuracy"], figure["misclassified_to"]
    assert f"{few['x_shot_oracle']} instead of {few['entire_set']}" in CLAIMS
    assert f"{wrong['medium_to_many']} % of medium-shot errors go to many" in CLAIMS
    assert f"{wrong['few_to_many']} % go to many and {wrong['few_to_medium']} % to medium" in CLAIMS
    assert f'"{few["x_shot_oracle"]} v.s. {few["entire_set"]} in' in ERRORS
    table5 = {row["head"]: row["shots"][2] for row in PAPER["table5"] if row["recipe"] == "imagenet_lt_vit_base"}
    assert f"by {few['mem_gain']} or by {table5['mem'] - table5['ce']:.1f}, see" in CLAIMS


def test_table_5_contradicts_its_groups_by_more_than_rounding_and_table_1_does_not():
    rounding = 0.05 + 0.005
    for row in PAPER["table5"]:
        assert weighted_mean(row["shots"][:3], "imagenet_lt") - row["shots"][3] > rounding
    for dataset, cited in PAPER["table1"].items():
        assert abs(weighted_mean(cited["mem"][:3], dataset) - cited["mem"][3]) < 0.05 + 0.05


def test_tau_on_places_lt_has_the_values_in_the_text():
    places = next(entry for entry in PAPER["tables"] if entry["dataset"] == "places_lt")
    for method in ("ce", "tau", "crt"):
        assert f"({places[method][0]:.2f})" in ERRORS
    assert all(
        tau - ce < 0.5 < crt - tau for ce, tau, crt in zip(places["ce"], places["tau"], places["crt"], strict=True)
    )
