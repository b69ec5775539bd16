"""The ensemble of experts: values, average of probabilities, one linear classifier, saving and messages."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mem import config
from mem.errors import UserError
from mem.heads.base import Linear
from mem.heads.build import HeadInputs, blank_classifier, build_head, load_classifier, load_head, save_head
from mem.heads.ensemble import ExpertEnsemble
from mem.models.weights.tensors import save_weights

EXPERTS, CLASSES, WIDTH, SAMPLES = 3, 4, 5, 6
COUNTS = np.array([9, 5, 3, 1])


def ensemble(*, cosine: bool = False, **options) -> ExpertEnsemble:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(EXPERTS, CLASSES, WIDTH, generator=generator)
    bias = torch.randn(EXPERTS, CLASSES, generator=generator)
    return ExpertEnsemble(weight, **({"scale": 12.0} if cosine else {"bias": bias}), **options)


def features() -> torch.Tensor:
    return torch.randn(SAMPLES, EXPERTS * WIDTH, generator=torch.Generator().manual_seed(1))


def inputs(classifier) -> HeadInputs:
    return HeadInputs(classifier, COUNTS, config.Shots(), seed=0)


def numpy_logits(head: ExpertEnsemble) -> np.ndarray:
    """The logits of each expert, from the definition: (experts, samples, classes)."""
    weight, z = head.weight.detach().numpy().astype(float), features().numpy().astype(float)
    parts = np.split(z, EXPERTS, axis=1)
    if head.bias is not None:
        bias = head.bias.detach().numpy().astype(float)
        return np.stack([parts[e] @ weight[e].T + bias[e] for e in range(EXPERTS)])
    cosines = [
        (parts[e] / np.linalg.norm(parts[e], axis=1, keepdims=True))
        @ (weight[e] / np.linalg.norm(weight[e], axis=1, keepdims=True)).T
        for e in range(EXPERTS)
    ]
    return 12.0 * np.stack(cosines)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize(("numbers", "chosen"), [(None, [0, 1, 2]), ((3, 1), [0, 2]), ((2,), [1])])
def test_logits_and_probabilities_are_means_over_the_chosen_experts(cosine, numbers, chosen):
    head = ensemble(cosine=cosine)
    expected = numpy_logits(head)[chosen]
    by_logits = head.of_experts(numbers)(features()).detach().numpy()
    np.testing.assert_allclose(by_logits, expected.mean(axis=0), rtol=1e-5, atol=1e-5)
    by_probability = head.of_experts(numbers, "probabilities")(features()).softmax(dim=1).detach().numpy()
    np.testing.assert_allclose(by_probability, softmax(expected).mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("numbers", [None, (1, 3)])
def test_linear_experts_are_one_linear_classifier_of_the_concatenated_features(numbers):
    head = ensemble().of_experts(numbers)
    linear = head.as_linear()
    assert isinstance(linear, Linear)
    assert linear.weight.shape == (CLASSES, EXPERTS * WIDTH)
    torch.testing.assert_close(linear(features()), head(features()))


def test_cosine_experts_and_means_of_probabilities_are_not_linear():
    assert ensemble(cosine=True).as_linear() is None
    assert ensemble(average="probabilities").as_linear() is None
    with pytest.raises(UserError, match="cosine classifier"):
        _ = inputs(ensemble(cosine=True)).linear
    with pytest.raises(ValueError, match="either the biases"):
        ExpertEnsemble(torch.zeros(2, 2, 2))


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
def test_a_head_on_features_with_or_without_a_sequence_uses_the_pooled_feature(cosine, tokens):
    head = ensemble(cosine=cosine)
    given = torch.stack([features(), torch.zeros_like(features())], dim=1) if tokens else features()
    torch.testing.assert_close(head(given), head(features()))


@pytest.mark.parametrize("cosine", [False, True])
def test_a_saved_ensemble_is_loaded_with_its_settings(tmp_path, cosine):
    settings = config.Ensemble(method="ensemble", experts=(1, 3), average="probabilities")
    given = inputs(ensemble(cosine=cosine))
    head = build_head(settings, given)
    save_head(tmp_path, head, settings, given)
    about = json.loads((tmp_path / "head.json").read_text())
    assert (about["classes"], about["width"], about["experts"]) == (CLASSES, EXPERTS * WIDTH, EXPERTS)
    torch.testing.assert_close(load_head(tmp_path)(features()), head(features()), rtol=0, atol=0)


@pytest.mark.parametrize("cosine", [False, True])
def test_a_classifier_of_experts_is_loaded_from_its_file(tmp_path, cosine):
    head = ensemble(cosine=cosine)
    tensors: dict[str, torch.Tensor] = {"weight": head.weight}
    tensors |= {"bias": head.bias} if head.bias is not None else {"cosine_scale": torch.tensor(12.0)}
    save_weights(tmp_path / "classifier.safetensors", tensors, {})
    loaded = load_classifier(tmp_path / "classifier.safetensors")
    assert isinstance(loaded, ExpertEnsemble)
    torch.testing.assert_close(loaded(features()), head(features()), rtol=0, atol=0)
    owned = torch.tensor([[1.0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]])
    save_weights(tmp_path / "classifier.safetensors", tensors | {"owned_classes": owned}, {})
    with_owners = load_classifier(tmp_path / "classifier.safetensors")
    torch.testing.assert_close(with_owners(features()), ensemble(cosine=cosine, owned=owned)(features()))
    assert not torch.allclose(with_owners(features()), head(features()))


def test_inputs_of_heads_describe_all_experts_together():
    given = inputs(ensemble())
    assert (given.experts, given.classes, given.width) == (EXPERTS, CLASSES, EXPERTS * WIDTH)
    assert given.ensemble is given.classifier
    plain = inputs(blank_classifier(CLASSES, WIDTH))
    assert (plain.experts, plain.classes, plain.width) == (1, CLASSES, WIDTH)
    with pytest.raises(UserError, match=r"requires the experts of a finetuned backbone.*Set finetune\.experts"):
        build_head(config.Ensemble(method="ensemble"), plain)


@pytest.mark.parametrize("experts", [(), (1, 1), (0,)])
def test_experts_are_distinct_numbers_from_1(experts):
    with pytest.raises(ValidationError, match=r"at least one expert, and each expert once|greater than 0"):
        config.Ensemble(method="ensemble", experts=experts)


def test_the_logit_of_a_class_is_the_mean_over_the_experts_that_own_it():
    rng = np.random.default_rng(0)
    weight, bias = torch.from_numpy(rng.normal(size=(3, 4, 5))), torch.from_numpy(rng.normal(size=(3, 4)))
    owned = torch.tensor([[1.0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]], dtype=torch.float64)
    ensemble = ExpertEnsemble(weight, bias=bias, owned=owned)
    x = torch.from_numpy(rng.normal(size=(6, 15)))
    z = ensemble.expert_logits(x)
    expected = torch.stack([z[:, 0, 0], z[:, :2, 1].mean(1), z[:, :2, 2].mean(1), z[:, :, 3].mean(1)], dim=1)
    torch.testing.assert_close(ensemble(x), expected)
    linear = ensemble.as_linear()
    assert linear is not None
    torch.testing.assert_close(linear(x), expected)
    # No chosen expert owns class 0, so that it has the mean of both.
    two = ensemble.of_experts([2, 3])
    torch.testing.assert_close(two(x)[:, [0, 1]], torch.stack([z[:, 1:, 0].mean(1), z[:, 1, 1]], dim=1))
    p = ensemble.of_experts(None, "probabilities")(x).exp()
    torch.testing.assert_close(p[:, 1], z[:, :2].softmax(dim=2)[:, :, 1].mean(1))
