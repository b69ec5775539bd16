"""A backbone that no run trained: its settings and weights, as the run of its features used them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mem import config
from mem.errors import UserError
from mem.models.backbones import build_frozen, seed_torch
from mem.models.weights.external import read_checkpoint
from mem.models.weights.initialise import initialise_from
from mem.models.weights.sources import weights_file
from mem.models.weights.tensors import load_weights
from mem.models.weights.verification import sha256_of
from mem.runs.folder import read_record
from mem.runs.keys import CENTER_CROP
from mem.runs.run_config import read_config


def frozen_settings(features: Path) -> config.ImageBackbone:
    """Return the settings of a frozen backbone, with the center crop of the run that computed its features.

    Args:
        features: Folder of the features run.

    Raises:
        UserError: The configuration cannot be read, or the backbone is a module of the user.
    """
    run = read_config(features, "features")
    backbone = run.union("backbone", config.ImageBackbone)
    if isinstance(backbone, config.CustomModule):
        raise UserError(
            f"{features}: the backbone is a module of your own ({backbone.module}), and an exported model contains no "
            "code. Export a head on a timm network."
        )
    return backbone.model_copy(update={"center_crop": run.settings.get(CENTER_CROP, backbone.center_crop)})


def frozen_weights(features: Path, root: Path, classes: int) -> dict[str, Tensor]:
    """Return the weights of a frozen backbone, from its initial weights or from its pretraining.

    Args:
        features: Folder of the features run.
        root: Parent folder of `runs/`.
        classes: Number of classes.

    Raises:
        UserError: The weights are missing, or changed after the features were computed.
    """
    run, record = read_config(features, "features"), read_record(features)
    seed_torch(record["seed"])
    model = build_frozen(frozen_settings(features), classes)
    if "encoder" in record["inputs"]:
        path = root / record["inputs"]["encoder"] / "encoder.safetensors"
        initialise_from(model, load_weights(path), str(path))
    elif "initial" in run.settings:
        initial = run.section("initial", config.Initial)
        path = weights_file(initial)
        used = record["results"].get("initial", {}).get("sha256")
        if used is not None and sha256_of(path) != used:
            raise UserError(
                f"{path}: this weights file changed after {features} used it. Restore the file, or run the study again."
            )
        tensors = read_checkpoint(path, keys=initial.keys)
        initialise_from(model, tensors, initial.weights or str(path), initial.keys)
    return dict(model.backbone.state_dict())
