"""Settings of the runs of a backbone that are computed from the study: normalisation and digests of files."""

from __future__ import annotations

from typing import Any

from mem.config import CustomModule, FeatureFiles, Section, Study
from mem.config.class_embeddings import EmbeddingsFile, embeddings_file
from mem.config.finetune_variants import path_of
from mem.errors import UserError
from mem.runs.keys import CLASS_EMBEDDINGS_DIGEST, INITIAL_DIGEST, MODULE_DIGEST, NORMALISATION, file_digest


def normalisation_settings(study: Study) -> dict[str, Any]:
    """Return the setting with the normalisation of the images. The stages that use it need it in their keys."""
    assert not isinstance(study.dataset, FeatureFiles)
    return {NORMALISATION: {"mean": list(study.dataset.pixel_mean), "std": list(study.dataset.pixel_std)}}


def initial_settings(study: Study) -> dict[str, Section | int | str]:
    """Return the settings that identify the initial weights: a name, with the commit if it is on the hub, or a digest.

    Raises:
        UserError: The commit of weights on the hub is missing.
    """
    initial = study.initial
    if initial is None:
        return {}
    if problem := initial.missing_revision:
        raise UserError(f"{problem} `mem weights show {initial.weights}` prints the lines to add to the study.")
    settings: dict[str, Section | int | str] = {"initial": initial}
    if initial.custom_file is not None and (found := file_digest(initial.custom_file)):
        settings[INITIAL_DIGEST] = found
    return settings


def embeddings_settings(section: Section | None) -> dict[str, str]:
    """Return the setting with the digest of the file that class embeddings are read or computed from, if there is one.

    Args:
        section: `finetune.initial_classifier`, or the class embeddings of a head.
    """
    path = embeddings_file(section)
    found = None if path is None else file_digest(path)
    return {} if found is None else {CLASS_EMBEDDINGS_DIGEST: found}


def require_embeddings_files(study: Study) -> None:
    """Check that the files exist that class embeddings of a study are read or computed from.

    Raises:
        UserError: A file does not exist.
    """
    sections = {
        f"{path_of(name)}.initial_classifier": each.initial_classifier for name, each in study.finetunings.items()
    }
    sections |= {f"heads.{name}.embeddings": getattr(head, "embeddings", None) for name, head in study.heads.items()}
    for setting, section in sections.items():
        path = embeddings_file(section)
        if path is None or path.is_file():
            continue
        expected = "class embeddings" if isinstance(section, EmbeddingsFile) else "the weights of the text model"
        hint = "; `mem classes embed` writes such a file" if isinstance(section, EmbeddingsFile) else ""
        raise UserError(f"{setting}.file: {path} not found. Expected a file with {expected}{hint}.")


def module_settings(study: Study) -> dict[str, str]:
    """Return the settings that identify a custom backbone: the function name and the digest of the Python file."""
    if not isinstance(study.backbone, CustomModule):
        return {}
    settings = {"module function": study.backbone.function}
    return settings | ({MODULE_DIGEST: found} if (found := file_digest(study.backbone.file)) else {})
