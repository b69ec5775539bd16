"""Checks of heads on experts and of the section `adapt`: one message for each wrong combination."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from mem.config import Study
from mem.runs.dag import study_runs
from mem.runs.keys import keyed
from tests.stages.running import MINI_VALUES

TRAINING = MINI_VALUES["heads"]["crt"]["training"]
ROUTER = {
    "method": "ride_router", "top_logits": 5, "hidden_width": 16, "positive_weight": 100.0, "threshold": 0.5,
    "training": TRAINING,
}  # fmt: skip
ADAPT: dict[str, Any] = {
    "epochs": 5, "global_batch": 48, "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5.0e-4,
    "stop_below": 0.05, "augmentation": {"crop_scale": [0.2, 1.0], "flip": False},
}  # fmt: skip
UNCHANGED: dict[str, Any] = {"crop_scale": [1.0, 1.0], "flip": False}
RAND_AUGMENT = {"layers": 1, "magnitude": 5, "magnitude_std": 0.5, "increasing": True}
SADE = {"method": "sade_aggregation"}
ENSEMBLE = {"number": 3, "own_from": "blocks.1"}


def values_of(heads: dict[str, Any], *, experts: dict[str, Any] | None = ENSEMBLE, **changes: Any) -> dict[str, Any]:
    values = copy.deepcopy(MINI_VALUES)
    values["features"]["tokens"] = False
    values["finetune"]["experts"] = experts
    return values | {"heads": {"ce": None, **heads}, **changes}


def message_of(values: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Study.model_validate(values)
    errors = caught.value.errors()
    assert len(errors) == 1
    return errors[0]["msg"]


@pytest.mark.parametrize(
    ("heads", "start"),
    [
        ({"router": ROUTER}, "heads.router.method: requires the experts of a finetuned backbone"),
        (
            {"crt": {"per_expert": True, "training": TRAINING}},
            "heads.crt.per_expert: requires the experts of a finetuned",
        ),
    ],
)
def test_heads_that_require_experts_name_the_missing_setting(heads, start):
    assert f"{start}" in (message := message_of(values_of(heads, experts=None)))
    assert "finetune.experts is null; set finetune.experts" in message
    message = message_of(values_of({**heads, "ce": {"training": TRAINING}}, finetune=None))
    assert "but nothing is finetuned (finetune: null)" in message


def test_adapt_without_experts_is_reported():
    message = message_of(values_of({}, experts=None, adapt=ADAPT))
    assert "adapt: learns the weights of the experts of a finetuned backbone" in message
    assert "finetune.experts is null; remove adapt, or set finetune.experts" in message


def test_the_aggregation_requires_the_section_adapt():
    assert "the study has no section `adapt`; add it" in message_of(values_of({"sade": SADE}))


def test_adapt_without_a_head_that_uses_it_is_reported():
    assert "adapt: no head uses the weights that this stage learns" in message_of(values_of({}, adapt=ADAPT))


def test_features_from_files_cannot_be_adapted(tmp_path):
    files = {f"{split}_{kind}": f"{split}_{kind}.npy" for split in ("train", "test") for kind in ("features", "labels")}
    values = values_of({"ce": {"training": TRAINING}}, adapt=ADAPT) | {
        "dataset": {"source": "features", "name": "mine", **files},
        "backbone": {"kind": "none", "name": "files"},
        "pretrain": None, "finetune": None, "features": None,
    }  # fmt: skip
    message = message_of(values)
    assert "adapt: learns the weights of the experts" in message
    assert "but the dataset consists of features" in message


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"augmentation": UNCHANGED}, "the two views of an image would be equal"),
        ({"augmentation": UNCHANGED | {"blur": {"probability": 0, "sigma": [0.1, 2]}}}, "two views of an image would"),
        ({"augmentation": UNCHANGED | {"blur": {"probability": 1, "sigma": [2, 2]}}}, "two views of an image would"),
        ({"augmentation": UNCHANGED | {"rand_augment": RAND_AUGMENT | {"probability": 0}}}, "two views of an image"),
        ({"augmentation": UNCHANGED | {"grayscale": 1}}, "the two views of an image would be equal"),
        ({"stop_below": 0.34}, "adapt.stop_below (0.34): the 3 weights of the experts of finetune add up to 1"),
        ({"stop_below": 1 / 3}, "adapt.stop_below (0.333333): the 3 weights of the experts of finetune add up to 1"),
        ({"augmentation": ADAPT["augmentation"] | {"erasing": 0.5}}, "is available only in finetuning"),
        ({"momentum": 0.0}, "nesterov requires a momentum above 0"),
        ({"stop_below": 0.0}, "greater than 0"),
    ],
)
def test_settings_of_adapt_that_cannot_work_are_reported(changes, text):
    assert text in message_of(values_of({"sade": SADE}, adapt=ADAPT | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_scale": [0.5, 0.5]},
        {"blur": {"probability": 0.5, "sigma": [2, 2]}},
        {"blur": {"probability": 1, "sigma": [0.1, 2]}},
        {"rand_augment": RAND_AUGMENT},
        {"grayscale": 0.2},
    ],
)
def test_any_effective_change_makes_two_views_differ(changes):
    Study.model_validate(values_of({"sade": SADE}, adapt=ADAPT | {"augmentation": UNCHANGED | changes}))


def test_adapt_requires_augmented_views():
    without = {name: value for name, value in ADAPT.items() if name != "augmentation"}
    with pytest.raises(ValidationError, match=r"adapt\.augmentation"):
        Study.model_validate(values_of({"sade": SADE}, adapt=without))


def test_each_expert_starts_from_a_classifier_of_its_own():
    single = {"method": "crt", "training": TRAINING}
    again = {**single, "classifier_from": "single", "per_expert": True}
    message = message_of(values_of({"single": single, "again": again}))
    assert "heads.again.classifier_from: with per_expert, each expert starts from a classifier of its own" in message
    Study.model_validate(values_of({"single": {**single, "per_expert": True}, "again": again}))
    Study.model_validate(values_of({"again": {**again, "classifier_from": "ce"}}))


@pytest.mark.parametrize(("head", "changes"), [(ROUTER, {}), (SADE, {"adapt": ADAPT})])
def test_heads_that_average_all_experts_are_rejected_if_experts_own_classes(head, changes):
    values = values_of({"ce": {"method": "finetuned"}, "all": head}, experts={"number": 2}, **changes)
    ace = {"objective": {"name": "ace", "largest_counts": [20], "suppression_weight": 0.001}, "label_smoothing": 0.0}
    values["finetune"] |= ace
    message = message_of(values)
    assert f"heads.all.method: `{head['method']}` averages the logits of all experts for every class" in message
    assert "objective `ace` of finetune, experts learn only their own classes" in message
    values["heads"]["all"] = {"method": "ensemble", "experts": [1]}
    Study.model_validate({name: value for name, value in values.items() if name != "adapt"})


def test_heads_per_expert_start_from_a_new_classifier_if_experts_own_classes():
    """The finetuned classifier of an expert has learnt only its own classes."""
    each = {"per_expert": True, "training": TRAINING}
    crt = {"method": "crt", **each}
    values = values_of({"ce": {"method": "finetuned"}, "crt": crt, "lws": each}, experts={"number": 2})
    values["finetune"] |= {
        "objective": {"name": "ace", "largest_counts": [20], "suppression_weight": 0.001},
        "label_smoothing": 0.0,
    }
    assert "heads.lws.per_expert: each expert starts from its finetuned classifier" in message_of(values)
    del values["heads"]["lws"]
    Study.model_validate(values)
    values["heads"] |= {"crt": {"classifier_from": "ce", **crt}}
    assert "heads.crt.per_expert: each expert starts from its finetuned classifier" in message_of(values)


def test_cosine_experts_are_reported_by_heads_that_require_linear_ones():
    values = values_of({"lws": {"per_expert": True, "training": TRAINING}})
    values["finetune"]["cosine_scale"] = 16.0
    assert "starts from the finetuned classifier, which is a cosine classifier" in message_of(values)


def test_no_head_starts_from_a_transductive_one():
    crt = {"method": "crt", "training": TRAINING, "classifier_from": "sade"}
    message = message_of(values_of({"sade": SADE, "crt": crt}, adapt=ADAPT))
    assert "this study has no head `sade` with a linear classifier" in message


def test_one_head_per_expert_has_another_key_and_others_keep_theirs():
    def runs_of(heads: dict[str, Any], **changes: Any) -> dict[str, Any]:
        runs = study_runs(Study.model_validate(values_of(heads, **changes)))
        return {run.labels["variant"]: run for run in runs if run.stage == "train_head"}

    plain = {"method": "crt", "training": TRAINING}
    before = runs_of({"crt": plain})
    after = runs_of({"crt": plain, "each": {**plain, "per_expert": True}, "sade": SADE}, adapt=ADAPT)
    assert after["crt"].key == before["crt"].key
    assert after["each"].key != after["crt"].key
    assert "per_expert" not in keyed(before["crt"].settings["head"], "train_head")
    adapted = after["sade"].inputs["adapt"]
    assert list(adapted.inputs) == ["features", "images", "classifier"]
    other = runs_of({"crt": plain, "sade": SADE}, adapt=ADAPT | {"epochs": 1})
    assert other["sade"].key != after["sade"].key
    assert other["crt"].key == before["crt"].key


def test_heads_on_one_finetuning_share_the_weights():
    runs = study_runs(Study.model_validate(values_of({"sade": SADE, "other": ROUTER}, adapt=ADAPT, seeds=[0, 1])))
    assert [run.stage for run in runs].count("adapt") == 2
    marked = {run.labels.get("variant", run.stage) for run in runs if run.labels.get("transductive") == "yes"}
    assert marked == {"adapt", "sade"}


def test_one_finetuning_with_experts_is_enough_for_adapt():
    heads = {"sade": SADE | {"finetuning": "several"}}
    variants = {"several": {"experts": ENSEMBLE}}
    study = Study.model_validate(values_of(heads, experts=None, adapt=ADAPT, finetune_variants=variants))
    labels = [run.labels.get("finetuning") for run in study_runs(study) if run.stage == "adapt"]
    assert labels == ["several"] * len(labels) and labels
