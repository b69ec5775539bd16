"""Backbones with a cosine classifier."""

from __future__ import annotations

import pytest
import torch

from mem import config
from mem.models.backbones import build
from mem.models.cosine import CosineLinear
from mem.models.parameter_groups import layer_decay_groups
from mem.models.weights.initialise import initialise_from
from tests.models.test_backbones import SETTINGS
from tests.models.tuned_networks import CONVMAE

CNN = config.TimmNetwork(
    name="cnn", kind="timm", model="resnet10t", image_size=32, norm_batch=4, center_crop=1.0, neck_width=12
)
NESTED = config.TimmNetwork(
    name="nested", kind="timm", model="convnext_atto", image_size=32, norm_batch=None, center_crop=1.0
)
BACKBONES = {"vit": SETTINGS, "cnn": CNN, "nested": NESTED, "convmae": CONVMAE}


def built(name: str, scale: float | None):
    torch.manual_seed(0)
    return build(BACKBONES[name], 5, cosine_scale=scale)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_logits_are_cosines_of_the_pooled_feature(name):
    model = built(name, 16).eval()
    assert isinstance(model.linear, CosineLinear)
    images = torch.randn(3, 3, BACKBONES[name].image_size, BACKBONES[name].image_size)
    pooled, _ = model.features(images)
    expected = 16 * torch.cosine_similarity(pooled[:, None], model.linear.weight[None], dim=2)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    assert model(images).abs().max() > 0.1  # unlike a ViT's linear layer, it does not start near zero


@pytest.mark.parametrize("name", BACKBONES)
def test_only_the_classifier_differs_from_that_of_a_linear_backbone(name):
    linear, cosine = built(name, None), built(name, 16)
    prefix = linear.head_prefix
    one, other = linear.backbone.state_dict(), cosine.backbone.state_dict()
    assert one.keys() - other.keys() == {f"{prefix}bias"}
    assert other.keys() <= one.keys()
    assert all(torch.equal(one[key], other[key]) for key in other.keys() - {f"{prefix}weight"})
    torch.testing.assert_close(cosine.linear.weight.norm(dim=1), torch.ones(5))
    groups = layer_decay_groups(cosine, 0.05, 0.5, classifier_lr_factor=10)
    of_classifier = next(g for g in groups if any(p is cosine.linear.weight for p in g["params"]))
    assert of_classifier["lr_scale"] == 10
    assert of_classifier["weight_decay"] == 0.05


def test_pretrained_weights_do_not_change_the_cosine_classifier():
    source, model = built("cnn", None), built("cnn", 16)
    before = model.linear.weight.detach().clone()
    initialise_from(model, source.backbone.state_dict(), "source")
    assert torch.equal(model.linear.weight, before)
