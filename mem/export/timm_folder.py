"""The form in which timm and the Hugging Face Hub store a network.

config.json         architecture, classes, preprocessing (`pretrained_cfg`), and the content of export.json as `mem`
model.safetensors   the weights, with the head as the classifier
README.md           the model card
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from mem import files
from mem.errors import UserError
from mem.export.classifier import ImageClassifier, difference_above_tolerance
from mem.export.described_model import class_labels
from mem.export.timm_equivalent import OTHER_FORMATS, TimmEquivalent
from mem.models.class_embeddings.names import names_in_words

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
ABOUT_KEY = "mem"
"""Key of config.json with the content of export.json. timm ignores it; `mem predict` reads it."""


def interpolation_of(images: Mapping[str, Any], image_size: int, center_crop: float) -> str:
    """Return the interpolation of timm that is nearest to the resizing of images in mem.

    mem shrinks an image as in the conversion, crops the central square and resizes it (OpenCV's INTER_AREA). timm
    resizes the whole image once and crops it. docs/how-to/export.md lists the differences that were measured.

    Args:
        images: Section `images` of export.json.
        image_size: Side of the network's input in pixels.
        center_crop: Side of the central square, as a share of the image's shorter side.
    """
    stored = images["short_side"]
    if stored is not None and round(stored * center_crop) < image_size:
        return "box"  # OpenCV's INTER_AREA repeats pixels, except at their borders, when it enlarges
    if stored is not None and round(stored * center_crop) == image_size and images["resample"] == "lanczos":
        return "lanczos"
    return "hamming"


def timm_config(equivalent: TimmEquivalent, about: Mapping[str, Any], licence: str) -> dict[str, Any]:
    """Return the content of config.json.

    Args:
        equivalent: The network.
        about: Content of export.json.
        licence: Licence of the weights.
    """
    images, backbone, classes = about["images"], about["backbone"], tuple(about["classes"])
    side, defaults = backbone["image_size"], equivalent.defaults
    pool_size = defaults.pool_size if defaults.input_size[-1] == side else None
    return {
        "architecture": equivalent.architecture,
        "num_classes": len(classes),
        "label_names": class_labels(classes),
        **_descriptions(classes),
        **({"model_args": dict(equivalent.model_args)} if equivalent.model_args else {}),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, side, side],
            "fixed_input_size": defaults.fixed_input_size,
            "interpolation": interpolation_of(images, side, backbone["center_crop"]),
            "crop_pct": backbone["center_crop"],
            "crop_mode": "center",
            "mean": list(images["pixel_mean"]),
            "std": list(images["pixel_std"]),
            "num_classes": len(classes),
            "pool_size": pool_size,
            "first_conv": defaults.first_conv,
            "classifier": defaults.classifier,
            "license": licence,
        },
        ABOUT_KEY: dict(about),
    }


def _descriptions(classes: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Return the names of the classes in words, if the labels are the WordNet ids of ImageNet."""
    try:
        words = names_in_words(classes)
    except UserError:
        return {}
    described = {label: name for label, name in zip(class_labels(classes), words, strict=True) if label != name}
    return {"label_descriptions": described} if described else {}


def write_timm_folder(
    folder: Path, equivalent: TimmEquivalent, configuration: Mapping[str, Any], classifier: ImageClassifier
) -> None:
    """Write `config.json` and `model.safetensors`, and check that timm loads them and computes the same logits.

    Args:
        folder: An existing folder.
        equivalent: The network.
        configuration: Content of config.json.
        classifier: The head and its backbone, which compute the expected logits.

    Raises:
        UserError: timm's network computes other logits.
    """
    # transformers refuses files without the entry `format`.
    save_file(dict(equivalent.tensors), folder / WEIGHTS, metadata={"format": "pt"})
    files.write_text(folder / CONFIG, json.dumps(configuration, indent=2) + "\n")
    _check(folder, equivalent.architecture, configuration["pretrained_cfg"]["input_size"][-1], classifier)


@torch.no_grad()
def _check(folder: Path, architecture: str, side: int, classifier: ImageClassifier) -> None:
    images = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = classifier(images)["logits"]
    try:
        network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        found = network(classifier.normalised(images))
    except Exception as error:  # the type of the exception depends on the network's code
        reason = f"timm cannot load {architecture} with these weights: {' '.join(str(error).split())[:300]}"
        raise UserError(f"This head cannot be exported as a timm network: {reason}. {OTHER_FORMATS}") from None
    if (difference := difference_above_tolerance(found, expected)) is not None:
        raise UserError(
            f"This head cannot be exported as a timm network: timm's {architecture} computes logits that differ by up "
            f"to {difference:.2g}. {OTHER_FORMATS}"
        )


def read_timm_about(folder: Path) -> dict[str, Any] | None:
    """Return the content of export.json that `config.json` contains, or None if mem did not write the file."""
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8", errors="surrogateescape"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    about = content.get(ABOUT_KEY) if isinstance(content, dict) else None
    return about if isinstance(about, dict) else None
