"""Settings of the runs of a backbone that are computed from the study: normalisation and digests of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mem.config import CustomModule, FeatureFiles, Section, Study
from mem.runs.keys import INITIAL_DIGEST, MODULE_DIGEST, NORMALISATION, file_digest


def normalisation_settings(study: Study) -> dict[str, Any]:
    """Return the setting with the normalisation of the images. The stages that use it need it in their keys."""
    assert not isinstance(study.dataset, FeatureFiles)
    return {NORMALISATION: {"mean": list(study.dataset.pixel_mean), "std": list(study.dataset.pixel_std)}}


def initial_settings(study: Study) -> dict[str, Section | int | str]:
    """Return the settings that identify the initial weights: the official name, or the digest of a weights file."""
    if study.initial is None:
        return {}
    settings: dict[str, Section | int | str] = {"initial": study.initial}
    if study.initial.weights is None and study.initial.file is not None:
        if found := file_digest(Path(study.initial.file)):
            settings[INITIAL_DIGEST] = found
    return settings


def module_settings(study: Study) -> dict[str, str]:
    """Return the settings that identify a custom backbone: the function name and the digest of the Python file."""
    if not isinstance(study.backbone, CustomModule):
        return {}
    settings = {"module function": study.backbone.function}
    return settings | ({MODULE_DIGEST: found} if (found := file_digest(study.backbone.file)) else {})
