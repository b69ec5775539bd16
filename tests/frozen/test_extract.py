"""Extraction of features with user-provided modules and timm models through the Python API."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mem.errors import UserError
from mem.frozen import extract

IMAGES = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(10) % 3


class CustomModule(nn.Module):
    """Module that returns features in one of several valid or invalid forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.layer = nn.Linear(3, 8)

    def forward(self, images: torch.Tensor):
        tokens = self.layer(images.flatten(2)[:, :, :5].transpose(1, 2))
        pooled = tokens.mean(dim=1)
        match self.form:
            case "pooled":
                return pooled
            case "sequence":
                return torch.cat([pooled[:, None], tokens], dim=1)
            case "pair":
                return pooled, tokens
            case "map":
                return images
            case "dict":
                return {"pooled": pooled}
            case _:
                return pooled, tokens[:, :, :4]


@pytest.mark.parametrize("form", ["pooled", "sequence", "pair"])
def test_a_module_may_return_features_in_three_forms(form):
    extracted = extract(CustomModule(form), IMAGES, batch=4)
    assert extracted.features.shape == (10, 8)
    assert extracted.labels is None
    if form != "pooled":
        features = extract(CustomModule(form), IMAGES, batch=4, tokens=True).features
        assert features.shape == (10, 6, 8)
        np.testing.assert_allclose(features[:, 0], features[:, 1:].mean(axis=1), rtol=1e-5, atol=1e-6)


def test_batches_with_labels_return_features_and_labels_in_order():
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=3)
    module = CustomModule("pooled")
    extracted = extract(module, loader)
    np.testing.assert_allclose(extracted.features, extract(module, IMAGES).features, rtol=1e-5, atol=1e-6)
    assert extracted.labels is not None
    assert extracted.labels.tolist() == LABELS.tolist()


def test_autocast_applies_to_the_network_and_features_stay_float32():
    module = CustomModule("sequence")
    exact = extract(module, IMAGES, tokens=True).features
    with torch.autocast("cpu", torch.bfloat16):
        rounded = extract(module, IMAGES, tokens=True).features
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05


def test_images_of_type_float64_give_the_same_features():
    module = CustomModule("pooled")
    features = extract(module, IMAGES.double().numpy()).features
    np.testing.assert_allclose(features, extract(module, IMAGES).features, rtol=1e-6, atol=1e-6)


def test_a_module_is_used_in_evaluation_mode_and_not_changed():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.Dropout(0.9)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    first, second = (extract(module, IMAGES).features for _ in range(2))
    np.testing.assert_array_equal(first, second)  # dropout is inactive
    torch.testing.assert_close(dict(module.state_dict()), before)
    assert all(p.requires_grad for p in module.parameters())
    assert module.training


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_timm_model_with_local_weights_returns_its_features(tmp_path: Path, suffix):
    network = timm.create_model("resnet18", num_classes=4).eval()
    path = tmp_path / f"weights.{suffix}"
    save_file(network.state_dict(), path) if suffix == "safetensors" else torch.save(network.state_dict(), path)
    features = extract("resnet18", IMAGES, weights=path).features
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(IMAGES), pre_logits=True)
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["map", "dict", "unlike"])
def test_a_module_that_returns_no_features_is_refused(form):
    with pytest.raises(
        UserError, match=r"CustomModule: returned .* for 1 images; expected pooled features \(images, width\)"
    ):
        extract(CustomModule(form), IMAGES)


