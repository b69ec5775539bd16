"""The ViT backbone, stochastic depth, parameter groups and weights files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mem.config import Decoder, VisionTransformer
from mem.errors import UserError
from mem.models.backbones import BackboneClassifier, build
from mem.models.drop_path import SampleDropPath, drop_paths, set_random_numbers
from mem.models.mae import MaskedAutoencoder
from mem.models.parameter_groups import decay_groups, layer_decay_groups
from mem.models.pixels import Pixels
from mem.models.weights.tensors import load_into, load_weights, save_weights

SETTINGS = VisionTransformer(
    name="v", kind="vit", image_size=8, patch_size=4, width=16, depth=3, heads=2, center_crop=1.0
)


@pytest.fixture
def model() -> BackboneClassifier:
    torch.manual_seed(0)
    return build(SETTINGS, classes=5, drop_path=0.3)


def test_logits_are_the_linear_layer_on_the_pooled_feature(model):
    model.eval()
    images = torch.randn(4, 3, 8, 8)
    pooled, tokens = model.features(images)
    torch.testing.assert_close(model(images), model.linear(pooled))
    assert tokens.shape == (4, 4, 16)


def test_the_pooled_feature_is_the_norm_of_the_mean_of_the_patch_tokens(model):
    model.eval()
    images = torch.randn(2, 3, 8, 8)
    tokens = model.backbone.forward_features(images)
    expected = model.backbone.fc_norm(tokens[:, 1:].mean(dim=1))
    torch.testing.assert_close(model.features(images)[0], expected)


def test_the_linear_layer_is_initialised_near_zero(model):
    assert model.linear.weight.abs().max() < 1e-3
    assert model.linear.bias.abs().max() == 0


# --- stochastic depth --------------------------------------------------------------------------------------


def test_a_branch_is_dropped_for_samples_whose_number_is_below_the_rate():
    layer = SampleDropPath(0.25).train()
    layer.random_numbers = torch.tensor([0.1, 0.25, 0.9])
    out = layer(torch.ones(3, 2, 2))
    assert out[0].abs().max() == 0
    torch.testing.assert_close(out[1:], torch.full((2, 2, 2), 1 / 0.75))


def test_evaluation_drops_nothing():
    layer = SampleDropPath(0.9).eval()
    assert torch.equal(layer(torch.ones(3, 1)), torch.ones(3, 1))


def test_training_without_random_numbers_is_rejected():
    with pytest.raises(RuntimeError, match="call set_random_numbers first"):
        SampleDropPath(0.5).train()(torch.ones(2, 1))


def test_rates_rise_linearly_and_every_branch_has_its_own_random_numbers(model):
    rates = [branch.rate for branch in drop_paths(model)]
    assert rates == pytest.approx([0.15, 0.15, 0.3, 0.3])  # the first block has rate 0 and no module
    uniforms = torch.rand(6, model.branches)
    set_random_numbers(model, uniforms)
    for column, branch in enumerate(drop_paths(model)):
        assert torch.equal(branch.random_numbers, uniforms[:, column])


def test_a_samples_output_depends_only_on_its_own_random_numbers(model):
    model.double().train()
    with torch.no_grad():
        model.linear.weight.normal_()
    images, numbers = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.rand(4, model.branches)
    parts = torch.cat([model(images[:3], numbers[:3]), model(images[3:], numbers[3:])])
    torch.testing.assert_close(model(images, numbers), parts)


# --- parameter groups ----------------------------------------------------------------------------------------


def test_layer_decay_gives_each_layer_the_official_scale(model):
    # In facebookresearch/mae, util/lr_decay.py, the scale is 0.5 ** (depth + 1 - layer). Embeddings are layer 0, block
    # i is layer i + 1, and the norm after pooling and the linear layer are layer depth + 1.
    expected = {"cls_token": 4, "pos_embed": 4, "patch_embed": 4, "fc_norm": 0, "head": 0}
    expected |= {f"blocks.{i}": 3 - i for i in range(3)}
    names = {id(p): name for name, p in model.backbone.named_parameters()}
    checked = set()
    for group in layer_decay_groups(model, 0.05, 0.5):
        for parameter in group["params"]:
            name = names[id(parameter)]
            power = next(value for prefix, value in expected.items() if name.startswith(prefix))
            assert group["lr_scale"] == 0.5**power, name
            exempt = parameter.ndim == 1 or name in ("cls_token", "pos_embed")
            assert group["weight_decay"] == (0.0 if exempt else 0.05), name
            checked.add(name)
    assert checked == set(names.values())


def test_in_pretraining_only_matrices_and_tokens_have_weight_decay():
    model = MaskedAutoencoder(SETTINGS, Decoder(width=8, depth=1, heads=2), 0.5, True)
    names = {id(p): name for name, p in model.named_parameters()}
    for group in decay_groups(model, 0.05):
        for parameter in group["params"]:
            assert (group["weight_decay"] == 0.05) == (parameter.ndim > 1), names[id(parameter)]
    grouped = {names[id(p)] for group in decay_groups(model, 0.05) for p in group["params"]}
    assert grouped == {name for name, p in model.named_parameters() if p.requires_grad}


# --- weights files ------------------------------------------------------------------------------------------


def test_loading_an_encoder_into_a_classifier_reports_every_key(model, tmp_path):
    torch.manual_seed(1)
    encoder = MaskedAutoencoder(SETTINGS, Decoder(width=8, depth=1, heads=2), 0.5, True).encoder
    save_weights(tmp_path / "encoder.safetensors", encoder.state_dict(), {"stage": "pretrain"})
    weights = load_weights(tmp_path / "encoder.safetensors")
    report = load_into(model.backbone, weights, allow_missing=("fc_norm.", "head."), allow_unused=("norm.",))
    assert set(report.missing) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert set(report.left_over) == {"norm.weight", "norm.bias"}
    for name in report.matched:
        torch.testing.assert_close(model.backbone.state_dict()[name], encoder.state_dict()[name])
    assert "newly initialised: fc_norm.weight" in str(report)


def test_the_same_weights_give_the_same_bytes(model, tmp_path):
    about = {"stage": "finetune", "key": "0123456789ab", "seed": "0"}
    paths = [tmp_path / f"{i}.safetensors" for i in range(10)]
    for path in paths:
        save_weights(path, model.state_dict(), about)
    assert len({path.read_bytes() for path in paths}) == 1


def test_for_weights_that_do_not_fit_every_key_is_listed(model):
    weights = model.backbone.state_dict()
    weights.pop("blocks.0.norm1.weight")
    weights["head.weight"] = torch.zeros(7, 16)
    weights["extra"] = torch.zeros(1)
    with pytest.raises(UserError) as error:
        load_into(model.backbone, weights)
    assert "missing: blocks.0.norm1.weight" in str(error.value)
    assert "unknown: extra" in str(error.value)
    assert "head.weight has shape (7, 16); the model expects (5, 16)" in str(error.value)


def test_damaged_and_missing_files_of_weights_are_named(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_weights(path, model.state_dict(), {})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read as safetensors"):
        load_weights(path)
    with pytest.raises(UserError, match="weights file not found"):
        load_weights(tmp_path / "none.safetensors")


# --- pixels ------------------------------------------------------------------------------------------------------


def test_pixels_are_normalised_per_channel():
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(Pixels(mean, std).normalise(images), expected)


def test_drop_paths_of_timm_are_replaced(model):
    from timm.layers.drop import DropPath

    assert not any(isinstance(module, DropPath) for module in model.modules())
    assert isinstance(model, nn.Module)
