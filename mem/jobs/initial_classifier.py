"""The initial classifier of finetuning: class means, text features of class names, or class embeddings from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from mem import config
from mem.data.loading.split_images import SplitImages
from mem.errors import UserError, first_of
from mem.jobs.class_means import class_means
from mem.jobs.class_vectors import class_vectors, classes_of_images, projection_of_backbone
from mem.jobs.job import Job
from mem.jobs.precision import precision_of
from mem.models.backbones import BackboneClassifier
from mem.models.class_embeddings.vectors import weight_vectors
from mem.models.weights.tensors import load_metadata, load_weights, save_weights

_FILE = "initial-classifier.safetensors"
"""Name of the file in the folder of checkpoints that a resumed run reads instead of computing the classifier again."""


def initialise_classifier(
    job: Job,
    model: BackboneClassifier,
    settings: config.Finetune,
    backbone: config.ImageBackbone,
    train: SplitImages,
) -> dict[str, Any]:
    """Set the initial weights of the classifiers of a backbone, in place, and return a record for run.json.

    Each weight vector has the norm 1 and each bias is 0, for linear and for cosine classifiers. Source:
    `init_head_text_feat` and `init_head_class_mean` of shijxcs/LIFT (trainer.py at 661ead9). Each expert gets the means
    of its own features; class embeddings are the same for all experts. Call this after the initial weights are loaded
    and before a tuner is added.

    Args:
        job: The job.
        model: The backbone with its classifiers.
        settings: Settings of finetuning.
        backbone: Settings of the backbone.
        train: The training images.

    Raises:
        UserError: The class embeddings are missing, do not match the classes, or have another width.
    """
    section = settings.initial_classifier
    if section is None:
        return {}
    stored = job.world.from_main(_stored(job) if job.world.is_main else None)
    if stored is None:
        stored = _computed(job, model, section, settings, backbone, train)
        if job.world.is_main:
            _store(job, *stored)
    weights, known, record = stored
    _set(model, weights, known)
    job.say(_description(record, len(known)))
    return {"initial_classifier": record}


_Classifiers = tuple[Float[Tensor, "experts classes width"], Bool[Tensor, " classes"], Mapping[str, Any]]
"""Weight vectors of each expert, which classes have one, and the record for run.json."""


def _computed(
    job: Job,
    model: BackboneClassifier,
    section: config.ClassMeans | config.TextEmbeddings | config.EmbeddingsFile,
    settings: config.Finetune,
    backbone: config.ImageBackbone,
    train: SplitImages,
) -> _Classifiers:
    classes = classes_of_images(job.inputs["images"])
    record: dict[str, Any] = {"source": section.source}
    if isinstance(section, config.ClassMeans):
        model.to(job.world.device)
        precision = precision_of(job, settings.precision)
        means, counts = class_means(job, model, backbone, train, len(classes), precision=precision)
        model.cpu()  # a tuner draws the initial values of its layers on the CPU
        record["classes_without_images"] = [classes[k] for k in torch.nonzero(counts == 0).flatten().tolist()]
        return F.normalize(means, dim=2).float(), counts > 0, record
    vectors = class_vectors(job, section, classes)
    rows = weight_vectors(vectors, model.width, projection_of_backbone(job.run, model.width))
    record |= {"origin": vectors.origin, "embedding_width": vectors.embeddings.shape[1]}
    return rows.expand(model.experts, -1, -1).contiguous(), torch.ones(len(classes), dtype=torch.bool), record


@torch.no_grad()
def _set(
    model: BackboneClassifier, weights: Float[Tensor, "experts classes width"], known: Bool[Tensor, " classes"]
) -> None:
    """Copy weight vectors into the classifiers. Classes without a vector keep their random weights."""
    for layer, rows in zip(model.classifiers, weights, strict=True):
        mask = known.to(layer.weight.device)
        layer.weight[mask] = rows.to(layer.weight)[mask]
        if layer.bias is not None:
            layer.bias[mask] = 0


def _description(record: Mapping[str, Any], classes: int) -> str:
    text = f"The classifier starts from {record.get('origin', 'the class means of the features')}."
    if absent := record.get("classes_without_images"):
        text += (
            f" {len(absent)} of {classes} classes have no training images and start from random weights "
            f"({first_of(absent)})."
        )
    return text


def _store(job: Job, weights: Tensor, known: Tensor, record: Mapping[str, Any]) -> None:
    about = {"key": job.run.key, "record": json.dumps(record)}
    job.folder.checkpoints.mkdir(parents=True, exist_ok=True)
    save_weights(job.folder.checkpoints / _FILE, {"weight": weights, "known": known}, about)


def _stored(job: Job) -> _Classifiers | None:
    """Return the classifiers that an interrupted attempt of this run stored, or None if there are none."""
    path = job.folder.checkpoints / _FILE
    if not path.is_file():
        return None
    try:
        tensors, about = load_weights(path), load_metadata(path)
    except UserError as error:
        job.say(f"The initial classifier is computed again: {error}")
        return None
    return (tensors["weight"], tensors["known"], json.loads(about["record"])) if about["key"] == job.run.key else None
