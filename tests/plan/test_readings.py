"""Costs of MEM heads with different readings of the paper."""

from __future__ import annotations

from typing import Any

import pytest

from mem.config import Study
from mem.plan.model_cost import NO_MODEL, ClassifierCost
from mem.plan.model_costs import head_cost
from tests.heads.mem_heads import mem_settings


@pytest.mark.parametrize(
    "reading",
    [
        {"weight": "mixture", "logits": "standardised", "temperature": "learned"},
        {"weight": "softmax", "pool": "norm", "norms": "raw", "phases": "regularisation_first"},
        {"classifier": "fresh", "classifier_from": None, "prior_in_loss": True, "sampler": "instance"},
    ],
)
def test_a_reading_has_almost_the_flops_of_the_default(mini, reading: dict[str, Any]):
    shared = {"input": "tokens", "classifier": "trained"}
    backbone = ClassifierCost(NO_MODEL, width=32, tokens=4)
    default = head_cost(mini, mem_settings(**shared), 10, backbone)
    cost = head_cost(mini, mem_settings(**{**shared, **reading}), 10, backbone)
    assert cost.forward_flops == pytest.approx(default.forward_flops, rel=0.05)
    assert cost.training_flops == pytest.approx(default.training_flops, rel=0.05)


def test_a_head_on_another_head_is_estimated_beside_a_cosine_finetuning(mini_values):
    training = {
        "epochs": 1,
        "global_batch": 8,
        "optimizer": "sgd",
        "lr": 0.1,
        "weight_decay": 0.0,
        "sampler": "instance",
    }
    heads = {
        "ce": None,
        "crt": {"training": training},
        "warm": {"method": "crt", "classifier_from": "crt", "training": training},
    }
    finetune = mini_values["finetune"] | {"cosine_scale": 16.0}
    study = Study.model_validate(mini_values | {"finetune": finetune, "heads": heads, "sweeps": {}})
    backbone = ClassifierCost(NO_MODEL, width=32, tokens=4)
    crt, warm = (head_cost(study, study.heads[name], 10, backbone) for name in ("crt", "warm"))
    assert warm == crt
