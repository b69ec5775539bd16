"""The class embeddings of a job: of a file or of a text model, for the classes of its dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mem import config
from mem.config.class_embeddings import embeddings_file
from mem.data.features.stored import read_about
from mem.errors import first_of
from mem.jobs.job import Job
from mem.jobs.unchanged import require_unchanged
from mem.models.class_embeddings.files import read_embeddings
from mem.models.class_embeddings.names import names_in_words
from mem.models.class_embeddings.text import text_vectors
from mem.models.class_embeddings.vectors import ClassVectors, fitting_vectors, projection_in
from mem.models.weights.external import read_checkpoint
from mem.models.weights.sources import weights_file
from mem.runs.folder import original_features, read_record
from mem.runs.keys import CLASS_EMBEDDINGS_DIGEST, file_digest
from mem.runs.run_config import RunConfig, read_config


def class_vectors(
    job: Job, section: config.TextEmbeddings | config.EmbeddingsFile, classes: tuple[str, ...]
) -> ClassVectors:
    """Return the class embeddings that a section of the settings of a job describes. Nothing is downloaded.

    Args:
        job: The job.
        section: The section.
        classes: Classes of the dataset.

    Raises:
        UserError: The file changed after the run was planned, the embeddings do not match the classes, or the text
            model is missing or cannot be loaded.
    """
    path = embeddings_file(section)
    if path is not None:
        require_unchanged(job, str(path), CLASS_EMBEDDINGS_DIGEST, file_digest(path) if path.is_file() else None)
    if isinstance(section, config.EmbeddingsFile):
        return read_embeddings(section.path, classes)
    names = names_in_words(classes)
    job.say(f"Text features of {len(names)} class names ({first_of(names)}) from {section.model}.")
    return text_vectors(section, names)


def projection_of_backbone(run: RunConfig, width: int) -> Float[Tensor, "embedding width"] | None:
    """Return the projection of image features in the initial weights of a run; None if they contain none.

    Args:
        run: The run that loads the initial weights.
        width: Width of the features.

    Raises:
        UserError: The weights are missing or damaged.
    """
    if "initial" not in run.settings:
        return None
    return projection_in(read_checkpoint(weights_file(run.section("initial", config.Initial))), width)


def head_vectors(job: Job, settings: config.ZeroShot) -> ClassVectors:
    """Return the class embeddings of a head, with norm 1 and with the projection that maps features to their space.

    Args:
        job: The job of the stage `train_head`.
        settings: Settings of the head.

    Raises:
        UserError: As in `class_vectors`, or the class embeddings do not fit the features.
    """
    features = original_features(job.inputs["features"])
    width: Any = read_about(features)["width"]
    vectors = class_vectors(job, settings.embeddings, _classes_of_features(features))
    return fitting_vectors(vectors, width, projection_of_backbone(read_config(features, "features"), width))


def classes_of_images(images: Path) -> tuple[str, ...]:
    """Return the classes of a converted dataset."""
    return tuple(json.loads((images / "dataset.json").read_text(encoding="utf-8"))["classes"])


def _classes_of_features(features: Path) -> tuple[str, ...]:
    """Return the classes of the dataset of a features run, which are in its results if the study has no images."""
    record = read_record(features)
    if "images" in record["inputs"]:
        return classes_of_images(Path(record["inputs"]["images"]))
    return tuple(record["results"]["classes"])
