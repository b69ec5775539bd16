"""What a publisher states about weights: the architecture and the images that they were trained on.

The sources are the files next to the weights: `config.json` as timm writes it, or `open_clip_config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mem.config.weights_files import CONFIG, OPEN_CLIP_CONFIG, read_json
from mem.errors import UserError
from mem.models.weights.licences import Licence, licence_in_folder, licence_of_metadata


@dataclass(frozen=True)
class PretrainedConfig:
    """Statements about weights. None means that there is no statement."""

    architecture: str | None = None
    """timm's name of the architecture, possibly with a tag."""
    image_size: int | None = None
    """Side of the square images in pixels."""
    fixed_size: bool = False
    """Whether some weights depend on the image size, for example position embeddings."""
    mean: tuple[float, ...] | None = None
    """Mean of the pixel values that the images are normalised with, from 0 to 1, for each channel."""
    std: tuple[float, ...] | None = None
    """Standard deviation of the pixel values, for each channel."""


def config_beside(weights: Path) -> PretrainedConfig:
    """Return the statements in the files next to a weights file. Without such files, there are no statements.

    Raises:
        UserError: A file is not valid JSON, or its values have the wrong form.
    """
    config = read_json(weights.parent / CONFIG)
    try:
        if config is not None and "architecture" in config:
            return _from_timm(config)
        open_clip = read_json(weights.parent / OPEN_CLIP_CONFIG)
        return PretrainedConfig() if open_clip is None else _from_open_clip(open_clip)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(
            f"{weights.parent}: {CONFIG} or {OPEN_CLIP_CONFIG} does not have the form that timm and open_clip write "
            f"({error}). Correct the file, or set initial.file to the weights file, which uses no such file."
        ) from None


def licence_beside(weights: Path) -> Licence:
    """Return the licence that the model card next to a weights file states, or else `config.json`."""
    licence = licence_in_folder(weights.parent)
    if licence.name is not None:
        return licence
    config = read_json(weights.parent / CONFIG) or {}
    inner = config.get("pretrained_cfg")
    stated = {**config, **(inner if isinstance(inner, Mapping) else {})}.get("license")
    return licence_of_metadata({"license": stated}) if isinstance(stated, str) else licence


def _from_timm(config: Mapping[str, Any]) -> PretrainedConfig:
    """Read timm's form: the statements stand in `pretrained_cfg` or, in old files, at the top level."""
    stated = config.get("pretrained_cfg", config)
    size = stated.get("input_size")
    arguments = config.get("model_args") or {}
    side = arguments.get("img_size") or (None if size is None else size[-1])
    return PretrainedConfig(
        architecture=str(config["architecture"]),
        image_size=int(side[-1] if isinstance(side, list) else side) if side else None,
        fixed_size=bool(stated.get("fixed_input_size", False)),
        mean=_numbers(stated.get("mean")),
        std=_numbers(stated.get("std")),
    )


def _from_open_clip(config: Mapping[str, Any]) -> PretrainedConfig:
    model = config.get("model_cfg") or {}
    vision, images = model.get("vision_cfg") or {}, config.get("preprocess_cfg") or {}
    side = images.get("size") or vision.get("image_size")
    return PretrainedConfig(
        architecture=vision.get("timm_model_name"),
        image_size=int(side[-1] if isinstance(side, list) else side) if side else None,
        fixed_size=True,
        mean=_numbers(images.get("mean")),
        std=_numbers(images.get("std")),
    )


def _numbers(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)
