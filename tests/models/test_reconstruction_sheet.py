"""Reconstruction sheets, pixel normalisation, and FLOP counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mem.config import ConvMae, Decoder, VisionTransformer
from mem.models.flops import training_flops
from mem.models.mae import ConvMaskedAutoencoder, MaskedAutoencoder
from mem.models.pixels import Pixels
from mem.models.reconstruction_sheet import GAP_PIXELS, reconstruction_sheet

VIT = VisionTransformer(
    name="v", kind="vit", image_size=112, patch_size=28, width=16, depth=1, heads=2, center_crop=1.0
)
DECODER = Decoder(width=8, depth=1, heads=2)
PIXELS = Pixels((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def parts(norm_pix_loss: bool) -> tuple[MaskedAutoencoder, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = MaskedAutoencoder(VIT, DECODER, 0.75, norm_pix_loss)
    inputs = torch.randint(0, 256, (2, 112, 112, 3), dtype=torch.uint8)
    noise = torch.rand(2, 16)
    sheet = reconstruction_sheet(model, inputs, noise, PIXELS)
    assert sheet.shape == (2 * 112 + 3 * GAP_PIXELS, 3 * 112 + 4 * GAP_PIXELS, 3)
    starts = [GAP_PIXELS + column * (112 + GAP_PIXELS) for column in range(3)]
    return model, inputs, noise, [sheet[GAP_PIXELS : GAP_PIXELS + 112, start : start + 112] for start in starts]


def test_a_sheet_shows_input_visible_patches_and_reconstruction():
    model, inputs, noise, (original, masked, reconstructed) = parts(norm_pix_loss=False)
    assert torch.equal(original, inputs[0])
    prediction = PIXELS.restore(model.images(model.reconstruct(PIXELS.normalise(inputs), noise)[0].detach()))[0]
    visible = set(noise[0].argsort()[:4].tolist())
    for patch in range(16):
        row, column = divmod(patch, 4)
        area = slice(28 * row, 28 * row + 28), slice(28 * column, 28 * column + 28)
        if patch in visible:
            assert torch.equal(masked[area], inputs[0][area])
            assert torch.equal(reconstructed[area], inputs[0][area])
        else:
            assert (masked[area] == 128).all()
            # Values halfway between two levels may be rounded in either direction.
            assert (reconstructed[area].int() - prediction[area].int()).abs().max() <= 1


def test_if_the_loss_normalises_patches_their_mean_comes_from_the_input():
    model, inputs, _, _ = parts(norm_pix_loss=True)
    with torch.no_grad():
        nn.init.zeros_(model.decoder_pred.weight)
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(3))
    sheet = reconstruction_sheet(model, inputs, noise, PIXELS)
    reconstructed = sheet[GAP_PIXELS : GAP_PIXELS + 112, GAP_PIXELS + 2 * (112 + GAP_PIXELS) :][:, :112]
    patch = int(noise[0].argmax())
    area = slice(28 * (patch // 4), 28 * (patch // 4) + 28), slice(28 * (patch % 4), 28 * (patch % 4) + 28)
    # The mean is taken over all pixels and channels of the normalised patch.
    mean = PIXELS.normalise(inputs)[0][:, *area].mean()
    expected = PIXELS.restore(mean.expand(1, 3, 1, 1))[0, 0, 0]
    assert (reconstructed[area].float() - expected.float()).abs().max() <= 1


def test_a_sheet_leaves_the_model_in_training_mode():
    model, inputs, noise, _ = parts(norm_pix_loss=True)
    model.train()
    reconstruction_sheet(model, inputs, noise, PIXELS)
    assert model.training


def test_restoring_inverts_normalising():
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    assert torch.equal(PIXELS.restore(PIXELS.normalise(images)), images)


def test_operations_are_those_of_matrix_products_forward_and_backward():
    layer = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    # A multiply-add is two operations. The backward pass costs twice as many FLOPs as the forward pass, minus the
    # gradient of the first layer's input.
    forward = 2 * (10 * 20 + 20 * 5)
    assert training_flops(layer, (1, 10)) == 3 * forward - 2 * 10 * 20
    assert next(layer.parameters()).device.type == "cpu"


def test_a_depthwise_convolution_is_not_counted_as_a_full_one():
    layer = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 5, padding=2, groups=6))
    pointwise, depthwise = 2 * 64 * 3 * 6, 2 * 64 * 25 * 6
    assert training_flops(layer, (1, 3, 8, 8)) == 2 * pointwise + 3 * depthwise


@pytest.mark.parametrize(("name", "expected"), [("vit", 57.1), ("convmae", 66.5)])
def test_the_base_models_take_the_documented_number_of_operations(name, expected):
    decoder = Decoder(width=512, depth=8, heads=16)
    with torch.device("meta"):
        if name == "vit":
            vit = {"image_size": 224, "patch_size": 16, "width": 768, "depth": 12, "heads": 12, "center_crop": 1.0}
            model = MaskedAutoencoder(VisionTransformer(name="v", kind="vit", **vit), decoder, 0.75, True)
        else:
            shape = {"patch_sizes": (4, 2, 2), "widths": (256, 384, 768), "depths": (2, 2, 11), "heads": 12}
            settings = ConvMae(name="c", kind="convmae", image_size=224, center_crop=1.0, **shape)
            model = ConvMaskedAutoencoder(settings, decoder, 0.75, True)
    assert training_flops(model, (1, 3, 224, 224), (1, 196)) / 1e9 == pytest.approx(expected, rel=0.01)
