"""Costs of MEM heads with different readings of the paper."""

from __future__ import annotations

from typing import Any

import pytest

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
