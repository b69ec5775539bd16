"""Weights files with the names of other projects: miniatures in their form give the outputs of the original network."""

from __future__ import annotations

import argparse
import copy
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

from mem.errors import UserError
from mem.models.backbones.frozen import frozen_timm
from mem.models.weights.conversion import map_by_name
from mem.models.weights.external import read_checkpoint
from mem.models.weights.initialise import initialise_from
from mem.models.weights.network_names import NetworkNames
from mem.models.weights.positions import resize_position_tables
from mem.models.weights.timm_conversion import timm_conversion
from tests.models.test_external_weights import assert_backbone_equals, classifier

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def tiny(name: str, side: int, **options: Any) -> nn.Module:
    """Build a ViT of timm with two narrow blocks for images of `side` pixels."""
    return timm.create_model(name, img_size=side, embed_dim=16, depth=2, num_heads=2, **options)


def with_random_values(network: nn.Module) -> nn.Module:
    """Give every parameter and buffer of a network its own values, so that exchanged tensors change the output."""
    generator = torch.Generator().manual_seed(1)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network.eval()


def loaded(tensors: dict[str, Tensor], network: nn.Module, name: str, classifiers: tuple[str, ...]) -> Tensor:
    """Load weights into a network with the classifier removed, and return its features of `IMAGES`."""
    mapped = map_by_name(tensors, NetworkNames(network.state_dict(), classifiers, (), network), name)
    found = {n: v for n, v in mapped.tensors.items() if not n.startswith(classifiers)}
    missing, unexpected = network.load_state_dict(found, strict=False)
    assert not unexpected
    assert all(each.startswith(classifiers) or each.endswith("num_batches_tracked") for each in missing)
    assert mapped.how
    with torch.no_grad():
        return network.eval().forward_head(network.forward_features(IMAGES), pre_logits=True)  # type: ignore[operator]


# --- torchvision -------------------------------------------------------------------------------------------------


def torchvision_vit() -> nn.Module:
    network = torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 64, num_classes=7)
    network.heads[-1] = nn.Linear(16, 7)  # initialised to zero by torchvision
    return network


def torchvision_swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=7)


def torchvision_convnext() -> nn.Module:
    stages = [CNBlockConfig(8, 16, 2), CNBlockConfig(16, 8, 1), CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return torchvision.models.ConvNeXt(stages, num_classes=7)


def timm_swin(window_size: int = 4) -> nn.Module:
    options: dict[str, Any] = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": window_size}
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=32, **options)


def timm_convnext() -> nn.Module:
    return timm.create_model("convnext_tiny", depths=(2, 1, 1, 1), dims=(8, 16, 8, 16))


