"""Checkpoints from other projects: file formats, loading, and invalid files."""

from __future__ import annotations

import argparse
import pathlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mem.config import Decoder, TimmNetwork, VisionTransformer
from mem.errors import UserError
from mem.models.backbones import BackboneClassifier, build
from mem.models.mae import MaskedAutoencoder
from mem.models.weights.external import read_checkpoint
from mem.models.weights.initialise import initialise_from
from mem.models.weights.positions import resize_positions

SMALL = VisionTransformer(
    name="v", kind="vit", image_size=16, patch_size=4, width=16, depth=2, heads=2, center_crop=1.0
)
DECODER = Decoder(width=8, depth=1, heads=2)


def classifier(classes: int = 5, side: int = 16, seed: int = 1) -> BackboneClassifier:
    torch.manual_seed(seed)
    return build(SMALL.model_copy(update={"image_size": side}), classes)


@pytest.fixture
def finetuned() -> dict[str, torch.Tensor]:
    """Weights like those that MAE's main_finetune.py saves, with a linear layer for a different number of classes."""
    return dict(classifier(classes=7, seed=0).backbone.state_dict())


def assert_backbone_equals(model: BackboneClassifier, weights: dict[str, torch.Tensor]) -> None:
    for name, value in model.backbone.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(value, weights[name]), name


def official_form(weights: dict[str, torch.Tensor]) -> dict:
    """The checkpoint that MAE's util/misc.py saves: weights, optimizer, epoch, scaler, and arguments as a namespace."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(batch_size=32, blr=5e-4, betas=(0.9, 0.95), device="cuda", clip_grad=None)
    return {"model": weights, "optimizer": optimizer.state_dict(), "epoch": 99, "scaler": {}, "args": arguments}


@pytest.mark.parametrize("form", ["official", "plain", "ddp", "compiled", "lightning", "old", "safetensors"])
def test_a_checkpoint_loads_in_each_format(tmp_path, finetuned, form):
    path = tmp_path / "weights.pth"
    match form:
        case "official":
            torch.save(official_form(finetuned), path)
        case "plain":
            torch.save(finetuned, path)
        case "ddp":
            torch.save({"model": {f"module.{name}": v for name, v in finetuned.items()}}, path)
        case "compiled":
            torch.save({f"_orig_mod.{name}": v for name, v in finetuned.items()}, path)
        case "lightning":
            torch.save({"state_dict": finetuned, "epoch": 3}, path)
        case "old":
            torch.save(finetuned, path, _use_new_zipfile_serialization=False)
        case "safetensors":
            path = tmp_path / "weights.safetensors"
            save_file(finetuned, path)
    model = classifier()
    report = initialise_from(model, read_checkpoint(path), str(path))
    assert_backbone_equals(model, finetuned)
    assert set(report.missing) == {"head.weight", "head.bias"}
    assert report.left_over == ()
    assert len(report.matched) == len(finetuned) - 2
    assert report.document()["missing"] == ["head.weight", "head.bias"]


def test_the_linear_layer_keeps_its_initial_values_even_with_the_same_number_of_classes(finetuned):
    model = classifier(classes=7)
    before = model.linear.weight.detach().clone()
    initialise_from(model, finetuned, "weights.pth")
    assert torch.equal(model.linear.weight, before)


def test_a_backbone_takes_the_encoder_of_a_pretrained_autoencoder(tmp_path):
    torch.manual_seed(0)
    source = MaskedAutoencoder(SMALL, DECODER, 0.5, True)
    official = {name.removeprefix("encoder."): value for name, value in source.state_dict().items()}
    torch.save({"model": official}, tmp_path / "mae.pth")
    model = classifier()
    report = initialise_from(model, read_checkpoint(tmp_path / "mae.pth"), "mae.pth")
    assert torch.equal(model.backbone.blocks[1].mlp.fc1.weight, source.encoder.blocks[1].mlp.fc1.weight)
    assert set(report.missing) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert {name.split(".")[0] for name in report.left_over} == {
        "norm", "mask_token", "decoder_pos_embed", "decoder_embed", "decoder_blocks", "decoder_norm", "decoder_pred",
    }  # fmt: skip


@pytest.mark.parametrize("decoder", [True, False])
def test_pretraining_starts_from_an_autoencoder_with_or_without_its_decoder(decoder):
    torch.manual_seed(0)
    source = MaskedAutoencoder(SMALL, DECODER, 0.5, True).state_dict()
    official = {name.removeprefix("encoder."): v for name, v in source.items() if decoder or "encoder." in name}
    torch.manual_seed(1)
    model = MaskedAutoencoder(SMALL, DECODER, 0.5, True)
    report = initialise_from(model, official, "mae.pth")
    assert report.left_over == ()
    assert all(name.startswith(("decoder_", "mask_token")) for name in report.missing)
    assert (report.missing == ()) == decoder
    for name in report.matched:
        assert torch.equal(model.state_dict()[name], source[name])


def test_a_torchvision_resnet_without_batch_counters_loads(tmp_path):
    import torchvision

    settings = TimmNetwork(name="r", kind="timm", model="resnet18", image_size=32, norm_batch=2, center_crop=1.0)
    torch.manual_seed(0)
    source = torchvision.models.resnet18(weights=None).eval()
    old = {name: v for name, v in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "resnet18.pth")
    model = build(settings, 5).eval()
    report = initialise_from(model, read_checkpoint(tmp_path / "resnet18.pth"), "resnet18.pth")
    assert set(report.missing) == {"fc.weight", "fc.bias"}
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    source.fc = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(model.double().features(images)[0], source.double()(images))


# --- position embeddings ---------------------------------------------------------------------------------------------


def test_position_embeddings_of_another_image_size_are_interpolated(finetuned):
    model = classifier(side=24)
    report = initialise_from(model, finetuned, "weights.pth")
    assert "pos_embed" in report.matched
    assert torch.equal(model.backbone.pos_embed[:, :1], finetuned["pos_embed"][:, :1])
    images = torch.randn(1, 3, 24, 24)
    assert model.eval()(images).shape == (1, 5)


def test_interpolation_preserves_a_constant_and_a_symmetric_grid():
    constant = torch.full((1, 17, 8), 0.5)
    torch.testing.assert_close(resize_positions(constant, 37, prefix=1), torch.full((1, 37, 8), 0.5))
    grid = torch.randn(1, 16, 8).view(1, 4, 4, 8)
    grid = (grid + grid.flip(1)) / 2
    larger = resize_positions(grid.flatten(1, 2), 64, prefix=0).view(1, 8, 8, 8)
    torch.testing.assert_close(larger, larger.flip(1))
    torch.testing.assert_close(resize_positions(grid.flatten(1, 2), 16, prefix=0), grid.flatten(1, 2))


# --- invalid files -----------------------------------------------------------------------------------------------


def error_message(path: Path) -> str:
    with pytest.raises(UserError) as error:
        initialise_from(classifier(), read_checkpoint(path), str(path))
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("new", [True, False])
def test_a_truncated_file_is_named(tmp_path, finetuned, share, new):
    path = tmp_path / "cut.pth"
    torch.save({"model": finetuned}, path, _use_new_zipfile_serialization=new)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "damaged" in error_message(path)


def test_a_truncated_safetensors_file_is_named(tmp_path, finetuned):
    path = tmp_path / "cut.safetensors"
    save_file(finetuned, path)
    path.write_bytes(path.read_bytes()[:-10])
    assert "cannot be read as safetensors" in error_message(path)


class Malicious:
    """An object that creates a file when it is unpickled without restrictions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return pathlib.Path.touch, (self.folder / "ran",)


