"""Check the backbone and the initial weights of a study without computing values."""

from __future__ import annotations

from pathlib import Path

import torch

from mem import config
from mem.config import Study
from mem.config.initial import Initial
from mem.models.autoencoder import Autoencoder
from mem.models.backbones import BackboneClassifier, FrozenBackbone, build, build_frozen
from mem.models.backbones.frozen import require_module_file
from mem.models.mae import build_autoencoder
from mem.models.weights.external import read_checkpoint
from mem.models.weights.initialise import initialise_from
from mem.models.weights.official import official_weights, weights_file, weights_folder

EXAMPLE_CLASSES = 2
"""Number of classes of the model that is checked. The classifier is not part of the weights that are loaded."""


def check_backbone(study: Study) -> str:
    """Build a study's model without values, and compare it with the names and shapes in the file of initial weights.

    Returns:
        A note about official weights that are not on this machine and therefore cannot be checked, or an empty text.

    Raises:
        UserError: The network does not support the settings, the file of a custom module is missing, or the weights
            file is missing, is damaged, or does not fit the model.
    """
    initial = study.initial
    if isinstance(study.backbone, config.CustomModule):
        require_module_file(study.backbone.file, study.backbone.module)
    if initial is None and not isinstance(study.backbone, config.TimmNetwork):
        return ""
    with torch.device("cpu" if isinstance(study.backbone, config.CustomModule) else "meta"):
        model = _model(study).to("meta")
    if initial is None:
        return ""
    if initial.file is None and not (weights_folder() / official_weights(initial.weights or "").file).is_file():
        return (
            f"The weights {initial.weights} are not on this machine and were not checked. To download them, run: "
            f"mem weights get {initial.weights}"
        )
    path = weights_file(initial)
    initialise_from(model, read_checkpoint(path, shapes_only=True), _origin(initial, path))
    return ""


def _model(study: Study) -> BackboneClassifier | FrozenBackbone | Autoencoder:
    """Build the model that loads the initial weights: the first one in the order of the stages."""
    if study.pretrain is not None:
        return build_autoencoder(study.backbone, study.pretrain)
    if study.finetune is not None:
        return build(study.backbone, EXAMPLE_CLASSES, study.finetune.drop_path)
    return build_frozen(study.backbone, EXAMPLE_CLASSES)


def _origin(initial: Initial, path: Path) -> str:
    return f"{path} (initial.file)" if initial.file is not None else f"{initial.weights} ({path})"
