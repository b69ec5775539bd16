"""Studies that differ only in `evaluate.crops` share all runs except the crops and what depends on them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mem.config import Study
from mem.runs.dag import Run, study_runs
from mem.runs.keys import CROPS, HOLDOUT
from tests.config.studies import error_message
from tests.stages.custom_studies import feature_file_study, frozen_study
from tests.stages.running import MINI_VALUES

EVALUATE = {"crops": {"number": 5, "resize": 10}}
SELECTION = {"holdout": {"share": 0.2, "seed": 0}}


def planned(values: dict, **changes: Any) -> dict[tuple[Any, ...], Run]:
    """Return the runs of a study by stage, head, branch and crops."""
    runs = study_runs(Study.model_validate(copy.deepcopy(values) | changes))
    return {(r.stage, r.labels.get("variant"), r.labels.get("branch"), r.labels.get("crops")): r for r in runs}


def test_only_the_crops_the_selection_of_tau_and_the_evaluations_are_new_runs():
    plain, with_crops = planned(MINI_VALUES), planned(MINI_VALUES, evaluate=EVALUATE)
    crops = with_crops.pop(("features", None, None, "five crops at 10"))
    assert plain.keys() == with_crops.keys()
    changed = {
        (stage, head) for (stage, head, *_), run in with_crops.items() if run.key != plain[stage, head, None, None].key
    }
    heads = MINI_VALUES["heads"]
    assert changed == {("train_head", "tau"), ("report", None), *(("evaluate", head) for head in heads)}
    assert set(crops.inputs) == {"features", "images", "classifier"}
    for key in (("train_head", "tau"), *(("evaluate", head) for head in heads)):
        assert with_crops[*key, None, None].inputs[CROPS] is crops


def test_other_crops_are_another_run():
    keys = {
        planned(MINI_VALUES, evaluate={"crops": {"number": number, "resize": resize}})[
            "features", None, None, f"{name} at {resize}"
        ].key
        for number, name in ((2, "center crop and its flip"), (5, "five crops"), (10, "ten crops"))
        for resize in (8, 10)
    }
    assert len(keys) == 6


@pytest.mark.parametrize("frozen", [False, True])
def test_each_branch_of_a_selection_has_crops_of_its_own_val_and_test_images(frozen):
    values = copy.deepcopy(frozen_study() if frozen else MINI_VALUES)
    values["dataset"]["cut"]["val_per_class"] = 0
    values["heads"]["tau"] = {"taus": [0.0, 0.5]}
    runs = planned(values, selection=SELECTION, evaluate=EVALUATE)
    select, refit = (runs["features", None, branch, "five crops at 10"] for branch in ("select", "refit"))
    assert HOLDOUT in select.settings
    assert HOLDOUT not in refit.settings
    for run in (select, refit):
        assert "images" in run.inputs["features"].inputs, "crops are computed from images, not copied"
    assert runs["train_head", "tau", "select", None].inputs[CROPS] is select
    assert CROPS not in runs["train_head", "tau", "refit", None].inputs, "the value is that of the branch select"
    assert runs["evaluate", "tau", "select", None].inputs[CROPS] is select
    assert runs["evaluate", "tau", "refit", None].inputs[CROPS] is refit


def test_online_crops_are_computed_from_the_inputs_of_the_features():
    values = copy.deepcopy(MINI_VALUES)
    values["features"]["online"] = True
    evaluation = planned(values, evaluate=EVALUATE)["evaluate", "ce", None, None]
    assert set(evaluation.inputs) == {"head", "features", "images", "classifier", CROPS}


def test_crops_that_do_not_fit_are_rejected_with_one_message(tmp_path):
    too_small = MINI_VALUES | {"evaluate": {"crops": {"number": 5, "resize": 7}}}
    assert "evaluate.crops.resize (7) must be at least backbone.image_size (8)" in error_message(tmp_path, too_small)
    features = feature_file_study(tmp_path) | {"evaluate": EVALUATE}
    assert "evaluate.crops: requires images, but the dataset consists of features" in error_message(tmp_path, features)
    three = MINI_VALUES | {"evaluate": {"crops": {"number": 3, "resize": 10}}}
    assert "evaluate.crops.number" in error_message(tmp_path, three)
