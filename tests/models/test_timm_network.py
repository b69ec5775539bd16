"""timm networks, trained and frozen, and BatchNorm with a configured batch size."""

from __future__ import annotations

import random

import pytest
import timm
import torch
from pydantic import ValidationError
from torch import nn

from mem.config import TimmNetwork
from mem.config.timm_names import is_registered
from mem.distributed import SINGLE_PROCESS, World
from mem.errors import UserError
from mem.models.backbones import build
from mem.models.backbones.frozen import frozen_timm
from mem.models.batch_norm import (
    SampleBatchNorm,
    configure_batch_norms,
    keep_batch_norm_statistics,
    update_batch_norm_statistics,
)
from mem.models.drop_path import SampleDropPath, drop_paths
from mem.models.weights.initialise import initialise_from


def settings(model: str = "resnet18", norm_batch: int | None = 4, side: int = 32, **options) -> TimmNetwork:
    return TimmNetwork(
        name="c", kind="timm", model=model, image_size=side, norm_batch=norm_batch, center_crop=1.0, **options
    )


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "efficientnet_b0"])
def test_features_equal_those_of_timms_network_with_the_same_weights(name):
    torch.manual_seed(0)
    model = build(settings(name), classes=5).double().eval()
    reference = timm.create_model(name, num_classes=5).double().eval()
    reference.load_state_dict(model.backbone.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        pooled, tokens = model.features(images)
        torch.testing.assert_close(model(images), reference(images))
        torch.testing.assert_close(pooled, reference.forward_head(reference.forward_features(images), pre_logits=True))
    assert (pooled.shape, tokens.shape) == ((2, model.width), (2, model.tokens, model.width))
    torch.testing.assert_close(tokens.mean(dim=1), pooled)


def test_with_norm_batch_equal_to_the_batch_training_equals_pytorchs_batchnorm():
    torch.manual_seed(0)
    model = build(settings(norm_batch=8), classes=5).double().train()
    reference = timm.create_model("resnet18", num_classes=5).double().train()
    reference.load_state_dict(model.backbone.state_dict())
    images = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    for network in (model, reference):
        network(images).square().sum().backward()
    keep_batch_norm_statistics(model)
    update_batch_norm_statistics(model, SINGLE_PROCESS)
    gradients = {name: p.grad for name, p in model.backbone.named_parameters()}
    torch.testing.assert_close(gradients, {name: p.grad for name, p in reference.named_parameters()})
    torch.testing.assert_close(dict(model.backbone.state_dict()), dict(reference.state_dict()))


def test_each_group_of_samples_has_its_own_statistics():
    torch.manual_seed(0)
    norm = SampleBatchNorm(nn.BatchNorm2d(3), norm_batch=4).double().train()
    x = 5 + 2 * torch.randn(8, 3, 6, 6, dtype=torch.float64)
    groups = x.view(2, 4, 3, 6, 6)
    mean, variance = groups.mean(dim=(1, 3, 4), keepdim=True), groups.var(dim=(1, 3, 4), keepdim=True, correction=0)
    expected = ((groups - mean) / (variance + norm.eps).sqrt()).view_as(x)
    torch.testing.assert_close(norm(x), expected)
    keep_batch_norm_statistics(norm)
    update_batch_norm_statistics(norm, SINGLE_PROCESS)
    torch.testing.assert_close(norm.running_mean, 0.1 * groups.mean(dim=(1, 3, 4)).mean(dim=0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * groups.var(dim=(1, 3, 4)).mean(dim=0))
    assert norm.num_batches_tracked == 1


def test_a_skipped_step_does_not_change_the_running_statistics():
    norm = SampleBatchNorm(nn.BatchNorm2d(3), norm_batch=2).train()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(torch.full((2, 3, 4, 4), torch.nan))
    keep_batch_norm_statistics(norm)
    update_batch_norm_statistics(norm, SINGLE_PROCESS, skipped=torch.tensor(True))
    torch.testing.assert_close(dict(norm.state_dict()), before)


def test_evaluation_uses_the_running_statistics_without_changing_them():
    model = build(settings(), classes=5).double().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(images)[:1], model(images[:1]))
    keep_batch_norm_statistics(model)
    update_batch_norm_statistics(model, SINGLE_PROCESS)
    torch.testing.assert_close(dict(model.state_dict()), before)


@pytest.mark.parametrize(
    ("ranks", "global_batch", "micro_batch"),
    [(1, 12, 6), (1, 12, 2), (2, 16, 6), (4, 16, 2), (3, 16, None), (3, 12, None), (1, 10, None)],
)
def test_a_division_of_the_batch_that_splits_a_group_is_rejected(ranks, global_batch, micro_batch):
    # Two ranks with 8 images each use groups of 8. The other cases use groups of 4. In the case (4, 16, 2),
    # micro-batches of 2 images split the only group of each rank.
    model = build(settings(norm_batch=8 if ranks == 2 else 4), classes=5)
    if (ranks, global_batch) == (3, 12):
        configure_batch_norms(model, World(0, ranks), global_batch, micro_batch)  # one group per rank: fits
        return
    with pytest.raises(UserError, match=rf"the batch of {global_batch} is divided among {ranks} rank"):
        configure_batch_norms(model, World(0, ranks), global_batch, micro_batch)


def test_stochastic_depth_has_the_rates_of_timm():
    model = build(settings("resnet18"), classes=5, drop_path=0.2)
    reference = timm.create_model("resnet18", drop_path_rate=0.2)
    rates = [m.drop_prob for m in reference.modules() if type(m).__name__ == "DropPath" and m.drop_prob]
    assert [b.rate for b in drop_paths(model) if b.rate] == pytest.approx(rates)
    assert not any(type(m).__name__ == "DropPath" for m in model.modules())
    assert any(isinstance(m, SampleDropPath) for m in model.modules())


def test_layers_are_numbered_from_the_stem_to_the_linear_layer():
    model = build(settings("resnet18"), classes=5)
    names = [name for name, _ in model.backbone.named_parameters()]
    layers = [model.layer_of(name) for name in names]
    assert layers == sorted(layers)
    assert (model.layer_of("conv1.weight"), model.layer_of("layer1.0.conv1.weight")) == (0, 1)
    assert model.layer_of("fc.weight") == model.layers == 9


@pytest.mark.parametrize(
    ("name", "norm_batch", "expected"),
    [
        ("resnet18", None, "resnet18 has BatchNorm; set this to the number of images that share statistics"),
        ("convnext_atto", 4, "convnext_atto has no BatchNorm; set this to null"),
        ("dla34", 4, "dla34 does not end in a linear layer .* To use it as a frozen backbone"),
    ],
)
def test_a_network_that_does_not_match_the_settings_is_rejected(name, norm_batch, expected):
    with pytest.raises(UserError, match=expected):
        build(settings(name, norm_batch), classes=5)


def test_a_network_without_batchnorm_works():
    model = build(settings("convnext_atto", None), classes=5).eval()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_timms_sources_contain_the_architectures_that_timm_lists():
    names = timm.list_models()
    assert len(names) > 1000
    assert all(map(is_registered, random.Random(0).sample(names, 50)))
    assert not is_registered("resnext50_32x4")
    assert not is_registered("resnet")  # the beginning of several names
    assert not is_registered("\ud800")


def test_drop_path_without_residual_branches_is_rejected():
    with pytest.raises(UserError, match="drop_path"):
        build(settings("densenet121"), classes=5, drop_path=0.1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnext50_32x4", "timm has no model resnext50_32x4; did you mean .*resnext50_32x4d"),
        ("resnet152.tv_in1k", "must not contain a weights tag; use `resnet152`"),
    ],
)
def test_an_unknown_network_is_named_with_those_near_it(name, expected):
    with pytest.raises(ValidationError, match=expected):
        settings(name)


