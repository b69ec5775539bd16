"""Weights files in which a network has a prefix or a wrapper, or stands beside another network."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from mem.errors import UserError
from mem.models.backbones.frozen import frozen_timm
from mem.models.mae import MaskedAutoencoder
from mem.models.weights.external import read_checkpoint
from mem.models.weights.initialise import initialise_from
from tests.models.test_external_weights import DECODER, SMALL, assert_backbone_equals, classifier


def two_networks(first: str, second: str) -> dict[str, Tensor]:
    """Return the tensors of two networks of the same architecture, each with a prefix."""
    weights = timm.create_model("test_resnet", num_classes=0).state_dict()
    return {prefix + name: torch.rand_like(v.float()) for prefix in (first, second) for name, v in weights.items()}


@pytest.mark.parametrize(
    ("other", "evaluated"), [("encoder_k.", "encoder_q."), ("student.backbone.", "teacher.backbone.")]
)
def test_of_two_networks_in_a_file_the_one_that_is_evaluated_is_loaded(other, evaluated):
    tensors, model = two_networks(other, evaluated), frozen_timm("test_resnet", 32)
    report = initialise_from(model, tensors, "two.pth")
    assert torch.equal(model.backbone.state_dict()["bn1.weight"], tensors[f"{evaluated}bn1.weight"])
    assert len(report.left_over) == len(tensors) // 2


def test_two_networks_in_a_file_with_unknown_prefixes_are_an_error():
    with pytest.raises(UserError, match=r"two\.pth: the file contains several networks .* prefixes first\., second\."):
        initialise_from(frozen_timm("test_resnet", 32), two_networks("first.", "second."), "two.pth")


@pytest.mark.parametrize(
    "wrappers", [("target_encoder",), ("module",), ("state_dict", "model"), ("student",), ("state_dict_ema",)]
)
def test_wrappers_of_training_programs_are_removed(tmp_path, wrappers):
    weights = dict(classifier(seed=0).backbone.state_dict())
    content: dict[str, Any] = {f"module.{name}": value for name, value in weights.items()}
    for wrapper in wrappers:
        content = {wrapper: content, "epoch": 1}
    torch.save(content | {"predictor": {"weight": torch.zeros(2)}}, tmp_path / "w.pth")
    model = classifier()
    initialise_from(model, read_checkpoint(tmp_path / "w.pth"), "w.pth")
    assert_backbone_equals(model, weights)


@pytest.mark.parametrize(("first", "second"), [("model", "model_ema"), ("teacher", "student")])
def test_of_several_wrappers_the_first_is_read(tmp_path, first, second):
    contents = {second: {"weight": torch.zeros(1)}, first: {"weight": torch.ones(1)}}
    torch.save(contents, tmp_path / "w.pth")
    assert torch.equal(read_checkpoint(tmp_path / "w.pth")["weight"], torch.ones(1))


def test_an_autoencoder_of_this_project_loads_with_its_prefix(tmp_path):
    torch.manual_seed(0)
    source = MaskedAutoencoder(SMALL, DECODER, 0.5, True)
    torch.save(source.state_dict(), tmp_path / "mae.pth")
    target = MaskedAutoencoder(SMALL, DECODER, 0.5, True)
    assert initialise_from(target, read_checkpoint(tmp_path / "mae.pth"), "mae.pth").missing == ()
    model = classifier()
    report = initialise_from(model, read_checkpoint(tmp_path / "mae.pth"), "mae.pth")
    for encoder in (model.backbone, target.encoder):
        assert torch.equal(encoder.blocks[1].mlp.fc1.weight, source.encoder.blocks[1].mlp.fc1.weight)  # type: ignore
    assert "decoder_pred.weight" in report.left_over and "norm.weight" in report.left_over


def test_a_file_of_jax_is_refused(tmp_path):
    (tmp_path / "B_16.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"B_16\.npz: NumPy files of JAX programs are not read\. Use the same weights"):
        read_checkpoint(tmp_path / "B_16.npz")
