"""LIFT's classifier, loss and initial weights, compared with values of the official code (see golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mem.jobs.class_means import add_by_class
from mem.models.class_embeddings.vectors import ClassVectors, weight_vectors
from mem.models.cosine import CosineLinear
from mem.objectives.build import build_objective
from tests.models.golden import classifier_recipe as recipe
from tests.objectives.numpy_objectives import Samples
from tests.objectives.settings import finetune, targets

GOLDEN = json.loads((Path(__file__).parent / "golden" / "classifier.json").read_text())


def test_the_cosine_classifier_and_the_logit_adjusted_loss_equal_the_official_ones():
    layer = CosineLinear(recipe.WIDTH, recipe.CLASSES, recipe.SCALE).double()
    with torch.no_grad():
        layer.weight.copy_(recipe.weights())
    features = recipe.features().requires_grad_()
    logits = layer(features)
    objective = build_objective(
        finetune({"name": "logit_adjustment", "tau": 1}, cosine_scale=recipe.SCALE), np.array(recipe.COUNTS)
    )
    loss = objective(logits, targets(Samples(np.array(recipe.LABELS)))).mean()
    expected = GOLDEN["training"]
    np.testing.assert_allclose(logits.detach().numpy(), expected["logits"], rtol=1e-9, atol=1e-9)
    assert float(loss.detach()) == pytest.approx(expected["loss"], rel=3e-6)  # the constants of classes are float32
    gradients = torch.autograd.grad(loss, (features, layer.weight))
    for name, gradient in zip(("features", "weights"), gradients, strict=True):
        np.testing.assert_allclose(gradient.numpy(), expected["gradients"][name], rtol=3e-6, atol=3e-6)


def averaged_text_features(prompts: tuple[str, ...]) -> torch.Tensor:
    """Return the embeddings as `text_vectors` computes them from features of texts."""
    names = [name.replace("_", " ") for name in recipe.NAMES]
    features = [F.normalize(recipe.text_features([prompt.format(n) for n in names]), dim=1) for prompt in prompts]
    return F.normalize(torch.stack(features).mean(dim=0), dim=1).float()


@pytest.mark.parametrize(("mode", "prompts"), [("default", ("a photo of a {}.",)), ("ensemble", recipe.ENSEMBLE)])
def test_the_weights_from_text_features_equal_the_official_ones(mode, prompts):
    projection = recipe.projection().T.float()
    vectors = ClassVectors(averaged_text_features(prompts), "text", projection)
    for weights in (
        weight_vectors(vectors, recipe.WIDTH),
        weight_vectors(ClassVectors(vectors.embeddings, "file"), recipe.WIDTH, projection),
    ):
        np.testing.assert_allclose(weights.numpy(), GOLDEN["text"][mode], rtol=1e-5, atol=1e-6)


def test_the_weights_from_class_means_equal_the_official_ones():
    sums = torch.zeros(1, recipe.CLASSES, recipe.WIDTH, dtype=torch.float64)
    for features, labels in zip(recipe.features().split(4), recipe.labels().split(4), strict=True):
        add_by_class(sums, features, labels)
    counts = torch.bincount(recipe.labels())
    np.testing.assert_allclose(F.normalize(sums[0] / counts[:, None], dim=1), GOLDEN["class_means"], rtol=1e-9)
