"""Tuners in studies: what is rejected when a study is loaded, merged layers of settings, and the keys of runs."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mem.config import Study, TimmNetwork
from mem.config.load import load_study
from mem.models.tuners.counts import trained_text
from mem.runs.dag import study_runs
from tests.config.studies import error_message, write_study
from tests.config.test_experts import RESNET

LORA = {"name": "lora", "rank": 2, "alpha": 4, "layers": ["query", "value"]}


def tuned(values: dict, tuner: object, **finetune: Any) -> dict:
    values = copy.deepcopy(values)
    values["finetune"] |= {"tuner": tuner, **finetune}
    values["features"]["tokens"] = False
    values["heads"] = {"ce": None}
    return values


CONVOLUTIONAL = {"backbone": RESNET, "pretrain": None, "initial": {"file": "weights.pth"}}
PACO = {"name": "paco", "sample_weight": 0.05, "contrast": {"queue": 64, "width": 4, "temperature": 0.2}}
PACO["contrast"] |= {"momentum": 0.9, "projector_norm": False}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("tuner", "changes", "message"),
    [
        ("lora", {}, "`finetune.tuner.rank` is missing"),
        ("adapter", {}, "finetune.tuner"),
        (LORA | {"layers": ["query", "query"]}, {}, "expected distinct layers, got ['query', 'query']"),
        (LORA | {"layers": ["norm"]}, {}, "`finetune.tuner.layers.0` is 'norm'"),
        (LORA | {"layers": []}, {}, "expected at least one layer"),
        ("head", {"pretrain": None}, "`head` trains a small part of a pretrained network, but this study starts from"),
        ("batch_norm", {}, "finetune.tuner: `batch_norm` trains BatchNorm layers, but this backbone has none"),
        ("last_stage", {}, "`last_stage` is available for networks of timm, but backbone.kind is vit; use last_blocks"),
        ({"name": "last_blocks", "blocks": 3}, {}, "finetune.tuner.blocks (3) is larger than the number of"),
        ("bias", {"experts": {"number": 2}}, "`bias` is available for a backbone with one classifier, but experts"),
        ("bias", {"objective": PACO, "label_smoothing": 0}, "`bias` is not available with objective.contrast, whose"),
    ],
)
def test_what_does_not_fit_is_one_message(tmp_path, mini_values, tuner, changes, message):
    in_finetune = {name: value for name, value in changes.items() if name != "pretrain"}
    values = tuned(mini_values, tuner, **in_finetune)
    values |= {name: value for name, value in changes.items() if name == "pretrain"}
    found = error_message(tmp_path, values)
    assert message in found
    assert found.count("study.yaml") == (3 if tuner == "lora" else 1), found


def test_tuners_fit_to_their_backbones(tmp_path, mini_values):
    for tuner in ("head", "bias", {"name": "last_blocks", "blocks": 2}, LORA):
        load_study([write_study(tmp_path, tuned(mini_values, tuner, layer_decay=0.5))])
    for tuner in ("head", "bias", "batch_norm", "last_stage"):
        study = load_study([write_study(tmp_path, tuned(mini_values, tuner) | CONVOLUTIONAL)])
        assert isinstance(study.backbone, TimmNetwork) and study.has_tuner and study.has_model_to_check


def test_the_default_changes_no_key_and_a_tuner_changes_those_of_finetuning_and_after_it(mini_values):
    def keys(values: dict) -> dict[str, str]:
        return {run.stage: run.key for run in study_runs(Study.model_validate(values)) if run.stage != "report"}

    plain = tuned(mini_values, "all")
    del plain["finetune"]["tuner"]
    assert keys(plain) == keys(tuned(mini_values, "all")) == keys(tuned(mini_values, {"name": "all"}))
    one, other = keys(tuned(mini_values, LORA)), keys(tuned(mini_values, LORA | {"rank": 3}))
    for stage in ("convert", "pretrain"):
        assert one[stage] == keys(plain)[stage]
    for stage in ("finetune", "features", "train_head", "evaluate"):
        assert len({one[stage], other[stage], keys(plain)[stage]}) == 3


def test_a_later_layer_and_a_variant_replace_a_tuner_as_a_whole(tmp_path, mini_values):
    base = write_study(tmp_path, tuned(mini_values, LORA))
    later = base.with_name("later.yaml")
    later.write_text("finetune: {tuner: bias}\n")
    assert load_study([base, later]).finetune.tuner.name == "bias"  # type: ignore[union-attr]
    later.write_text("finetune: {tuner: {rank: 4}}\n")
    assert load_study([base, later]).finetune.tuner.rank == 4  # type: ignore[union-attr]
    values = tuned(mini_values, LORA)
    values["finetune_variants"] = {"biases": {"tuner": "bias"}, "wide": {"tuner": LORA | {"rank": 4}}}
    values["heads"] |= {name: {"method": "ce", "finetuning": name} for name in ("biases", "wide")}
    variants = load_study([write_study(tmp_path, values)]).finetune_variants
    assert str(variants["biases"].tuner) == "bias"
    assert str(variants["wide"].tuner) == "lora, rank 4, alpha 4, layers query value"
    values["finetune_variants"] = {"same": {"tuner": LORA}}
    values["heads"] = {"ce": None, "same": {"method": "ce", "finetuning": "same"}}
    assert "finetune_variants.same: has the same settings as finetune" in error_message(tmp_path, values)


def test_the_number_of_parameters_that_train_is_stated_in_millions_or_completely():
    assert trained_text(1_385_868, 87_185_292) == "Training 1.39 of 87.19 million parameters (1.6 %)."
    assert trained_text(485, 45_349) == "Training 485 of 45,349 parameters (1.1 %)."
