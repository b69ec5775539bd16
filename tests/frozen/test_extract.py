"""Features of one's own module and of timm's networks, from Python."""

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


class Own(nn.Module):
    """Gives what `form` says."""

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
def test_ones_own_module_gives_features_in_three_ways(form):
    found = extract(Own(form), IMAGES, batch=4)
    assert found.features.shape == (10, 8)
    assert found.labels is None
    if form != "pooled":
        whole = extract(Own(form), IMAGES, batch=4, tokens=True).features
        assert whole.shape == (10, 6, 8)
        np.testing.assert_allclose(whole[:, 0], whole[:, 1:].mean(axis=1), rtol=1e-5, atol=1e-6)


def test_batches_with_labels_give_both_in_order():
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=3)
    module = Own("pooled")
    found = extract(module, loader)
    np.testing.assert_allclose(found.features, extract(module, IMAGES).features, rtol=1e-5, atol=1e-6)
    assert found.labels is not None
    assert found.labels.tolist() == LABELS.tolist()


def test_a_module_is_used_as_in_evaluation_and_left_as_it_was_in_its_weights():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.Dropout(0.9)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    np.testing.assert_array_equal(extract(module, IMAGES).features, extract(module, IMAGES, batch=10).features)
    torch.testing.assert_close(dict(module.state_dict()), before)
    assert all(p.requires_grad for p in module.parameters())
    assert module.training


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_name_of_timm_with_local_weights_gives_that_networks_features(tmp_path: Path, suffix):
    network = timm.create_model("resnet18", num_classes=4).eval()
    path = tmp_path / f"weights.{suffix}"
    save_file(network.state_dict(), path) if suffix == "safetensors" else torch.save(network.state_dict(), path)
    found = extract("resnet18", IMAGES, weights=path).features
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(IMAGES), pre_logits=True)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["map", "dict", "unlike"])
def test_a_module_that_gives_no_features_is_refused_in_words(form):
    with pytest.raises(UserError, match=r"Own: gives .* for 1 images; expected pooled features \(images, width\)"):
        extract(Own(form), IMAGES)


@pytest.mark.parametrize(
    ("network", "images", "options", "expected"),
    [
        ("resnet81", IMAGES, {}, "timm has no model resnet81; near it are"),
        ("resnet18", IMAGES, {"weights": "nowhere.pth"}, "nowhere.pth: weights file not found"),
        ("mobilenetv3_small_050", IMAGES, {"tokens": True}, "gives pooled features only"),
        ("resnet18", IMAGES[:0], {}, "images: there are none"),
        ("resnet18", IMAGES[0], {}, r"a batch has shape \(3, 32, 32\)"),
        ("resnet18", (255 * IMAGES).to(torch.uint8), {}, "type torch.uint8; expected floating-point"),
        (Own("pooled"), IMAGES, {"weights": "some.pth"}, "weights: go with a name of timm's"),
    ],
)
def test_what_cannot_be_is_refused_in_words(network, images, options, expected):
    with pytest.raises(UserError, match=expected):
        extract(network, images, **options)
