"""Load the forms of an export that other libraries define: timm's folder and ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mem.errors import UserError
from mem.export.classifier import ImageClassifier
from mem.export.described_model import (
    ExportedModel,
    backbone_settings,
    build_backbone,
    check_format,
    described,
    describing,
)
from mem.export.onnx_model import ABOUT_KEY, GROUPS_KEY, OnnxClassifier
from mem.export.timm_equivalent import architecture_of, classifier_prefix, complete_network
from mem.export.timm_folder import CONFIG, WEIGHTS, read_timm_about
from mem.heads.base import Linear
from mem.models.backbones import BackboneClassifier, FrozenBackbone, build_frozen
from mem.models.pixels import Pixels
from mem.models.weights.tensors import load_weights


def load_timm_folder(folder: Path) -> ExportedModel:
    """Load the model from a folder in timm's form that mem wrote.

    Raises:
        UserError: mem did not write the folder, or a file is missing or damaged.
    """
    with describing(folder / CONFIG):
        about = read_timm_about(folder)
        if about is None:
            raise UserError(
                f"{folder}: `mem export` did not write this {CONFIG}, so mem does not know how to prepare images for "
                "the network. Load the network with timm."
            )
        check_format(about, folder)
        # The weights are those of the plain network with a linear classifier, for every head and tuner.
        plain = {name: value for name, value in about.items() if name not in ("cosine_scale", "tuner")}
        model, head = _split(plain, load_weights(folder / WEIGHTS))
        images = about["images"]
        normalisation = Pixels(tuple(images["pixel_mean"]), tuple(images["pixel_std"]))
        return described(about, ImageClassifier(model, head, normalisation), ())


def _split(
    about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[BackboneClassifier | FrozenBackbone, Linear]:
    """Return the backbone and the head in the weights of a timm network."""
    if not (about.get("frozen") and about["backbone"]["kind"] == "timm"):
        model = build_backbone(about, tensors)
        assert isinstance(model, BackboneClassifier)
        bias = model.linear.bias
        return model, Linear(model.linear.weight.detach(), None if bias is None else bias.detach())
    # The backbone was built without a classifier.
    backbone = backbone_settings(about)
    prefix = classifier_prefix(complete_network(*architecture_of(backbone), len(about["classes"])))
    head = Linear(tensors[f"{prefix}weight"], tensors.get(f"{prefix}bias"))
    with torch.device("meta"):
        names = build_frozen(backbone, len(about["classes"])).backbone.state_dict()
    return build_backbone(about, {name: value for name, value in tensors.items() if name in names}), head


def load_onnx(path: Path) -> ExportedModel:
    """Load an ONNX model that mem wrote. ONNX Runtime computes its predictions.

    Raises:
        UserError: mem did not write the file, or it is damaged, or the extra `onnx` is not installed.
    """
    classifier = OnnxClassifier(path)
    with describing(path):
        if ABOUT_KEY not in classifier.metadata:
            raise UserError(
                f"{path}: `mem export` did not write this model, so mem does not know how to prepare images for it. "
                "Pass a model that `mem export --format onnx` wrote."
            )
        about = json.loads(classifier.metadata[ABOUT_KEY])
        check_format(about, path)
        return described(about, classifier, tuple(json.loads(classifier.metadata[GROUPS_KEY])))
