"""Convolutional networks, and BatchNorm over a batch that is a setting."""

from __future__ import annotations

import pytest
import timm
import torch
from pydantic import ValidationError
from torch import nn

from mem.config import TimmCnn
from mem.distributed import World
from mem.errors import UserError
from mem.models.backbones import build
from mem.models.batch_norm import SampleBatchNorm, settle_batch_norms, spread_batch_norms
from mem.models.drop_path import SampleDropPath, branches

ALONE = World()


def settings(model: str = "resnet18", norm_batch: int | None = 4, side: int = 32) -> TimmCnn:
    return TimmCnn(name="c", kind="timm", model=model, image_size=side, norm_batch=norm_batch, center_crop=1.0)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "efficientnet_b0"])
def test_features_are_those_of_timms_network_with_the_same_weights(name):
    torch.manual_seed(0)
    model = build(settings(name), classes=5).eval()
    reference = timm.create_model(name, num_classes=5).eval()
    reference.load_state_dict(model.backbone.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        pooled, tokens = model.features(images)
        torch.testing.assert_close(model(images), reference(images))
        torch.testing.assert_close(pooled, reference.forward_head(reference.forward_features(images), pre_logits=True))
    assert (pooled.shape, tokens.shape) == ((2, model.width), (2, model.tokens, model.width))
    torch.testing.assert_close(tokens.mean(dim=1), pooled)


def test_with_the_whole_batch_as_its_batch_it_trains_as_pytorchs_batchnorm_does():
    torch.manual_seed(0)
    model = build(settings(norm_batch=8), classes=5).double().train()
    reference = timm.create_model("resnet18", num_classes=5).double().train()
    reference.load_state_dict(model.backbone.state_dict())
    images = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    for network in (model, reference):
        network(images).square().sum().backward()
    settle_batch_norms(model, ALONE)
    gradients = {name: p.grad for name, p in model.backbone.named_parameters()}
    torch.testing.assert_close(gradients, {name: p.grad for name, p in reference.named_parameters()})
    torch.testing.assert_close(dict(model.backbone.state_dict()), dict(reference.state_dict()))


def test_statistics_are_those_of_each_group_of_samples():
    torch.manual_seed(0)
    norm = SampleBatchNorm(nn.BatchNorm2d(3), norm_batch=4).double().train()
    x = 5 + 2 * torch.randn(8, 3, 6, 6, dtype=torch.float64)
    groups = x.view(2, 4, 3, 6, 6)
    mean, variance = groups.mean(dim=(1, 3, 4), keepdim=True), groups.var(dim=(1, 3, 4), keepdim=True, correction=0)
    expected = ((groups - mean) / (variance + norm.eps).sqrt()).view_as(x)
    torch.testing.assert_close(norm(x), expected)
    settle_batch_norms(norm, ALONE)
    torch.testing.assert_close(norm.running_mean, 0.1 * groups.mean(dim=(1, 3, 4)).mean(dim=0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * groups.var(dim=(1, 3, 4)).mean(dim=0))
    assert norm.num_batches_tracked == 1


def test_a_skipped_step_leaves_no_trace_in_the_running_statistics():
    norm = SampleBatchNorm(nn.BatchNorm2d(3), norm_batch=2).train()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(torch.full((2, 3, 4, 4), torch.nan))
    settle_batch_norms(norm, ALONE, skipped=torch.tensor(True))
    torch.testing.assert_close(dict(norm.state_dict()), before)


def test_evaluation_uses_the_running_statistics_and_changes_none():
    model = build(settings(), classes=5).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(model(images)[:1], model(images[:1]))
    settle_batch_norms(model, ALONE)
    torch.testing.assert_close(dict(model.state_dict()), before)


@pytest.mark.parametrize(
    ("ranks", "global_batch", "micro_batch"),
    [(1, 12, 6), (1, 12, 2), (2, 16, 6), (4, 16, 2), (3, 16, None), (3, 12, None), (1, 10, None)],
)
def test_a_batch_that_is_cut_through_a_group_is_refused_in_words(ranks, global_batch, micro_batch):
    # Groups of 8 for two ranks of 8, groups of 4 otherwise; (4, 16, 2) cuts a rank's only group.
    model = build(settings(norm_batch=8 if ranks == 2 else 4), classes=5)
    if (ranks, global_batch) == (3, 12):
        spread_batch_norms(model, World(0, ranks), global_batch, micro_batch)  # a group a rank: fits
        return
    with pytest.raises(UserError, match=rf"the batch of {global_batch} is cut into {ranks} rank"):
        spread_batch_norms(model, World(0, ranks), global_batch, micro_batch)


def test_stochastic_depth_is_ours_at_timms_rates():
    model = build(settings("resnet18"), classes=5, drop_path=0.2)
    reference = timm.create_model("resnet18", drop_path_rate=0.2)
    rates = [m.drop_prob for m in reference.modules() if type(m).__name__ == "DropPath" and m.drop_prob]
    assert [b.rate for b in branches(model) if b.rate] == pytest.approx(rates)
    assert not any(type(m).__name__ == "DropPath" for m in model.modules())
    assert any(isinstance(m, SampleDropPath) for m in model.modules())


def test_layers_go_from_the_stem_to_the_classifier():
    model = build(settings("resnet18"), classes=5)
    names = [name for name, _ in model.backbone.named_parameters()]
    layers = [model.layer_of(name) for name in names]
    assert layers == sorted(layers)
    assert (model.layer_of("conv1.weight"), model.layer_of("layer1.0.conv1.weight")) == (0, 1)
    assert model.layer_of("fc.weight") == model.layers == 9


@pytest.mark.parametrize(
    ("name", "norm_batch", "expected"),
    [
        ("resnet18", None, "resnet18 has BatchNorm: say over how many images"),
        ("convnext_atto", 4, "convnext_atto has no BatchNorm: leave it at null"),
        ("vit_tiny_patch16_224", None, "is no network of this kind|does not take images of 32"),
        ("mobilenetv3_small_050", 4, "its last feature map has shape"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_words(name, norm_batch, expected):
    with pytest.raises(UserError, match=expected):
        build(settings(name, norm_batch), classes=5)


def test_a_network_without_batchnorm_works():
    model = build(settings("convnext_atto", None), classes=5).eval()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_drop_path_without_branches_is_refused():
    with pytest.raises(UserError, match="drop_path"):
        build(settings("densenet121"), classes=5, drop_path=0.1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnext50_32x4", "timm has no model resnext50_32x4; near it are .*resnext50_32x4d"),
        ("resnet152.tv_in1k", "must go without the tag of weights: `resnet152`"),
    ],
)
def test_an_unknown_network_is_named_with_those_near_it(name, expected):
    with pytest.raises(ValidationError, match=expected):
        settings(name)
