"""One head per expert: losses, logits, parameter groups, phases, initial classifiers, and MEM's outputs."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mem import config
from mem.data.features.arrays import in_memory_split
from mem.data.features.stored import FeatureSplit
from mem.errors import UserError
from mem.heads.base import Linear
from mem.heads.build import HeadInputs, build_head, load_head, save_head
from mem.heads.per_expert import MemOnExperts, PerExpertHead
from mem.heads.predict import predict
from mem.heads.ride_router import RideRouterHead
from mem.train.optimizers import head_optimizer, set_lr
from tests.heads.expert_heads import (
    AGGREGATION,
    CLASSES,
    EXPERTS,
    ROUTER,
    WIDTH,
    head_inputs,
    random_ensemble,
    random_features,
)
from tests.heads.test_baselines import HEADS, TRAINING

PER_EXPERT = {
    name: HEADS[name].model_copy(update={"per_expert": True})
    for name, head in HEADS.items()
    if "per_expert" in type(head).model_fields and not config.uses_tokens(head)
}
FROM_CLASSIFIER = ("lws", "mislas", "group_constants")
"""Heads that initially predict the same as the classifier that they start from."""
LABELS = torch.tensor([0, 4, 1, 2, 3, 0, 4])


def per_expert(name: str, seed: int = 0) -> PerExpertHead:
    head = build_head(PER_EXPERT[name], head_inputs(seed))
    assert isinstance(head, PerExpertHead)
    return head.eval()


def test_all_methods_with_a_pooled_input_are_covered():
    assert {"crt", "lws", "mislas", "balanced_softmax", "logit_adjusted_loss", "mem", "logit_fusion"} <= set(PER_EXPERT)


@pytest.mark.parametrize("name", PER_EXPERT)
def test_the_loss_is_the_sum_and_logits_are_means_over_heads_on_the_features_of_each_expert(name):
    head, features = per_expert(name), random_features()
    parts = [features[:, e * WIDTH : (e + 1) * WIDTH] for e in range(EXPERTS)]
    torch.testing.assert_close(head(features), sum(h(z) for h, z in zip(head.heads, parts, strict=True)) / EXPERTS)
    loss, metrics = head.loss(features, LABELS)
    single = [h.loss(z, LABELS) for h, z in zip(head.heads, parts, strict=True)]
    torch.testing.assert_close(loss, sum(value for value, _ in single))
    for key, value in metrics.items():
        assert value.item() == pytest.approx(np.mean([found[key].item() for _, found in single]), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", PER_EXPERT)
def test_the_heads_are_independent_and_saved_together(name, tmp_path):
    head, features, inputs = per_expert(name), random_features(), head_inputs()
    first = [parameter for parameter in head.heads[0].parameters() if parameter.requires_grad]
    head.loss(features, LABELS)[0].backward()
    assert all(parameter.grad is not None for parameter in first)
    assert len({id(p) for p in head.parameters()}) == sum(len(list(h.parameters())) for h in head.heads)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.01)
    save_head(tmp_path, head, PER_EXPERT[name], inputs)
    loaded = load_head(tmp_path)
    assert type(loaded) is type(head)
    torch.testing.assert_close(loaded(features), head(features))


def test_the_value_and_the_gradient_of_crt_equal_numpy():
    head, features = per_expert("crt"), random_features()
    z = features.numpy().reshape(-1, EXPERTS, WIDTH)
    loss, _ = head.loss(features, LABELS)
    loss.backward()
    losses = []
    for e, part in enumerate(head.heads):
        assert isinstance(part, Linear)
        assert part.bias is not None
        logits = z[:, e] @ part.weight.detach().numpy().T + part.bias.detach().numpy()
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        losses.append(-np.log(p[np.arange(7), LABELS]).mean())
        slope = (p - np.eye(CLASSES)[LABELS]).T @ z[:, e] / 7
        np.testing.assert_allclose(part.weight.grad, slope, atol=1e-6)
    assert loss.item() == pytest.approx(np.sum(losses), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_each_head_is_trained_like_a_head_alone_with_weight_decay(optimizer):
    settings = TRAINING.model_copy(update={"optimizer": optimizer, "weight_decay": 0.05})
    head, features = per_expert("crt"), random_features()
    alone = copy.deepcopy(list(head.heads))

    def train(trained: Any, inputs: torch.Tensor) -> None:
        steps = head_optimizer(trained.parameter_groups(), settings)
        for _ in range(20):
            steps.zero_grad()
            trained.loss(inputs, LABELS)[0].backward()
            steps.step()

    train(head, features)
    for e, single in enumerate(alone):
        train(single, features[:, e * WIDTH : (e + 1) * WIDTH])
        torch.testing.assert_close(head.heads[e].state_dict(), single.state_dict())


def test_new_classifiers_of_the_experts_differ():
    weights = [part.get_parameter("weight") for part in per_expert("crt").heads]
    assert not any(weights[0].equal(other) for other in weights[1:])


@pytest.mark.parametrize("name", FROM_CLASSIFIER)
def test_each_head_starts_from_the_classifier_of_its_expert(name):
    features = random_features()
    torch.testing.assert_close(per_expert(name)(features), random_ensemble()(features))


def test_parameter_groups_keep_their_learning_rates():
    head = per_expert("mislas")
    optimizer = head_optimizer(head.parameter_groups(), TRAINING)
    set_lr(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(parameter)] for name, parameter in head.named_parameters()}
    factor = HEADS["mislas"].classifier_lr_factor
    for name, rate in found.items():
        assert rate == pytest.approx(0.5 if name.endswith("scale") else 0.5 * factor)
    assert len(found) == 3 * EXPERTS


@pytest.mark.parametrize("name", ["crt", "lws", "mislas", "group_constants"])
def test_linear_heads_are_one_linear_classifier_of_all_features(name):
    head, features = per_expert(name), random_features()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1)
    linear, experts = head.as_linear(), head.as_experts()
    assert linear is not None
    assert experts is not None
    torch.testing.assert_close(linear(features), head(features))
    for e, part in enumerate(head.heads):
        z = features[:, e * WIDTH : (e + 1) * WIDTH]
        torch.testing.assert_close(experts.expert_logits(features)[:, e], part(z))


def test_heads_that_are_not_linear_have_no_linear_copy():
    assert per_expert("mem").as_linear() is None


def test_mem_returns_the_means_of_logits_weights_and_norms():
    head, features = per_expert("mem"), random_features()
    assert isinstance(head, MemOnExperts)
    parts = [h.modulate(features[:, e * WIDTH : (e + 1) * WIDTH]) for e, h in enumerate(head.heads)]
    for found, values in zip(head.modulate(features), zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(found, sum(values) / EXPERTS)
    torch.testing.assert_close(head.modulate(features)[0], head(features))
    assert head.get_buffer("group_of_class").tolist() == head.heads[0].get_buffer("group_of_class").tolist()


def test_predictions_contain_the_mean_norms_of_mem_and_the_decisions_of_the_router():
    shots, device = np.array([0, 0, 1, 1, 2]), torch.device("cpu")
    split = in_memory_split(random_features(), LABELS, "test")
    head = per_expert("mem")
    assert isinstance(head, MemOnExperts)
    found = predict(head, split, shots, device)
    np.testing.assert_allclose(found.norms, head.modulate(random_features())[2].detach(), rtol=1e-5)
    router = build_head(ROUTER, head_inputs())
    found = predict(router, split, shots, device)
    assert found.experts_used is not None
    assert found.experts_used.shape == (7,)
    assert found.norms is None


@pytest.mark.parametrize("kind", ["mem", "router"])
def test_predictions_of_several_crops_are_from_the_means_over_them(kind):
    router = ROUTER.model_copy(update={"threshold": 0.45})  # between the probabilities of the samples
    head = build_head(router if kind == "router" else PER_EXPERT["mem"], head_inputs())
    views = [random_features(seed=seed) for seed in (1, 2, 3)]
    split = FeatureSplit(torch.stack(views).numpy(), None, LABELS.numpy())
    found = predict(head, split, np.array([0, 0, 1, 1, 2]), torch.device("cpu"))
    logits = torch.stack([head(view) for view in views]).mean(dim=0).detach()
    assert found.predictions.tolist() == logits.argmax(dim=1).tolist()
    expected = logits.softmax(dim=1).gather(1, torch.from_numpy(found.top))
    np.testing.assert_allclose(found.top_probabilities, expected, rtol=1e-5)
    if isinstance(head, RideRouterHead):
        used = np.mean([head.route(view)[1].numpy() for view in views], axis=0)
        assert len(set(used)) > 1
        np.testing.assert_allclose(found.experts_used, used, rtol=1e-6)
    else:
        assert isinstance(head, MemOnExperts)
        signals = [torch.stack(values).mean(dim=0).detach() for values in zip(*map(head.modulate, views), strict=True)]
        np.testing.assert_allclose(found.weights, signals[1], rtol=1e-5)
        np.testing.assert_allclose(found.norms, signals[2], rtol=1e-5)


def test_the_phases_of_mem_are_those_of_a_single_head():
    changes = {"phases": "regularisation_first", "first_phase": 0.25}
    head = build_head(PER_EXPERT["mem"].model_copy(update=changes), head_inputs())
    assert head.first_phase_steps(40) == 10
    features = random_features()
    single = [h.first_phase_loss(features[:, e * WIDTH : (e + 1) * WIDTH], LABELS)[0] for e, h in enumerate(head.heads)]
    torch.testing.assert_close(head.first_phase_loss(features, LABELS)[0], sum(single))


def test_cosine_experts_start_no_linear_head():
    with pytest.raises(UserError, match="cosine classifier"):
        build_head(PER_EXPERT["lws"], head_inputs(scale=16.0))


def test_cosine_experts_can_have_new_classifiers():
    cosine = PER_EXPERT["crt"].model_copy(update={"cosine_scale": 8.0})
    head = build_head(cosine, head_inputs(scale=16.0))
    assert head(random_features()).shape == (7, CLASSES)
    assert head.as_linear() is None


@pytest.mark.parametrize("settings", [PER_EXPERT["crt"], PER_EXPERT["mem"], ROUTER, AGGREGATION])
def test_a_backbone_without_experts_is_reported(settings):
    inputs: HeadInputs = replace(head_inputs(), classifier=Linear(torch.zeros(CLASSES, WIDTH), torch.zeros(CLASSES)))
    with pytest.raises(UserError, match=r"requires the experts of a finetuned backbone.*Set finetune\.experts"):
        build_head(settings, inputs)
