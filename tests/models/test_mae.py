"""The masked autoencoder, compared with a NumPy implementation. Masked patches must not influence the encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mem.config import Decoder, VisionTransformer
from mem.models.mae import MaskedAutoencoder

BACKBONE = VisionTransformer(
    name="v", kind="vit", image_size=12, patch_size=4, width=16, depth=2, heads=2, center_crop=1.0
)
DECODER = Decoder(width=8, depth=1, heads=2)


@pytest.fixture
def model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    model = MaskedAutoencoder(BACKBONE, DECODER, mask_ratio=0.6, norm_pix_loss=True).double()
    # Change norms and biases, because their initial values could hide errors.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def batch(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 12, 12, generator=generator).double(), torch.rand(n, 9, generator=generator).double()


# --- numpy ---------------------------------------------------------------------------------------------


def layer_norm(x, p, name):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * p[f"{name}.weight"] + p[f"{name}.bias"]


def linear(x, p, name):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def gelu(x):
    from scipy.special import erf

    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def block(x, p, name, heads):
    n, d = x.shape
    qkv = linear(layer_norm(x, p, f"{name}.norm1"), p, f"{name}.attn.qkv").reshape(n, 3, heads, d // heads)
    q, k, v = qkv.transpose(1, 2, 0, 3)
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(d // heads)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(n, d)
    x = x + linear(mixed, p, f"{name}.attn.proj")
    hidden = gelu(linear(layer_norm(x, p, f"{name}.norm2"), p, f"{name}.mlp.fc1"))
    return x + linear(hidden, p, f"{name}.mlp.fc2")


def positions(grid, width):
    """Return the embeddings of He et al.: sine and cosine of position / 10000^(i / (width / 4)).

    The first half of the channels encodes the column, the second half the row.
    """
    omega = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
    table = np.zeros((grid * grid + 1, width))
    for row in range(grid):
        for column in range(grid):
            parts = [f(at * omega) for at in (column, row) for f in (np.sin, np.cos)]
            table[1 + row * grid + column] = np.concatenate(parts)
    return table


def numpy_loss(model, image, noise):
    p = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    grid, patch, kept = 3, 4, 3  # int(9 * 0.4)
    patches = np.stack(
        [image[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch] for r in range(grid) for c in range(grid)]
    )
    weight = p["encoder.patch_embed.proj.weight"].reshape(16, -1)
    tokens = patches.reshape(9, -1) @ weight.T + p["encoder.patch_embed.proj.bias"] + positions(grid, 16)[1:]
    visible = np.argsort(noise)[:kept]
    x = np.concatenate([p["encoder.cls_token"][0], tokens[visible]])
    for i in range(2):
        x = block(x, p, f"encoder.blocks.{i}", 2)
    x = linear(layer_norm(x, p, "encoder.norm"), p, "decoder_embed")
    full = np.repeat(p["mask_token"][0], 10, axis=0)
    full[0], full[1 + visible] = x[0], x[1:]
    full = block(full + positions(grid, 8), p, "decoder_blocks.0", 2)
    prediction = linear(layer_norm(full, p, "decoder_norm"), p, "decoder_pred")[1:]
    target = patches.transpose(0, 2, 3, 1).reshape(9, -1)
    target = (target - target.mean(1, keepdims=True)) / np.sqrt(target.var(1, ddof=1, keepdims=True) + 1e-6)
    error = ((prediction - target) ** 2).mean(1)
    masked = np.setdiff1d(np.arange(9), visible)
    return error[masked].mean()


def test_the_loss_equals_an_independent_numpy_implementation(model):
    images, noise = batch()
    expected = [numpy_loss(model, image.numpy(), n.numpy()) for image, n in zip(images, noise, strict=True)]
    # Position embeddings are stored in float32.
    np.testing.assert_allclose(model(images, noise).detach().numpy(), expected, rtol=1e-6)


# --- properties ----------------------------------------------------------------------------------------


def test_the_encoder_does_not_see_masked_patches_but_the_loss_does(model):
    model.norm_pix_loss = False  # otherwise, a change of scale would not affect the target
    images, noise = batch(1)
    prediction, visible = model.reconstruct(images, noise)
    changed = images.clone()
    masked = sorted(set(range(9)) - set(visible[0].tolist()))
    for patch in masked:
        row, column = divmod(patch, 3)
        pixels = changed[:, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
        pixels.copy_(10 * torch.randn_like(pixels))
    assert torch.equal(model.encode(changed, visible), model.encode(images, visible))
    assert torch.equal(model.reconstruct(changed, noise)[0], prediction)
    assert model(images, noise).item() < 5
    assert model(changed, noise).item() > 50


def test_the_mask_ratio_sets_the_number_of_visible_patches():
    for ratio, expected in ((0.75, 49), (0.5, 98), (0.6, 78)):
        backbone = BACKBONE.model_copy(update={"image_size": 56})
        assert MaskedAutoencoder(backbone, DECODER, ratio, True).visible_patches == expected


def test_position_embeddings_are_not_trained(model):
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("pos_embed" in name for name in trained)
    assert {"mask_token", "encoder.cls_token"} <= trained


def test_training_reduces_the_loss():
    torch.manual_seed(0)
    model = MaskedAutoencoder(BACKBONE, DECODER, 0.6, norm_pix_loss=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    images = torch.randn(8, 3, 1, 1).expand(-1, -1, 12, 12) * 0.5
    losses = []
    for step in range(80):
        noise = torch.rand(8, 9, generator=torch.Generator().manual_seed(step))
        loss = model(images, noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
