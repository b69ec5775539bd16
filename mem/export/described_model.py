"""Build an image classifier from the description of an export and its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor

import mem
from mem import config
from mem.data.beton.encoding import Encoding
from mem.errors import UserError
from mem.export.classifier import ImageClassifier
from mem.export.onnx_model import OnnxClassifier
from mem.heads.base import Head
from mem.heads.mem.modulated import ModulatedHead
from mem.longtail import SHOT_NAMES
from mem.models.backbones import BackboneClassifier, FrozenBackbone, build, build_frozen
from mem.models.pixels import Pixels
from mem.models.weights.tensors import load_into

FORMAT = 1
"""Version of the folder format. Increase it when the meaning of a file changes."""


@dataclass(frozen=True)
class ExportedModel:
    """An image classifier with its class and group names and its image preparation."""

    classifier: ImageClassifier | OnnxClassifier
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    """Names of MEM's groups; empty for other heads."""
    encoding: Encoding
    """Format in which the dataset stores images."""
    side: int
    """Height and width of the classifier's input, in pixels."""
    center_crop: float
    about: dict[str, Any]
    """Content of export.json."""


def build_model(about: Mapping[str, Any], backbone_weights: Mapping[str, Tensor], head: Head) -> ExportedModel:
    """Build the classifier that an export.json describes.

    Args:
        about: Content of export.json.
        backbone_weights: Weights of the backbone, with its classifier.
        head: The head.

    Raises:
        UserError: The weights do not fit.
    """
    images = about["images"]
    normalisation = Pixels(tuple(images["pixel_mean"]), tuple(images["pixel_std"]))
    classifier = ImageClassifier(build_backbone(about, backbone_weights), head, normalisation)
    return described(about, classifier, groups_of(head))


def backbone_settings(about: Mapping[str, Any]) -> config.ImageBackbone:
    """Return the settings of the backbone that an export.json describes."""
    return TypeAdapter(config.ImageBackbone).validate_python(about["backbone"])


def build_backbone(about: Mapping[str, Any], weights: Mapping[str, Tensor]) -> BackboneClassifier | FrozenBackbone:
    """Build the backbone that an export.json describes, and load its weights."""
    backbone = backbone_settings(about)
    if isinstance(backbone, config.CustomModule):
        raise UserError("An exported model does not execute code, but its backbone is a module. Export the head again.")
    if about.get("frozen"):
        frozen = build_frozen(backbone, len(about["classes"]))
        load_into(frozen.backbone, weights)
        return frozen
    experts = config.Experts(**about["experts"]) if "experts" in about else None
    tuner = TypeAdapter(config.Tuner).validate_python(about.get("tuner", "all"))
    model = build(backbone, len(about["classes"]), 0.0, about.get("cosine_scale"), experts, tuner)
    load_into(model.backbone, weights)
    return model


def described(
    about: Mapping[str, Any], classifier: ImageClassifier | OnnxClassifier, groups: tuple[str, ...]
) -> ExportedModel:
    """Return a classifier with the names and the image preparation of an export.json."""
    images, backbone = about["images"], about["backbone"]
    return ExportedModel(
        classifier,
        tuple(about["classes"]),
        groups,
        Encoding(images["storage"], images["jpeg_quality"], images["short_side"], images["resample"]),
        backbone["image_size"],
        backbone["center_crop"],
        dict(about),
    )


def class_labels(classes: Sequence[str]) -> list[str]:
    """Return distinct names of classes. If several classes share a name, the class number is appended."""
    counts = Counter(classes)
    return [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(classes)]


def groups_of(head: Head) -> tuple[str, ...]:
    """Return the names of MEM's groups, or nothing for other heads."""
    if not isinstance(head, ModulatedHead):
        return ()
    if head.settings.partition == "shot":
        return SHOT_NAMES
    return tuple(f"group {g}" for g in range(head.settings.groups))


@contextmanager
def describing(path: Path) -> Iterator[None]:
    """Raise errors of a damaged description as `UserError`."""
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{path}: cannot be read: {cause}. Export the head again.") from None


def check_format(about: Mapping[str, Any], folder: Path) -> None:
    """Check that this version reads an export.

    Raises:
        UserError: The export has another format.
    """
    if about["format"] != FORMAT:
        raise UserError(
            f"{folder}: this export has format {about['format']} (written by mem {about['mem']}), but mem "
            f"{mem.__version__} reads format {FORMAT}. Export the head again."
        )