@pytest.mark.parametrize(
    ("original", "network", "name", "last"),
    [
        (torchvision_vit, partial(tiny, "vit_base_patch16_224", 32), "vit_base_patch16_224", "heads"),
        (torchvision_swin, timm_swin, "swin_tiny_patch4_window7_224", "head"),
        (torchvision_convnext, timm_convnext, "convnext_tiny", "classifier.2"),
        (torchvision.models.regnet_y_400mf, partial(timm.create_model, "regnety_004"), "regnety_004", "fc"),
        (torchvision.models.regnet_x_400mf, partial(timm.create_model, "regnetx_004_tv"), "regnetx_004_tv", "fc"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model.backbone."])
def test_a_file_of_torchvision_gives_the_same_features(original, network, name, last, prefix):
    source = with_random_values(original())
    weights = {f"{prefix}{each}": value.clone() for each, value in source.state_dict().items()}
    features = loaded(weights, network(), name, ("head.",) if last != "classifier.2" else ("head.fc.",))
    source.set_submodule(last, nn.Identity())
    with torch.no_grad():
        torch.testing.assert_close(features, source(IMAGES))


def test_shapes_of_a_safetensors_file_tell_tables_of_indices_from_weights(tmp_path):
    """The check of a study reads shapes only. It must leave out the same tensors as the stage."""
    weights = torchvision_swin().state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "swin.safetensors")
    shapes = read_checkpoint(tmp_path / "swin.safetensors", shapes_only=True)
    network = timm_swin()
    names = NetworkNames(network.state_dict(), ("head.",), (), network)
    mapped = [map_by_name(each, names, "swin_tiny_patch4_window7_224") for each in (weights, shapes)]
    assert mapped[0].tensors.keys() == mapped[1].tensors.keys() == network.state_dict().keys()
    assert set(mapped[0].left_over) == set(mapped[1].left_over)


# --- CLIP --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip() -> CLIP:
    """A small CLIP model of open_clip. Its visual network has the structure and the names of OpenAI's."""
    vision = CLIPVisionCfg(layers=2, width=16, head_width=8, patch_size=16, image_size=32)
    text = CLIPTextCfg(context_length=4, vocab_size=9, width=8, heads=2, layers=1)
    return with_random_values(CLIP(12, vision, text, output_dict=False))  # type: ignore[return-value]


def clip_features(clip: CLIP) -> Tensor:
    """Return the features before the projection into the space of texts."""
    projection, clip.visual.proj = clip.visual.proj, None  # type: ignore[union-attr]
    with torch.no_grad():
        features = clip.visual(IMAGES)
    clip.visual.proj = projection  # type: ignore[union-attr]
    return features


CLIP_VIT = "vit_base_patch16_clip_224"


@pytest.mark.parametrize("form", ["open_clip", "training", "visual"])
def test_the_visual_network_of_clip_gives_the_same_features(clip, tmp_path, form):
    weights = dict(clip.state_dict())
    match form:
        case "training":  # open_clip's own checkpoints of distributed training
            weights = {f"module.{name}": value for name, value in weights.items()}
        case "visual":
            weights = {name.removeprefix("visual."): v for name, v in weights.items() if name.startswith("visual.")}
    torch.save({"epoch": 1, "state_dict": weights}, tmp_path / "clip.pt")
    features = loaded(read_checkpoint(tmp_path / "clip.pt"), tiny(CLIP_VIT, 32), CLIP_VIT, ("head.",))
    torch.testing.assert_close(features, clip_features(clip))


class OpenaiClip(nn.Module):
    """A CLIP model with three numbers of its form, which OpenAI saves too."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.visual, self.transformer, self.ln_final = clip.visual, clip.transformer, clip.ln_final
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(32))

    def forward(self, images: Tensor) -> Tensor:
        return self.visual(images)


@pytest.fixture(scope="module")
def archive(clip, tmp_path_factory) -> tuple[Path, dict[str, Tensor]]:
    """A TorchScript archive in half precision, as OpenAI saves CLIP, and its content."""
    path = tmp_path_factory.mktemp("clip") / "ViT-B-16.pt"
    model = OpenaiClip(copy.deepcopy(clip))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        traced: Any = torch.jit.trace(model, IMAGES, check_trace=False)
        torch.jit.save(traced.half(), path)
    return path, dict(traced.state_dict())


def test_openais_archive_is_read_without_running_its_code(archive, monkeypatch):
    path, expected = archive
    monkeypatch.setattr(torch.jit, "load", None)
    weights, shapes = read_checkpoint(path), read_checkpoint(path, shapes_only=True)
    assert weights.keys() == shapes.keys() == expected.keys()
    assert weights["visual.proj"].dtype == torch.float16
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name
        assert (shapes[name].shape, shapes[name].device.type) == (value.shape, "meta")
    network = tiny(CLIP_VIT, 32)
    mapped = map_by_name(weights, NetworkNames(network.state_dict(), ("head.",), (), network), CLIP_VIT)
    assert mapped.notes == (
        "OpenAI trained CLIP with QuickGELU, which vit_base_patch16_clip_224 does not have. Use the architecture of "
        "timm with `clip_quickgelu` in its name.",
    )
    assert {"transformer.resblocks.0.ln_1.weight", "ln_final.bias"} <= set(mapped.left_over)
    assert not any(name.startswith("visual.") for name in mapped.left_over)
    assert mapped.pairs["blocks.1.attn.qkv.weight"] == "visual.transformer.resblocks.1.attn.in_proj_weight"


def test_a_damaged_archive_and_one_with_other_objects_are_errors(archive, tmp_path):
    content = archive[0].read_bytes()
    path = tmp_path / "clip.pt"
    path.write_bytes(content.replace(b"HalfStorage", b"XxxxStorage"))
    with pytest.raises(UserError, match=r"clip\.pt: damaged or incomplete \(Bad CRC-32"):
        read_checkpoint(path)
    with zipfile.ZipFile(archive[0]) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"_rebuild_tensor_v2", b"_rebuild_parameter"))
    with pytest.raises(UserError, match=r"clip\.pt: contains a Python object \(torch\._utils\._rebuild_parameter\)"):
        read_checkpoint(path)


def test_weights_for_other_patches_are_refused(clip):
    weights = dict(clip.state_dict())
    network = tiny("vit_base_patch32_clip_224", 64)
    names = NetworkNames(network.state_dict(), ("head.",), (), network)
    message = r"the weights are for patches of 16 x 16 pixels, and vit_base_patch32_clip_224 has patches of 32 x 32"
    with pytest.raises(UserError, match=message):
        map_by_name(weights, names, "vit_base_patch32_clip_224")


def test_open_clip_with_a_network_of_timm(tmp_path):
    """Files of SigLIP and other models whose visual network is one of timm."""
    source = with_random_values(timm.create_model("test_vit", num_classes=0))
    weights = {f"visual.trunk.{name}": value for name, value in source.state_dict().items()}
    torch.save(weights | {"text.proj": torch.zeros(3), "logit_scale": torch.zeros(())}, tmp_path / "open_clip.bin")
    model = frozen_timm("test_vit", 160)
    report = initialise_from(model, read_checkpoint(tmp_path / "open_clip.bin"), "open_clip.bin")
    assert (report.missing, report.left_over) == ((), ("text.proj", "logit_scale"))
    assert report.conversion == "prefix `visual.trunk.` removed"
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


# --- DINO --------------------------------------------------------------------------------------------------------


def test_the_teacher_of_a_checkpoint_of_dino_is_loaded(tmp_path):
    """DINO's main_dino.py saves both networks, with their projection heads, the optimizer and the arguments."""
    teacher, student = (dict(classifier(seed=seed).backbone.state_dict()) for seed in (3, 4))
    heads = {"head.mlp.0.weight": torch.zeros(4, 16), "head.last_layer.weight_g": torch.zeros(9, 1)}
    content = {
        "student": {f"module.backbone.{n}": v for n, v in student.items() if "head" not in n} | heads,
        "teacher": {f"backbone.{n}": v for n, v in teacher.items() if "head" not in n} | heads,
        "optimizer": {"state": {}},
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small"),
    }
    torch.save(content, tmp_path / "checkpoint.pth")
    model = classifier()
    report = initialise_from(model, read_checkpoint(tmp_path / "checkpoint.pth"), "checkpoint.pth")
    assert_backbone_equals(model, teacher)
    assert report.left_over == ("head.mlp.0.weight", "head.last_layer.weight_g")
    assert report.pairs["blocks.0.norm1.bias"] == "backbone.blocks.0.norm1.bias"


REGISTERS = "vit_small_patch14_reg4_dinov2"


def dinov2_form(network: nn.Module, class_position: Tensor) -> dict[str, Tensor]:
    """Return weights of timm's network as DINOv2's repository names them.

    The class token has a position there, which timm adds to the token.
    """
    state = {name: value.clone() for name, value in network.state_dict().items() if not name.startswith("head.")}
    state["register_tokens"] = state.pop("reg_token")
    state["cls_token"] -= class_position
    state["pos_embed"] = torch.cat([class_position, state["pos_embed"]], dim=1)
    return state | {"mask_token": torch.zeros(1, 16)}


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_dinov2_with_registers_gives_the_same_features(tmp_path, prefix):
    source = with_random_values(tiny(REGISTERS, 28))
    weights = {f"{prefix}{n}": v for n, v in dinov2_form(source, torch.rand(1, 1, 16)).items()}
    extra = {"dino_head.mlp.0.weight": torch.zeros(2, 2)} if prefix else {}
    torch.save({"teacher": weights | extra} if prefix else weights, tmp_path / "dinov2.pth")
    tensors = read_checkpoint(tmp_path / "dinov2.pth")
    network = tiny(REGISTERS, 28)
    mapped = map_by_name(tensors, NetworkNames(network.state_dict(), (), (), network), REGISTERS)
    assert mapped.pairs["cls_token"] == f"{prefix}cls_token + {prefix}pos_embed"
    assert mapped.left_over == (f"{prefix}mask_token", *extra)
    network.load_state_dict(dict(mapped.tensors))
    images = IMAGES[:, :, :28, :28]
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), source(images))