@pytest.mark.parametrize(
    ("network", "images", "options", "expected"),
    [
        ("resnet81", IMAGES, {}, "timm has no model resnet81. Similar names: "),
        ("resnet18", IMAGES, {"weights": "nowhere.pth"}, "nowhere.pth: weights file not found"),
        ("mobilenetv3_small_050", IMAGES, {"tokens": True, "weights": "random"}, "returns pooled features only"),
        ("resnet18", IMAGES[:0], {}, "images: expected at least one image, got none"),
        (
            "resnet18",
            IMAGES[0],
            {},
            r"a batch has shape \(3, 32, 32\).*Add a dimension to a single image: images\[None\]",
        ),
        (
            "resnet18",
            IMAGES.permute(0, 2, 3, 1),
            {},
            r"shape \(10, 32, 32, 3\) .*expected \(images, 3, rows, columns\) as floats. Move the channels: ",
        ),
        (CustomModule("pooled"), IMAGES.permute(0, 2, 3, 1).numpy(), {}, r"images.transpose\(0, 3, 1, 2\) of an array"),
        (CustomModule("pooled"), IMAGES[:, :1], {}, r"shape \(10, 1, 32, 32\).*Repeat the grey channel"),
        (CustomModule("pooled"), IMAGES.repeat(1, 2, 1, 1), {}, r"shape \(10, 6, 32, 32\)"),
        (
            "vit_tiny_patch16_224",
            IMAGES[:2, :, :16],
            {"weights": "random"},
            r"vit_tiny_patch16_224: cannot process a batch of shape \(2, 3, 16, 32\) \(images 0 to 1\): .*Resize or",
        ),
        (
            "resnet18",
            (255 * IMAGES).to(torch.uint8),
            {},
            r"type torch.uint8; expected \(images, 3, rows, columns\) as floats",
        ),
        (
            CustomModule("pooled"),
            IMAGES,
            {"weights": "some.pth"},
            "weights: requires the name of a timm model",
        ),
    ],
)
def test_invalid_arguments_are_refused(network, images, options, expected):
    with pytest.raises(UserError, match=expected):
        extract(network, images, **options)


@pytest.mark.parametrize("network", ["resnet10t", "vit_tiny_patch16_224"])
def test_a_timm_model_without_weights_is_refused_with_the_ways_to_pass_them(network):
    with pytest.raises(UserError, match=f"weights: {network} has no weights. Pass a weights file: .*weights='random'"):
        extract(network, IMAGES)


def test_random_weights_depend_only_on_the_seed_and_leave_the_generator_unchanged():
    before = torch.get_rng_state()
    first = extract("resnet10t", IMAGES, weights="random", seed=1).features
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    np.testing.assert_array_equal(extract("resnet10t", IMAGES, weights="random", seed=1).features, first)
    assert not np.allclose(extract("resnet10t", IMAGES, weights="random", seed=2).features, first)


class Pictures(torch.utils.data.Dataset):
    """Images of which one raises an error when it is read."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 7:
            raise OSError("image file photos/7.jpg is truncated")
        return IMAGES[index]


def with_value(index: int, value: float) -> torch.Tensor:
    images = IMAGES.clone()
    images[index, 0, 3, 3] = value
    return images


@pytest.mark.parametrize(
    ("images", "options", "expected"),
    [
        (with_value(7, float("nan")), {"batch": 4}, "image 7 contains pixels that are not finite"),
        (with_value(9, float("inf")), {}, "image 9 contains pixels that are not finite"),
        (with_value(5, 3e38), {"batch": 4}, "image 5 has features that are not finite. Check the weights of CustomMod"),
        (DataLoader(Pictures(), batch_size=3), {}, "batch 2 cannot be read: OSError: image file photos/7.jpg is trun"),
        ([IMAGES[:4], "photos/4.jpg"], {}, "the batch that starts with image 4 is no array"),
        ([{"image": IMAGES}], {}, "the batch that starts with image 0 is no array"),
        ([IMAGES[:4], IMAGES[4:6, :, :1, :4]], {"tokens": True}, "images 4 to 5 of shape .* have features of shape"),
    ],
)
def test_a_bad_image_is_named_by_its_number(images, options, expected):
    class Large(CustomModule):
        def forward(self, images: torch.Tensor):
            pooled, tokens = super().forward(images)
            return pooled + images.flatten(1).abs().amax(dim=1, keepdim=True) * 10, tokens

    Large.__name__ = "CustomModule"
    with pytest.raises(UserError, match=f"images: {expected}") as caught:
        extract(Large("pair"), images, **options)
    assert len(str(caught.value)) < 300 and "Traceback" not in str(caught.value)


def test_batches_may_be_lists_of_one_tensor():
    module = CustomModule("pooled")
    extracted = extract(module, DataLoader(TensorDataset(IMAGES), batch_size=4))
    np.testing.assert_allclose(extracted.features, extract(module, IMAGES).features, rtol=1e-5, atol=1e-6)
