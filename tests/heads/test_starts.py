"""Heads that start from the classifier of another head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mem import config
from mem.heads.base import Linear
from mem.heads.build import HeadInputs, build_head
from tests.heads.mem_heads import mem_settings
from tests.heads.test_baselines import HEADS, TRAINING, head_inputs

WARM: dict[str, config.Head] = {
    "crt": config.Crt(method="crt", classifier_from="ce", training=TRAINING),
    "balanced_softmax": config.BalancedSoftmax(method="balanced_softmax", classifier_from="ce", training=TRAINING),
    "logit_adjusted_loss": config.LogitAdjustedLoss(
        method="logit_adjusted_loss", tau=1.0, classifier_from="ce", training=TRAINING
    ),
}


@pytest.mark.parametrize("method", WARM)
def test_a_warm_head_starts_as_a_copy_of_the_classifier_and_trains_all_of_it(method):
    inputs = head_inputs()
    head = build_head(WARM[method], inputs)
    assert head.get_parameter("weight").equal(inputs.classifier.weight)
    assert head.get_parameter("bias").equal(inputs.classifier.get_parameter("bias"))
    assert {name for name, p in head.named_parameters() if p.requires_grad} == {"weight", "bias"}
    with torch.no_grad():
        head.get_parameter("weight").add_(1)
    assert torch.equal(inputs.classifier.weight, head_inputs().classifier.weight)


@pytest.mark.parametrize("method", ["balanced_softmax", "logit_adjusted_loss"])
def test_a_warm_head_has_the_prior_in_its_loss(method):
    inputs = head_inputs()
    z, labels = torch.randn(5, 6), torch.tensor([0, 3, 4, 4, 6])
    weight, bias = inputs.classifier.weight.detach().numpy(), inputs.classifier.get_parameter("bias").detach().numpy()
    raised = inputs.class_counts * np.exp(z.numpy().astype(np.float64) @ weight.T + bias)
    expected = -np.log(raised[np.arange(5), labels.numpy()] / raised.sum(axis=1)).mean()
    assert float(build_head(WARM[method], inputs).loss(z, labels)[0].detach()) == pytest.approx(expected, rel=1e-5)


LINEAR_SETTINGS = {name: settings for name, settings in HEADS.items() if config.is_linear(settings)}


@pytest.mark.parametrize("name", LINEAR_SETTINGS)
def test_a_linear_head_predicts_the_same_as_its_linear_classifier(name):
    head = build_head(LINEAR_SETTINGS[name], head_inputs())
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.rand_like(parameter))
    linear = head.as_linear()
    assert type(linear) is Linear
    assert linear.bias is not None
    z = torch.randn(8, 6)
    torch.testing.assert_close(linear(z), head(z), rtol=1e-5, atol=1e-5)


def test_post_hoc_logit_adjustment_becomes_part_of_the_bias():
    inputs = head_inputs()
    head = build_head(config.LogitAdjustment(method="logit_adjustment", taus=(1.0,)), inputs)
    linear = head.as_linear()
    assert linear is not None
    torch.testing.assert_close(linear.bias, head.get_parameter("bias"))


@pytest.mark.parametrize("name", HEADS)
def test_the_schema_and_the_heads_agree_on_which_heads_are_linear(name):
    head = build_head(HEADS[name], head_inputs())
    assert (head.as_linear() is not None) == config.is_linear(HEADS[name])


def test_mem_on_tau_has_the_normalised_weights_and_no_bias():
    inputs = head_inputs()
    tau = build_head(HEADS["tau"], inputs).as_linear()
    assert tau is not None
    head = build_head(
        mem_settings(classifier_from="tau"), HeadInputs(tau, inputs.class_counts, inputs.shots, inputs.seed)
    )
    z = torch.randn(4, 6)
    torch.testing.assert_close(head(z), tau(z), rtol=1e-4, atol=1e-4)
    assert head.get_parameter("classifier.bias").abs().max() == 0
