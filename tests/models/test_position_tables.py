"""Weights of timm networks load at their own image size and, where the architecture allows it, at another size."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import timm
import timm.layers
import timm.models.nest
import torch
from torch import nn

from mem.config import TimmNetwork
from mem.errors import UserError
from mem.models.backbones import build
from mem.models.backbones.frozen import frozen_timm
from mem.models.mae import MaskedAutoencoder
from mem.models.weights.initialise import initialise_from
from mem.models.weights.positions import resize_position_tables, resize_positions
from tests.models.test_external_weights import DECODER, SMALL

pytestmark = pytest.mark.stage  # full-size models
FAMILIES = [
    ("vit_small_patch14_reg4_dinov2", 28, 56, {"pos_embed": 0}),  # no class token or register in the table
    ("deit_tiny_distilled_patch16_224", 32, 64, {"pos_embed": 2}),
    ("flexivit_small", 32, 48, {"pos_embed": 0}),
    ("cait_xxs24_224", 32, 64, {"pos_embed": 0}),
    ("convit_tiny", 32, 64, {"pos_embed": 0}),
    ("tnt_s_legacy_patch16_224", 32, 64, {"patch_pos": 1}),
    ("crossvit_9_240", 120, 240, {"pos_embed_0": 1, "pos_embed_1": 1}),
    ("pit_ti_224", 48, 64, {}),
    ("visformer_tiny", 64, 96, {}),
    ("nest_tiny", 64, 128, {}),
    ("mvitv2_tiny", 64, 96, {}),
    ("swin_tiny_patch4_window7_224", 64, 224, {}),
    ("gcvit_xxtiny", 128, 224, {}),
    ("coatnet_nano_rw_224", 64, 96, {}),
    ("efficientformerv2_s0", 64, 96, {}),
    ("levit_128s", 128, 192, {}),
]
"""Architecture, image size of the weights, another image size, and the number of prefix rows of tables of patches."""


def published(name: str, side: int) -> dict[str, torch.Tensor]:
    """Return random weights of a complete timm network with a classifier, as published weights contain them."""
    torch.manual_seed(0)
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    sizes = {"img_size": side} if cfg.input_size[-1] != side else {}
    return timm.create_model(name, num_classes=10, **sizes).state_dict()


@pytest.mark.parametrize(("name", "side", "other", "prefixes"), FAMILIES, ids=[family[0] for family in FAMILIES])
def test_weights_load_at_their_own_and_at_another_image_size(name, side, other, prefixes):
    weights = published(name, side)
    own, resized = frozen_timm(name, side), frozen_timm(name, other)
    for model in (own, resized):
        assert initialise_from(model, weights, "weights.pth").missing == ()
        assert model.eval()(torch.randn(1, 3, *(side if model is own else other,) * 2)).isfinite().all()
    for table, value in own.backbone.state_dict().items():
        assert torch.equal(value, weights[table]), table
    changed = [n for n, v in resized.backbone.state_dict().items() if v.shape != weights[n].shape]
    assert changed, "the other size changes no table"
    for table, rows in prefixes.items():
        assert torch.equal(resized.backbone.state_dict()[table][:, :rows], weights[table][:, :rows])


def test_grids_are_interpolated_as_by_timm():
    table = torch.randn(1, 5 + 14 * 14, 8)
    expected = timm.layers.resample_abs_pos_embed(table, [18, 18], num_prefix_tokens=5, antialias=False)
    torch.testing.assert_close(resize_positions(table, 5 + 18 * 18, 5), expected)
    weights = published("nest_tiny", 64)
    resized = frozen_timm("nest_tiny", 128)
    initialise_from(resized, weights, "weights.pth")
    for level in range(3):
        name = f"levels.{level}.pos_embed"
        value = resized.backbone.state_dict()[name]
        torch.testing.assert_close(value, timm.models.nest.resize_pos_embed(weights[name], value))


@pytest.mark.parametrize(
    ("name", "patch", "prefix"),
    [
        ("vit_small_patch14_dinov2", 14, 1),
        ("vit_small_patch14_reg4_dinov2", 14, 0),  # neither the class token nor the registers have a position
        ("flexivit_small", 16, 0),
        ("cait_xxs24_224", 16, 0),
        ("deit_tiny_distilled_patch16_224", 16, 2),
    ],
)
@pytest.mark.parametrize("side", [2, 6])
def test_positions_are_interpolated_after_the_tokens_that_are_no_patches(name, patch, prefix, side):
    options: dict[str, Any] = {"embed_dim": 8, "depth": 1, "num_heads": 1}
    source = timm.create_model(name, img_size=4 * patch, **options)
    target = timm.create_model(name, img_size=side * patch, **options)
    table = torch.rand_like(source.state_dict()["pos_embed"])
    expected = timm.layers.resample_abs_pos_embed(table, [side, side], num_prefix_tokens=prefix, antialias=False)
    resized = resize_position_tables({**source.state_dict(), "pos_embed": table}, target)["pos_embed"]
    torch.testing.assert_close(resized, expected)
    assert torch.equal(resized[:, :prefix], table[:, :prefix])


def test_positions_of_a_decoder_are_interpolated_too():
    weights = MaskedAutoencoder(SMALL, DECODER, 0.5, True).state_dict()
    larger = MaskedAutoencoder(SMALL.model_copy(update={"image_size": 24}), DECODER, 0.5, True)
    report = initialise_from(larger, weights, "mae.pth")
    assert "decoder_pos_embed" in report.matched and not report.missing


@pytest.mark.parametrize("name", ["mixer_s32_224", "gmlp_ti16_224"])
def test_a_network_whose_weights_depend_on_the_image_size_is_refused_by_name(name):
    model = frozen_timm(name, 288)
    expected = rf"(?s)weights.pth: .*{name}: these weights are for images of 224 x 224 pixels, .*\(image_size: 224\)"
    with pytest.raises(UserError, match=expected):
        initialise_from(model, published(name, 224), "weights.pth")


@pytest.mark.parametrize(("name", "side"), [("halonet26t", 320), ("bat_resnext26ts", 33)])
def test_an_image_size_that_the_network_does_not_accept_is_refused_with_a_reason(name, side):
    with pytest.raises(UserError, match=rf"{name} does not accept images of {side} x {side} pixels: \w"):
        frozen_timm(name, side)


def settings(name: str, side: int, norm_batch: int | None = None) -> TimmNetwork:
    values: dict[str, Any] = {"name": "c", "kind": "timm", "norm_batch": norm_batch, "center_crop": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TimmNetwork(model=name, image_size=side, **values)


@pytest.mark.parametrize(("name", "norm_batch"), [("pit_ti_224", None), ("poolformer_s12", None), ("csatv2", 4)])
def test_a_network_without_numbered_layers_cannot_be_finetuned(name, norm_batch):
    with pytest.raises(UserError, match=rf"{name} does not number its layers .* set finetune to null"):
        build(settings(name, 224, norm_batch), classes=5)


def test_an_auxiliary_classifier_for_other_classes_is_not_loaded():
    model = build(settings("volo_d1_224", 32, 4), classes=5)
    missing = initialise_from(model, published("volo_d1_224", 32), "weights.pth").missing
    assert set(missing) == {"head.weight", "head.bias", "aux_head.weight", "aux_head.bias"}


@pytest.mark.parametrize(
    ("old", "name", "side", "tokens"),
    [
        ("vit_tiny_patch16_224_in21k", "vit_tiny_patch16_224", 32, 4),
    ],
)
def test_a_deprecated_name_is_resolved_and_the_image_size_applies(old, name, side, tokens):
    with pytest.warns(UserWarning, match=f"timm renamed {old} to {name}. Use the name {name}"):
        model = frozen_timm(old, side)
    assert (model.name, model.tokens) == (name, tokens)
    with pytest.warns(UserWarning, match="timm renamed"):
        assert build(settings(old, side), 5).tokens == tokens


def test_an_unknown_name_is_refused_with_similar_names():
    with pytest.raises(UserError, match=r"timm has no model resnet81\. Similar names: resnet"):
        frozen_timm("resnet81", 32)


@pytest.mark.parametrize("extra", [0, 3])
def test_relative_biases_are_interpolated_as_a_grid_and_rows_of_the_class_token_are_copied(extra):
    class Windowed(nn.Module):
        def __init__(self, side: int) -> None:
            super().__init__()
            self.relative_position_bias_table = nn.Parameter(torch.randn(side**2 + extra, 2))

    old, new = Windowed(5), Windowed(9)
    name = "relative_position_bias_table"
    resized = resize_position_tables(old.state_dict(), new)[name]
    expected = timm.layers.resize_rel_pos_bias_table_simple(old.state_dict()[name], (5, 5), (81 + extra, 2))
    torch.testing.assert_close(resized, expected)
