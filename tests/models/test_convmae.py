"""ConvMAE, compared with a dense implementation of the paper. Masked cells must not influence the encoder."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mem.config import Augmentation, ConvMae, Decoder, Pretrain, TimmNetwork
from mem.errors import UserError
from mem.models.backbones import BackboneClassifier, build
from mem.models.convmae_encoder import ConvMaeEncoder, raster_indices, split_into_cells
from mem.models.drop_path import drop_paths
from mem.models.mae import ConvMaskedAutoencoder, build_autoencoder
from mem.models.parameter_groups import layer_decay_groups
from mem.models.weights.initialise import initialise_from

SETTINGS = ConvMae(
    name="c",
    kind="convmae",
    image_size=48,
    patch_sizes=(4, 2, 2),
    widths=(8, 12, 16),
    depths=(2, 2, 2),
    heads=2,
    mlp_ratios=(2.0, 3.0, 4.0),
    center_crop=1.0,
)
PRETRAIN = Pretrain(
    epochs=1,
    warmup_epochs=0,
    global_batch=4,
    base_lr=1e-3,
    min_lr=0.0,
    betas=(0.9, 0.95),
    weight_decay=0.05,
    precision="fp32",
    mask_ratio=0.75,
    norm_pix_loss=True,
    decoder=Decoder(width=8, depth=1, heads=2),
    augmentation=Augmentation(crop_scale=(0.5, 1.0), flip=False),
)
UNEVEN = SETTINGS.model_copy(update={"patch_sizes": (2, 3, 2), "image_size": 36})


def perturb(module: torch.nn.Module) -> None:
    """Change the parameters of norms and all biases, because their initial values could hide errors."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def dense(p: dict[str, Tensor], settings: ConvMae, images: Tensor, visible: Tensor) -> Tensor:
    """Compute the encoder as published: stages 1 and 2 on masked grids, at every position, with channels first."""
    samples, grid = len(images), settings.image_size // settings.patch_size
    keep = torch.zeros(samples, grid * grid, dtype=images.dtype).scatter(1, visible, 1.0).view(samples, 1, grid, grid)

    def norm(x: Tensor, name: str) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], 1e-5)
        return x.permute(0, 3, 1, 2)

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **options)

    def embed(x: Tensor, stage: int) -> Tensor:
        x = conv(x, f"patch_embed{stage}.proj", stride=settings.patch_sizes[stage - 1])
        return F.gelu(norm(x, f"patch_embed{stage}.norm"))

    def block(x: Tensor, name: str, mask: Tensor) -> Tensor:
        hidden = conv(norm(x, f"{name}.norm1"), f"{name}.conv1") * mask
        hidden = conv(hidden, f"{name}.attn", padding=2, groups=x.shape[1])
        x = x + conv(hidden, f"{name}.conv2")
        return x + conv(F.gelu(conv(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def flat_norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)

    def transformer(x: Tensor, name: str) -> Tensor:
        n, tokens, width = x.shape
        qkv = linear(flat_norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        q, k, v = qkv.view(n, tokens, 3, settings.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / (width // settings.heads) ** 0.5).softmax(dim=3)
        x = x + linear((weights @ v).transpose(1, 2).reshape(n, tokens, width), f"{name}.attn.proj")
        return x + linear(F.gelu(linear(flat_norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")

    _, p2, p3 = settings.patch_sizes
    x = embed(images, 1)
    mask = keep.repeat_interleave(p2 * p3, 2).repeat_interleave(p2 * p3, 3)
    for i in range(settings.depths[0]):
        x = block(x, f"blocks1.{i}", mask)
    first = conv(x, "stage1_output_decode", stride=p2 * p3).flatten(2).transpose(1, 2)
    x = embed(x, 2)
    mask = keep.repeat_interleave(p3, 2).repeat_interleave(p3, 3)
    for i in range(settings.depths[1]):
        x = block(x, f"blocks2.{i}", mask)
    second = conv(x, "stage2_output_decode", stride=p3).flatten(2).transpose(1, 2)
    x = linear(embed(x, 3).flatten(2).transpose(1, 2), "patch_embed4") + p["pos_embed"]
    rows = visible[:, :, None].expand(-1, -1, x.shape[2])
    x, first, second = (part.gather(1, rows) for part in (x, first, second))
    for i in range(settings.depths[2]):
        x = transformer(x, f"blocks3.{i}")
    return flat_norm(x + first + second, "norm")


@pytest.mark.parametrize("settings", [SETTINGS, UNEVEN], ids=["4-2-2", "2-3-2"])
@pytest.mark.parametrize("kept", [2, 5, 9])
def test_computing_visible_positions_only_equals_the_dense_encoder_forward_and_backward(settings, kept):
    torch.manual_seed(kept)
    encoder = ConvMaeEncoder(settings).double()
    perturb(encoder)
    images = torch.randn(3, 3, settings.image_size, settings.image_size, dtype=torch.float64)
    visible = torch.rand(3, settings.tokens).argsort(dim=1)[:, :kept]
    weights = torch.randn(3, kept, settings.width, dtype=torch.float64)

    sparse = encoder(images, visible)
    names = [name for name, p in encoder.named_parameters() if p.requires_grad]
    parameters = dict(encoder.named_parameters())
    reference = dense(parameters, settings, images, visible)
    torch.testing.assert_close(sparse, reference, rtol=0, atol=1e-10)

    trained = [parameters[name] for name in names]
    for name, found, expected in zip(
        names,
        torch.autograd.grad((sparse * weights).sum(), trained),
        torch.autograd.grad((reference * weights).sum(), trained),
        strict=True,
    ):
        assert expected.abs().max() > 1e-6, f"{name}: the gradient is zero, so that the comparison shows nothing"
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_the_encoder_does_not_see_masked_cells_but_the_loss_does():
    torch.manual_seed(0)
    # `norm_pix_loss` is disabled because it would remove the change of scale from the target.
    model = ConvMaskedAutoencoder(SETTINGS, Decoder(width=8, depth=1, heads=2), 0.6, norm_pix_loss=False)
    images, noise = torch.randn(1, 3, 48, 48), torch.rand(1, 9)
    prediction, visible = model.reconstruct(images, noise)
    changed = images.clone()
    for cell in set(range(9)) - set(visible[0].tolist()):
        row, column = divmod(cell, 3)
        pixels = changed[:, :, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
        pixels.copy_(10 * torch.randn_like(pixels))
    assert torch.equal(model.encode(changed, visible), model.encode(images, visible))
    assert torch.equal(model.reconstruct(changed, noise)[0], prediction)
    assert model(images, noise).item() < 2
    assert model(changed, noise).item() > 50


def test_without_a_mask_every_position_is_computed():
    torch.manual_seed(0)
    encoder = ConvMaeEncoder(SETTINGS).double()
    images = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    all_cells = torch.arange(9).expand(2, -1)
    for found, expected in zip(encoder.stages(images), encoder.stages(images, all_cells), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_tokens_have_the_order_of_the_visible_cells():
    torch.manual_seed(0)
    encoder = ConvMaeEncoder(SETTINGS).double()
    images = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    visible = torch.tensor([[7, 0, 4]])
    swapped = encoder(images, visible.flip(1))
    torch.testing.assert_close(swapped.flip(1), encoder(images, visible), rtol=0, atol=1e-12)


def test_positions_of_a_cell_are_ordered_from_coarse_to_fine():
    # One cell with 2 x 2 blocks of 2 x 2 positions.
    assert raster_indices(1, 2, 2).tolist() == [[0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]]
    image = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert split_into_cells(image, (1, 2, 2))[0, 0, ::3].tolist() == raster_indices(1, 2, 2)[0].tolist()


def test_position_embeddings_are_not_trained():
    trained = {name for name, p in ConvMaeEncoder(SETTINGS).named_parameters() if p.requires_grad}
    assert "pos_embed" not in trained
    assert {"stage1_output_decode.weight", "stage2_output_decode.bias"} <= trained


# --- finetuning ------------------------------------------------------------------------------------------------


@pytest.fixture
def classifier() -> BackboneClassifier:
    torch.manual_seed(0)
    return build(SETTINGS, classes=5, drop_path=0.5)


def test_logits_are_the_linear_layer_on_the_norm_of_the_mean_token(classifier):
    classifier.eval()
    images = torch.randn(2, 3, 48, 48)
    expected = classifier.backbone.stages(images)[2].mean(dim=1)
    pooled, tokens = classifier.features(images)
    torch.testing.assert_close(pooled, F.layer_norm(expected, (16,), eps=1e-6))
    torch.testing.assert_close(classifier(images), classifier.linear(pooled))
    assert tokens.shape == (2, classifier.tokens, classifier.width) == (2, 9, 16)


def test_a_classifier_is_initialised_from_an_encoder_without_the_layers_of_pretraining(classifier):
    encoder = ConvMaeEncoder(SETTINGS).state_dict()
    report = initialise_from(classifier, encoder, "encoder.safetensors")
    assert {name.split(".")[0] for name in report.missing} == {"fc_norm", "head"}
    assert {name.split(".")[0] for name in report.left_over} == {"norm", "stage1_output_decode", "stage2_output_decode"}
    assert all(torch.equal(classifier.backbone.state_dict()[name], encoder[name]) for name in report.matched)


def test_layers_and_weight_decay_equal_the_official_ones(classifier):
    # In Alpha-VL/ConvMAE, util/lr_decay.py, embeddings and stages 1 and 2 are layer 0, block i of stage 3 is layer
    # i + 1, and the norm after pooling and the linear layer are the last layer. One-dimensional parameters and position
    # embeddings have no weight decay.
    expected = {"patch_embed1": 3, "patch_embed2": 3, "patch_embed3": 3, "patch_embed4": 3, "pos_embed": 3}
    expected |= {"blocks1": 3, "blocks2": 3, "blocks3.0": 2, "blocks3.1": 1, "fc_norm": 0, "head": 0}
    names = {id(p): name for name, p in classifier.backbone.named_parameters()}
    checked = set()
    for group in layer_decay_groups(classifier, 0.05, 0.5):
        for parameter in group["params"]:
            name = names[id(parameter)]
            power = next(value for prefix, value in expected.items() if name.startswith(prefix))
            assert group["lr_scale"] == 0.5**power, name
            assert group["weight_decay"] == (0.0 if parameter.ndim == 1 or name == "pos_embed" else 0.05), name
            checked.add(name)
    assert checked == set(names.values())


def test_drop_path_rates_rise_over_the_blocks_of_all_stages(classifier):
    rates = [branch.rate for branch in drop_paths(classifier.backbone)]
    assert rates == pytest.approx([rate for i in range(1, 6) for rate in [0.1 * i] * 2])  # the first block has rate 0


def test_a_samples_output_depends_only_on_its_own_random_numbers(classifier):
    classifier.double().train()
    with torch.no_grad():
        classifier.linear.weight.normal_()
    images, numbers = torch.randn(4, 3, 48, 48, dtype=torch.float64), torch.rand(4, classifier.branches)
    parts = torch.cat([classifier(images[:3], numbers[:3]), classifier(images[3:], numbers[3:])])
    torch.testing.assert_close(classifier(images, numbers), parts)


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_size": 50}, "image_size (50) must be a multiple of the product of patch_sizes (16)"),
        ({"heads": 3}, "the last value of widths (16) must be a multiple of heads (3)"),
        ({"widths": (8, 12, 18), "heads": 2}, "the last value of widths (18) must be a multiple of 4"),
    ],
)
def test_an_impossible_shape_is_rejected_with_a_clear_message(change, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        ConvMae(**SETTINGS.model_dump() | change)


def test_a_convolutional_network_of_timm_cannot_be_pretrained():
    cnn = TimmNetwork(name="r", kind="timm", model="resnet18", image_size=32, norm_batch=8, center_crop=1.0)
    with pytest.raises(UserError, match="r: a backbone of kind timm has no masked autoencoder; set `pretrain: null`"):
        build_autoencoder(cnn, PRETRAIN)
