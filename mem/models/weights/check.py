"""Check the backbone and the initial weights of a study without computing values."""

from __future__ import annotations

from pathlib import Path

import torch

from mem import config
from mem.config import Study
from mem.config.initial import Initial
from mem.config.tuners import ALL_PARAMETERS
from mem.config.weights_files import WEIGHTS_FILES
from mem.models.autoencoder import Autoencoder
from mem.models.backbones import BackboneClassifier, FrozenBackbone, build, build_frozen
from mem.models.backbones.frozen import require_module_file
from mem.models.mae import build_autoencoder
from mem.models.weights.compare import compare_with_study
from mem.models.weights.external import read_checkpoint
from mem.models.weights.initialise import initialise_from
from mem.models.weights.licences import licence_warning
from mem.models.weights.prepare import require_revision
from mem.models.weights.sources import absent_weights, licence_of, stated_config, weights_file

EXAMPLE_CLASSES = 2
"""Number of classes of the model that is checked. The classifier is not part of the weights that are loaded."""


def check_backbone(study: Study) -> str:
    """Build a study's model without values, and compare it with the names and shapes in the file of initial weights.

    The settings are also compared with what the publisher of the weights states about them.

    Returns:
        Notes, one per line: weights that are not on this machine and therefore cannot be checked, a folder with
        several weights files, a licence with terms of its own, another image size, another normalisation. An empty
        text if there are none.

    Raises:
        UserError: The network does not support the settings, the file of a custom module is missing, the weights have
            another architecture, their commit is missing, or the weights file is missing, is damaged, or does not fit
            the model.
    """
    initial = study.initial
    require_revision(initial)
    if isinstance(study.backbone, config.CustomModule):
        require_module_file(study.backbone.file, study.backbone.module)
    if initial is None and not isinstance(study.backbone, config.TimmNetwork) and not study.has_tuner:
        return ""
    with torch.device("cpu" if isinstance(study.backbone, config.CustomModule) else "meta"):
        model = _model(study).to("meta")
        _build_finetunings(study)
    if initial is None:
        return ""
    if command := absent_weights(initial):
        return (
            f"The weights {initial.weights} are not on this machine and were not checked. To download them, run: "
            f"{command}"
        )
    path = weights_file(initial)
    notes = [*_notes_on_folder(initial, path), *compare_with_study(study, *stated_config(initial, path))]
    tensors = read_checkpoint(path, shapes_only=True, keys=initial.keys)
    report = initialise_from(model, tensors, _origin(initial, path), initial.keys)
    notes.extend(f"Note: {note}" for note in report.notes)
    if initial.weights is not None and (warning := licence_warning(initial.weights, licence_of(initial, path))):
        notes.append(warning)
    return "\n".join(notes)


def _build_finetunings(study: Study) -> None:
    """Build the network of each finetuning that differs from that of `_model`, in which weights are loaded.

    Raises:
        UserError: The network does not support the settings.
    """
    found = {(each.drop_path, each.cosine_scale, each.experts, each.tuner) for each in study.finetunings.values()}
    if study.finetune is not None:
        found.discard((study.finetune.drop_path, None, study.finetune.experts, ALL_PARAMETERS))
    for options in found:
        build(study.backbone, EXAMPLE_CLASSES, *options)


def _model(study: Study) -> BackboneClassifier | FrozenBackbone | Autoencoder:
    """Build the model that loads the initial weights: the first one in the order of the stages."""
    if study.pretrain is not None:
        return build_autoencoder(study.backbone, study.pretrain)
    if study.finetune is not None:
        return build(study.backbone, EXAMPLE_CLASSES, study.finetune.drop_path, experts=study.finetune.experts)
    return build_frozen(study.backbone, EXAMPLE_CLASSES)


def _notes_on_folder(initial: Initial, path: Path) -> list[str]:
    """Return a note if the folder of `local-dir:` contains other weights files than `path`, the one that is used."""
    folder = initial.folder
    names = [] if folder is None else [file for file in WEIGHTS_FILES if (folder / file).is_file()]
    unused = ", ".join(file for file in names if file != path.name)
    if not unused:
        return []
    return [
        f"Note: {initial.weights}: {path.name} is used; {unused} is not. To use another file, set initial.file to it "
        "in place of initial.weights."
    ]


def _origin(initial: Initial, path: Path) -> str:
    return f"{path} (initial.file)" if initial.file is not None else f"{initial.weights} ({path})"
