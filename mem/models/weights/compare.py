"""Comparison of a study's settings with what the publisher of its initial weights states about them."""

from __future__ import annotations

from mem import config
from mem.config import FeatureFiles, Study
from mem.config.weights_names import architecture_of_tag
from mem.errors import UserError
from mem.models.weights.pretrained_config import PretrainedConfig

TOLERANCE = 5e-4
"""Largest difference of two means or standard deviations of pixel values that are the same up to rounding."""


def compare_with_study(study: Study, stated: PretrainedConfig, repository: str | None) -> list[str]:
    """Compare a study with the statements about its initial weights, and return notes.

    Args:
        study: The study, which has initial weights.
        stated: The statements.
        repository: Repository of the weights on the hub, or None.

    Raises:
        UserError: The weights belong to another architecture than the study's timm network.
    """
    assert study.initial is not None
    name = study.initial.weights or study.initial.file or ""
    architecture = architecture_of_tag(study.initial.weights or "") or stated.architecture
    if architecture is not None and isinstance(study.backbone, config.TimmNetwork):
        _require_architecture(name, architecture, study.backbone.model, repository)
    return [*_size_notes(study, stated, name), *_normalisation_notes(study, stated, name)]


def _require_architecture(name: str, architecture: str, model: str, repository: str | None) -> None:
    from mem.models.weights.timm_tags import current_name, is_architecture_of

    expected = current_name(architecture)
    if current_name(model) == expected or (repository is not None and is_architecture_of(model, repository)):
        return
    raise UserError(
        f"initial.weights: {name} has the architecture {expected}, but backbone.model is {model}. Set backbone.model "
        f"to {expected}, or use weights of {model} (`mem weights list {model}.` lists them)."
    )


def _size_notes(study: Study, stated: PretrainedConfig, name: str) -> list[str]:
    size = getattr(study.backbone, "image_size", None)
    if size is None or stated.image_size in (None, size):
        return []
    effect = (
        "Tables of positions are interpolated."
        if stated.fixed_size
        else "The network accepts this size, but its accuracy can be lower than at the size of the weights."
    )
    return [
        f"Note: {name} was trained on images of {stated.image_size} x {stated.image_size} pixels, and "
        f"backbone.image_size is {size}. {effect}"
    ]


def _normalisation_notes(study: Study, stated: PretrainedConfig, name: str) -> list[str]:
    if isinstance(study.dataset, FeatureFiles) or stated.mean is None or stated.std is None:
        return []
    found = (*study.dataset.pixel_mean, *study.dataset.pixel_std)
    expected = (*stated.mean, *stated.std)
    if len(found) == len(expected) and all(abs(a - b) <= TOLERANCE for a, b in zip(found, expected, strict=True)):
        return []
    return [
        f"Warning: {name} expects images with another normalisation than that of the study. Set:\n"
        f"  dataset:\n    pixel_mean: {list(stated.mean)}\n    pixel_std: {list(stated.std)}"
    ]