def test_a_file_with_code_is_rejected_and_the_code_does_not_run(tmp_path, finetuned):
    path = tmp_path / "malicious.pth"
    torch.save({"model": finetuned, "extra": Malicious(tmp_path)}, path)
    assert "only tensors and plain values are read" in error_message(path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # unrestricted loading runs the code


def test_a_web_page_an_empty_file_and_a_text_are_recognised(tmp_path):
    page = tmp_path / "page.pth"
    page.write_text("\n<!DOCTYPE html><html>Virus scan warning</html>")
    assert "this is a web page, not a checkpoint" in error_message(page)
    empty = tmp_path / "empty.pth"
    empty.touch()
    assert "the file is empty" in error_message(empty)
    text = tmp_path / "text.pth"
    text.write_text("these are not the weights you are looking for")
    assert "damaged" in error_message(text)
    assert "weights file not found" in error_message(tmp_path / "none.pth")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_recognised(tmp_path, name):
    content = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name}: this is a pointer of Git LFS, not the file itself\. Run `git lfs"):
        read_checkpoint(tmp_path / name, shapes_only=True)


def test_weights_of_another_architecture_are_recognised(tmp_path):
    import timm

    path = tmp_path / "resnet.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    message = error_message(path)
    assert "the weights belong to a different architecture: 0 of 122 keys match" in message
    assert "conv1.weight" in message
    assert "cls_token" in message


def test_for_weights_of_another_size_the_keys_are_listed(tmp_path):
    path = tmp_path / "wide.pth"
    torch.save(build(SMALL.model_copy(update={"width": 32}), 5).backbone.state_dict(), path)
    message = error_message(path)
    assert "cls_token has shape (1, 1, 32); the model expects (1, 1, 16)" in message
    assert "more" in message.splitlines()[-1]


def test_the_message_about_a_file_without_tensors_lists_its_keys(tmp_path):
    path = tmp_path / "no.pth"
    torch.save({"epoch": 3, "best": 0.5}, path)
    assert "contains no named tensors (keys: epoch, best)" in error_message(path)
    torch.save([1, 2], path)
    assert "contains list; expected a dictionary of tensors" in error_message(path)