@pytest.mark.parametrize(
    ("name", "side", "width", "tokens"),
    [
        ("resnet18", 64, 512, 4),
        ("vit_tiny_patch16_224", 32, 192, 4),
        ("deit_tiny_distilled_patch16_224", 32, 192, 4),
        ("swin_tiny_patch4_window7_224", 64, 768, 4),
        ("cait_xxs24_224", 32, 192, 4),
        ("mobilenetv3_small_050", 32, 1024, 0),
        ("dla34", 32, 512, 1),
    ],
)
def test_a_frozen_network_returns_timms_pooled_feature_and_positions_without_class_tokens(name, side, width, tokens):
    torch.manual_seed(0)
    model = frozen_timm(name, side).double().eval()
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    pooled, sequence = model.features(images)
    assert (pooled.shape, sequence.shape) == ((2, width), (2, tokens, width))
    assert (model.width, model.tokens) == (width, tokens)
    network = model.backbone
    expected = network.forward_head(network.forward_features(images), pre_logits=True)  # type: ignore[operator]
    torch.testing.assert_close(pooled, expected)


def test_tokens_of_a_windowed_transformer_are_the_positions_that_are_pooled():
    model = frozen_timm("swin_tiny_patch4_window7_224", 64).double().eval()
    pooled, tokens = model.features(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    torch.testing.assert_close(tokens.mean(dim=1), pooled)


def test_a_transformer_of_timm_can_be_finetuned():
    model = build(settings("vit_tiny_patch16_224", None), classes=5, drop_path=0.1)
    assert model(torch.randn(2, 3, 32, 32), torch.rand(2, model.branches)).shape == (2, 5)
    assert model.exempt_from_decay("pos_embed") and not model.exempt_from_decay("blocks.0.mlp.fc1.weight")
    assert (model.layer_of("pos_embed"), model.layer_of("head.weight")) == (0, model.layers)


@pytest.mark.parametrize(
    ("name", "side", "norm_batch"),
    [("volo_d1_224", 32, 2), ("efficientnet_lite0", 32, 2), ("swin_tiny_patch4_window7_224", 64, None)],
)
def test_every_trained_parameter_has_a_gradient(name, side, norm_batch):
    """Several ranks wait for the gradient of every trained parameter."""
    model = build(settings(name, norm_batch, side), 5).train()
    model(torch.randn(2, 3, side, side), torch.rand(2, model.branches)).square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    unused = {"backbone.aux_head.weight", "backbone.aux_head.bias"} if name == "volo_d1_224" else set()
    assert {name for name, _ in model.named_parameters()} - trained == unused


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_a_frozen_network_is_initialised_from_weights_of_timm_and_rejects_half_of_them(name):
    torch.manual_seed(1)
    published = timm.create_model(name, num_classes=7, **({"img_size": 32} if name.startswith("vit") else {}))
    model = frozen_timm(name, 32).eval()
    report = initialise_from(model, published.state_dict(), "a file")
    assert not report.missing
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model.double()
    published.double().eval()
    expected = published.forward_head(published.forward_features(images), pre_logits=True)
    torch.testing.assert_close(model(images), expected)
    half = dict(list(published.state_dict().items())[: len(published.state_dict()) // 2])
    with pytest.raises(UserError, match="a file: The weights do not fit the model:\n  missing: "):
        initialise_from(model, half, "a file")
