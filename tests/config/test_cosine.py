"""Studies with cosine classifiers: which heads can start from which classifiers."""

from __future__ import annotations

import pytest

from mem.config import is_linear
from mem.config.load import load_study
from tests.config.studies import error_message, write_study
from tests.heads.test_baselines import HEADS


def settings_of(name: str) -> dict:
    return HEADS[name].model_dump(mode="json")


@pytest.mark.parametrize("name", ["tau", "lws", "mislas", "logit_adjustment"])
def test_a_head_on_a_cosine_finetuning_is_refused(tmp_path, mini_values, name):
    mini_values["finetune"]["cosine_scale"] = 16
    mini_values["heads"] = {"ce": None, "head": settings_of(name)}
    message = error_message(tmp_path, mini_values)
    assert f"heads.head.method: `{name}` starts from the finetuned classifier, which is a cosine classifier" in message
    assert "(finetune.cosine_scale) and not linear; remove the head, or remove cosine_scale" in message


def test_a_head_on_a_variant_of_finetuning_depends_on_the_classifier_of_the_variant(tmp_path, mini_values):
    mini_values["finetune_variants"] = {"cosine": {"cosine_scale": 16}}
    mini_values["heads"] = {"ce": None, "tau": settings_of("tau"), "ncm": {"finetuning": "cosine"}}
    load_study([write_study(tmp_path, mini_values)])
    mini_values["heads"]["lws"] = {**settings_of("lws"), "finetuning": "cosine"}
    assert "(finetune_variants.cosine.cosine_scale) and not linear" in error_message(tmp_path, mini_values)


@pytest.mark.parametrize("first", ["ce", "cosine"])
def test_a_head_cannot_start_from_a_cosine_classifier(tmp_path, mini_values, first):
    mini_values["finetune"]["cosine_scale"] = 16
    crt = mini_values["heads"]["crt"]
    mini_values["heads"] = {
        "ce": None,
        "cosine": settings_of("cosine_crt"),
        "crt": {**crt, "method": "crt"},
        "warm": {**crt, "method": "crt", "classifier_from": first},
    }
    message = error_message(tmp_path, mini_values)
    assert f"heads.warm.classifier_from: this study has no head `{first}` with a linear classifier" in message
    assert "choose one of ['crt'] (a cosine classifier is not linear)" in message


def test_without_finetuning_a_head_cannot_start_from_a_cosine_probe(tmp_path, mini_values):
    mini_values |= {"finetune": None}
    mini_values["heads"] = {"ce": settings_of("cosine_probe"), "tau": settings_of("tau")}
    assert (
        "heads.tau.method: `tau` starts from the linear probe, but heads.ce is a cosine classifier; remove "
        "heads.ce.cosine_scale, or remove the head"
    ) in error_message(tmp_path, mini_values)


@pytest.mark.parametrize("name", ["warm_crt", "balanced_softmax", "logit_adjusted_loss"])
def test_a_cosine_classifier_is_always_new(tmp_path, mini_values, name):
    warm = {**settings_of(name), "classifier_from": "ce", "cosine_scale": 20}
    mini_values["heads"] = {"ce": None, "warm": warm}
    message = error_message(tmp_path, mini_values)
    assert "cosine_scale: a cosine classifier cannot start from the linear classifier of another head" in message


def test_the_unchanged_finetuned_classifier_is_linear_unless_its_finetuning_has_a_cosine_classifier():
    for name in ("ce", "finetuned"):
        assert is_linear(HEADS[name])
        assert not is_linear(HEADS[name], cosine_finetuning=True)
    assert is_linear(HEADS["probe"], cosine_finetuning=True)
    assert not is_linear(HEADS["cosine_probe"])
