"""The runs of a study with `selection`: what its branches share with each other and with other studies."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mem.config import Study
from mem.runs.dag import Run, study_runs
from mem.runs.keys import HOLDOUT
from tests.stages.custom_studies import feature_file_study, frozen_study
from tests.stages.running import MINI_VALUES

SELECTION = {"holdout": {"share": 0.2, "seed": 0}}
TAUS = [0.0, 0.5, 1.0]


def without_val(values: dict | None = None, *, taus: list[float] = TAUS, **changes: Any) -> dict:
    """Return a study without a val split, by default the mini study, in which `tau` has the given candidates."""
    values = {**copy.deepcopy(values or MINI_VALUES), **changes}
    values["dataset"]["cut"]["val_per_class"] = 0
    values["heads"]["tau"] = {"taus": taus}
    return values


def runs_of(values: dict) -> list[Run]:
    return study_runs(Study.model_validate(values))


def in_branch(runs: list[Run], branch: str | None) -> list[Run]:
    return [run for run in runs if run.labels.get("branch") == branch]


def keys(runs: list[Run]) -> dict[tuple[str, object], str]:
    return {(run.stage, run.labels.get("variant")): run.key for run in runs}


def find(runs: list[Run], stage: str, branch: str, variant: str | None = None) -> Run:
    (found,) = [r for r in in_branch(runs, branch) if (r.stage, r.labels.get("variant")) == (stage, variant)]
    return found


def test_both_branches_share_the_conversion_and_pretraining_and_finetune_once_each():
    runs = runs_of(without_val(selection=SELECTION))
    assert [run.stage for run in in_branch(runs, None)] == ["convert", "pretrain", "report"]
    select, refit = (find(runs, "finetune", branch) for branch in ("select", "refit"))
    assert {name: run.key for name, run in select.inputs.items()} == {n: r.key for n, r in refit.inputs.items()}
    assert select.key != refit.key
    heads = set(MINI_VALUES["heads"])
    for branch in ("select", "refit"):
        assert {run.labels["variant"] for run in in_branch(runs, branch) if run.stage == "train_head"} == heads


def test_runs_that_use_nothing_that_was_selected_are_those_of_the_study_without_selection():
    plain = keys(runs_of(without_val(taus=[0.5])))
    refit = keys(in_branch(runs_of(without_val(selection=SELECTION)), "refit"))
    different = {name for name, key in refit.items() if plain[name] != key}
    assert different == {("train_head", "tau"), ("evaluate", "tau")}


def test_a_head_with_several_candidates_takes_its_value_from_the_branch_that_selects():
    runs = runs_of(without_val(selection=SELECTION))
    inputs = find(runs, "train_head", "refit", "tau").inputs
    assert inputs["selection"].key == find(runs, "train_head", "select", "tau").key
    assert inputs["features"].key == find(runs, "features", "refit").key
    assert not any("selection" in run.inputs for run in in_branch(runs, "select"))
    single = runs_of(without_val(taus=[0.5], selection=SELECTION))
    assert "selection" not in find(single, "train_head", "refit", "tau").inputs


def test_a_head_that_starts_from_a_head_with_a_selected_value_depends_on_the_selection():
    values = without_val(selection=SELECTION)
    values["heads"]["mem"]["classifier_from"] = "tau"
    runs = runs_of(values)
    changed = runs_of(values | {"selection": {"holdout": {"share": 0.2, "seed": 1}}})
    refit, refit_changed = (keys(in_branch(found, "refit")) for found in (runs, changed))
    different = {variant for (stage, variant), key in refit.items() if refit_changed[stage, variant] != key}
    assert different == {"tau", "mem"}


@pytest.mark.parametrize("holdout", [{"share": 0.3, "seed": 0}, {"share": 0.2, "seed": 1}])
def test_other_held_out_images_change_all_runs_of_the_branch_that_selects(holdout):
    select, other = (
        keys(in_branch(runs_of(without_val(selection={"holdout": each})), "select"))
        for each in (SELECTION["holdout"], holdout)
    )
    assert all(select[name] != other[name] for name in select)


def test_only_the_branch_that_selects_holds_out_images_and_evaluates_val():
    runs = runs_of(without_val(selection=SELECTION))
    for run in runs:
        holds_out = run.stage in ("finetune", "features") and run.labels.get("branch") == "select"
        assert (HOLDOUT in run.settings) == holds_out, run
        only_val = run.stage == "evaluate" and run.labels["branch"] == "select"
        assert (run.settings.get("split") == "val") == only_val, run
    names = list(runs[-1].inputs)
    assert len(names) == len(set(names)) == 2 * len(MINI_VALUES["heads"])


def test_a_study_without_candidates_also_has_both_branches():
    values = without_val(taus=[0.5], selection=SELECTION)
    assert len(in_branch(runs_of(values), "select")) == len(in_branch(runs_of(values), "refit"))


def test_a_frozen_backbone_computes_features_once_and_the_branch_that_selects_copies_rows():
    runs = runs_of(without_val(frozen_study(), selection=SELECTION))
    assert [run.stage for run in in_branch(runs, None)] == ["convert", "pretrain", "features", "report"]
    (features,) = [run for run in in_branch(runs, None) if run.stage == "features"]
    part = find(runs, "features", "select")
    assert part.inputs == {"features": features}
    assert find(runs, "train_head", "refit", "crt").inputs["features"].key == features.key
    assert find(runs, "train_head", "select", "crt").inputs["features"].key == part.key


def test_online_features_of_a_frozen_backbone_are_planned_for_each_branch():
    values = without_val(frozen_study(), selection=SELECTION)
    values["features"]["online"] = True
    runs = runs_of(values)
    select = find(runs, "features", "select")
    assert set(select.inputs) == {"images", "encoder"}
    assert set(find(runs, "train_head", "select", "crt").inputs) == {"features", "images", "encoder"}


def test_feature_files_are_divided_once_for_all_seeds(tmp_path):
    values = feature_file_study(tmp_path)
    values["dataset"] = {name: value for name, value in values["dataset"].items() if not name.startswith("val_")}
    values |= {"seeds": [0, 1], "selection": SELECTION}
    runs = runs_of(values)
    features = [run for run in runs if run.stage == "features"]
    assert [dict(run.labels) for run in features] == [{"order": 0}, {"order": 0, "branch": "select"}]
    assert features[1].inputs == {"features": features[0]}
    used = {run.inputs["features"].key for run in in_branch(runs, "select") if run.stage == "train_head"}
    assert used == {features[1].key}