def test_another_image_size_gives_the_same_weights_for_each_form_of_a_file():
    """The positions are interpolated by mem, not by timm's conversion, whichever names a file has."""
    source = with_random_values(tiny(REGISTERS, 518))
    larger = tiny(REGISTERS, 56)
    names = NetworkNames(larger.state_dict(), (), (), larger)
    expected = resize_position_tables(dict(source.state_dict()), larger)
    mapped = map_by_name(dinov2_form(source, torch.rand(1, 1, 16)), names, REGISTERS)
    found = resize_position_tables(dict(mapped.tensors), larger)
    torch.testing.assert_close(found, expected)
    assert "interpolated" not in mapped.how


def test_the_report_says_if_timm_interpolates():
    """timm does so if the file is neither for the default image size nor for that of the network."""
    source, network = with_random_values(tiny(REGISTERS, 84)), tiny(REGISTERS, 56)
    names = NetworkNames(network.state_dict(), (), (), network)
    mapped = map_by_name(dinov2_form(source, torch.rand(1, 1, 16)), names, REGISTERS)
    assert mapped.how.endswith(", interpolated by timm")
    assert "pos_embed" not in mapped.pairs
    assert mapped.tensors["pos_embed"].shape == network.state_dict()["pos_embed"].shape


def test_tables_that_timm_interpolates_without_a_function_of_pytorch_come_from_those_of_the_file():
    """Swin's authors have the layers between stages at the end of a stage; timm has them at the start."""
    state = with_random_values(timm_swin(window_size=3)).state_dict()
    tensors = {name.replace("layers.1.downsample", "layers.0.downsample"): value for name, value in state.items()}
    network = timm_swin()
    names = NetworkNames(network.state_dict(), ("head.",), (), network)
    mapped = map_by_name(tensors, names, "swin_tiny_patch4_window7_224")
    table = "layers.1.blocks.0.attn.relative_position_bias_table"
    assert mapped.how.endswith(", interpolated by timm")
    assert mapped.tensors[table].shape == network.state_dict()[table].shape != state[table].shape
    assert table not in mapped.pairs and table not in mapped.left_over
    assert mapped.pairs["layers.1.downsample.norm.bias"] == "layers.0.downsample.norm.bias"


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("vit_base_patch16_clip_224", "checkpoint_filter_fn"),
        ("deit3_small_patch16_224", "checkpoint_filter_fn"),  # with arguments for DeiT III
        ("crossvit_9_240", "_create_crossvit.<locals>.pretrained_filter_fn"),
        ("vgg11", "_filter_fn"),
        ("test_resnet", None),
    ],
)
def test_the_conversion_is_the_one_that_timm_uses_for_the_architecture(name, function):
    found: Callable[..., Any] | None = timm_conversion(name)
    found = found.func if isinstance(found, partial) else found
    assert (None if found is None else found.__qualname__) == function
