"""Options of timm networks that published recipes need: initial BatchNorm scales and a layer after the pooling."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from pydantic import ValidationError
from torch import nn

from mem.config import Study
from mem.errors import UserError
from mem.models.backbones import build
from mem.models.batch_norm import SampleBatchNorm
from mem.models.weights.initialise import initialise_from
from tests.models.test_timm_network import settings


def test_without_zero_init_last_the_initial_weights_are_distributed_like_those_of_kang_et_al():
    # facebookresearch/classifier-balancing, models/ResNextFeature.py at f162ade: convolutions are normal with variance
    # 2 / (kernel rows * kernel columns * outputs), regardless of groups, and all BatchNorm scales are 1.
    torch.manual_seed(0)
    model = build(settings("resnext50_32x4d", zero_init_last=False), classes=5)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 53
    for m in convolutions:
        scaled = m.weight / (2 / (m.kernel_size[0] * m.kernel_size[1] * m.out_channels)) ** 0.5
        tolerance = 6 / scaled.numel() ** 0.5
        assert abs(float(scaled.detach().mean())) < tolerance
        assert float(scaled.detach().std()) == pytest.approx(1, abs=tolerance)
    norms = [m for m in model.modules() if isinstance(m, SampleBatchNorm)]
    assert len(norms) == 53
    assert all(bool((m.weight == 1).all()) and bool((m.bias == 0).all()) for m in norms)


def test_by_default_the_last_norm_of_each_branch_starts_at_zero_like_timms():
    for zero_init_last in (None, True):
        options = {} if zero_init_last is None else {"zero_init_last": zero_init_last}
        torch.manual_seed(0)
        model = build(settings(**options), classes=5)
        torch.manual_seed(0)
        reference = timm.create_model("resnet18", num_classes=5)
        torch.testing.assert_close(dict(model.backbone.state_dict()), dict(reference.state_dict()), rtol=0, atol=0)
        assert not model.backbone.layer1[0].bn2.weight.any()


def test_a_network_without_the_option_rejects_zero_init_last():
    with pytest.raises(UserError, match=r"efficientnet_b0 with .*zero_init_last"):
        build(settings("efficientnet_b0", zero_init_last=False), classes=5)


def test_a_neck_is_a_linear_layer_and_relu_between_pooling_and_classifier():
    torch.manual_seed(0)
    model = build(settings(side=64, neck_width=7), classes=5).double().eval()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        pooled, tokens = model.features(images)
        logits = model(images)
        positions = model.backbone.forward_features(images).flatten(2).transpose(1, 2).numpy()
    state = {name: value.numpy() for name, value in model.backbone.state_dict().items()}
    weight, bias = state["neck.weight"], state["neck.bias"]
    assert (weight.shape, state["fc.weight"].shape) == ((7, 512), (5, 7))
    expected = np.maximum(positions.mean(axis=1) @ weight.T + bias, 0)
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(tokens.numpy(), np.maximum(positions @ weight.T + bias, 0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(logits.numpy(), expected @ state["fc.weight"].T + state["fc.bias"], rtol=1e-10)
    assert (model.width, model.tokens, tokens.shape[1:]) == (7, 4, (4, 7))


def test_a_neck_is_trained_and_keeps_its_initial_values_when_pretrained_weights_are_loaded():
    torch.manual_seed(0)
    model = build(settings(neck_width=7), classes=5)
    neck = model.backbone.state_dict()["neck.weight"].clone()
    weights = timm.create_model("resnet18", num_classes=3).state_dict()
    report = initialise_from(model, weights, "test")
    assert set(report.missing) == {"neck.weight", "neck.bias", "fc.weight", "fc.bias"}
    assert torch.equal(model.backbone.state_dict()["neck.weight"], neck)
    assert torch.equal(model.backbone.state_dict()["conv1.weight"], weights["conv1.weight"])
    assert model.layer_of("neck.weight") == model.layers
    model.train()(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zero_init_last": False, "initial": {"weights": "resnet152_imagenet"}}, "zero_init_last: has no effect"),
        ({"zero_init_last": False, "finetune": None}, "zero_init_last: has no effect"),
        ({"neck_width": 8, "finetune": None}, "neck_width: requires finetuning"),
    ],
)
def test_a_setting_of_a_new_network_without_effect_is_rejected(mini_values, change, message):
    sections = {name: value for name, value in change.items() if name in ("initial", "finetune")}
    options = {name: value for name, value in change.items() if name not in sections}
    backbone = settings("resnet152", side=8, **options).model_dump()
    values = mini_values | {"backbone": backbone, "pretrain": None} | sections
    with pytest.raises(ValidationError, match=message):
        Study.model_validate(values)
