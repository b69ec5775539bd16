"""Baseline heads: comparison with NumPy, and saving and loading."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mem import config
from mem.errors import UserError
from mem.heads.base import Linear, fresh_linear
from mem.heads.build import HeadInputs, build_head, load_head, save_head
from mem.heads.lws import LwsHead
from mem.heads.tau import tau_normalised
from tests.heads.control_settings import block_classifier, group_constants, logit_fusion
from tests.heads.mem_heads import mem_settings

TRAINING = config.HeadTraining(
    epochs=1, global_batch=8, optimizer="sgd", lr=0.1, weight_decay=0, sampler="class_balanced"
)
HEADS: dict[str, config.Head] = {
    "ce": config.Ce(method="ce"),
    "finetuned": config.Finetuned(method="finetuned"),
    "probe": config.Ce(method="ce", training=TRAINING),
    "tau": config.Tau(method="tau", taus=(0.0, 1.0)),
    "crt": config.Crt(method="crt", training=TRAINING),
    "lws": config.Lws(method="lws", training=TRAINING),
    "mislas": config.Mislas(
        method="mislas", smoothing_head=0.4, smoothing_tail=0.1, classifier_lr_factor=0.2, training=TRAINING
    ),
    "ncm": config.Ncm(method="ncm"),
    "logit_adjustment": config.LogitAdjustment(method="logit_adjustment", taus=(1.0,)),
    "logit_adjusted_loss": config.LogitAdjustedLoss(method="logit_adjusted_loss", tau=1.5, training=TRAINING),
    "balanced_softmax": config.BalancedSoftmax(method="balanced_softmax", training=TRAINING),
    "warm_crt": config.Crt(method="crt", classifier_from="ce", training=TRAINING),
    "cosine_probe": config.Ce(method="ce", cosine_scale=20, training=TRAINING),
    "cosine_crt": config.Crt(method="crt", cosine_scale=20, training=TRAINING),
    "cosine_balanced_softmax": config.BalancedSoftmax(method="balanced_softmax", cosine_scale=20, training=TRAINING),
    "cosine_logit_adjusted_loss": config.LogitAdjustedLoss(
        method="logit_adjusted_loss", tau=1.5, cosine_scale=20, training=TRAINING
    ),
    "group_constants": group_constants(),
    "logit_fusion": logit_fusion(),
    "logit_fusion_mixture": logit_fusion(weight="mixture", classifier="trained", partition="random_even", groups=2),
    "block_classifier": block_classifier(),
    "block_on_ce": block_classifier(input="tokens", depth=2, classifier_from="ce", classifier="frozen"),
    "mem": mem_settings(),
    "mem_random": mem_settings(partition="random_even", groups=4, input="tokens", classifier="trained"),
}


def head_inputs(seed: int = 0) -> HeadInputs:
    torch.manual_seed(seed)
    counts = np.array([500, 200, 50, 30, 10, 5, 300])
    return HeadInputs(Linear(torch.randn(7, 6), torch.randn(7)), counts, config.Shots(), seed)


@given(seed=st.integers(0, 1000), tau=st.floats(0, 2))
@settings(deadline=None)
def test_tau_normalisation_equals_numpy(seed, tau):
    rng = np.random.default_rng(seed)
    weight, z = rng.normal(size=(5, 4)), rng.normal(size=(3, 4))
    expected = z @ (weight / np.linalg.norm(weight, axis=1, keepdims=True) ** tau).T
    found = tau_normalised(torch.from_numpy(weight), tau)(torch.from_numpy(z)).detach().numpy()
    np.testing.assert_allclose(found, expected)


def test_lws_equals_numpy_and_trains_only_its_scales():
    rng = np.random.default_rng(0)
    weight, bias, scale = rng.normal(size=(5, 4)), rng.normal(size=5), rng.uniform(0.5, 2, 5)
    head = LwsHead(torch.from_numpy(weight), torch.from_numpy(bias))
    z = rng.normal(size=(3, 4))
    np.testing.assert_allclose(head(torch.from_numpy(z)).detach().numpy(), z @ weight.T + bias)
    with torch.no_grad():
        head.scale.copy_(torch.from_numpy(scale))
    np.testing.assert_allclose(head(torch.from_numpy(z)).detach().numpy(), scale * (z @ weight.T + bias))
    assert [name for name, p in head.named_parameters() if p.requires_grad] == ["scale"]


def test_the_initial_classifier_of_crt_depends_only_on_the_seed():
    one, again, other = fresh_linear(6, 7, 0), fresh_linear(6, 7, 0), fresh_linear(6, 7, 1)
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, other.weight)
    assert not torch.equal(one.weight, head_inputs().classifier.weight)


def test_building_a_head_does_not_change_the_global_generator():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    inputs = HeadInputs(Linear(torch.ones(7, 6), torch.ones(7)), head_inputs().class_counts, config.Shots(), 3)
    torch.manual_seed(5)
    build_head(HEADS["mem"], inputs)
    build_head(HEADS["crt"], inputs)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", HEADS)
def test_a_loaded_head_equals_the_saved_head(tmp_path, name):
    head = build_head(HEADS[name], head_inputs())
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter))
    save_head(tmp_path, head, HEADS[name], head_inputs())
    z = torch.randn(4, 3, 6)
    loaded = load_head(tmp_path)
    assert loaded.state_dict().keys() == head.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in head.state_dict().items())
    torch.testing.assert_close(loaded(z), head(z), rtol=1e-4, atol=1e-4)


def test_loading_a_missing_head_fails_with_its_path(tmp_path):
    with pytest.raises(UserError, match=r"head\.json: no such file"):
        load_head(tmp_path)


def test_building_mem_with_an_empty_group_fails():
    all_many = HeadInputs(head_inputs().classifier, np.full(7, 500), config.Shots(), 0)
    with pytest.raises(UserError, match="leaves a group empty: medium, few"):
        build_head(HEADS["mem"], all_many)


def test_ce_is_the_finetuned_classifier_and_with_training_a_new_classifier():
    finetuned = head_inputs().classifier
    assert build_head(HEADS["ce"], head_inputs()).get_parameter("weight").equal(finetuned.weight)
    probe, crt = build_head(HEADS["probe"], head_inputs()), build_head(HEADS["crt"], head_inputs())
    assert not probe.get_parameter("weight").equal(finetuned.weight)
    assert probe.get_parameter("weight").equal(crt.get_parameter("weight"))
