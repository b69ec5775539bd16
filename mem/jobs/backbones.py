"""Build and load the backbone of a job."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from mem import config
from mem.jobs.job import Job
from mem.jobs.unchanged import require_unchanged
from mem.models.autoencoder import Autoencoder
from mem.models.backbones import BackboneClassifier, FrozenBackbone, build, build_frozen, seed_torch
from mem.models.channels_last import is_convolutional, store_channels_last
from mem.models.recompute import recompute_activations
from mem.models.weights.external import read_checkpoint
from mem.models.weights.initialise import initialise_from
from mem.models.weights.sources import verify_weights, weights_file, weights_record
from mem.models.weights.tensors import load_into, load_weights
from mem.runs.image_settings import finetuned_backbone, finetuned_classifier
from mem.runs.keys import DIGEST_DIGITS, INITIAL_DIGEST, MODULE_DIGEST, file_digest

Model = TypeVar("Model", bound=nn.Module)


def backbone_of(
    job: Job, classes: int
) -> tuple[config.ImageBackbone, BackboneClassifier | FrozenBackbone, dict[str, Any]]:
    """Build the finetuned or pretrained backbone that computes a run's features, on the job's device.

    Returns:
        The backbone's settings, the module, and a record of the loaded weights for run.json.
    """
    if "classifier" in job.inputs:
        backbone = finetuned_backbone(job.inputs["classifier"], job.run.settings)
        found, record = finetuned_classifier(job.inputs["classifier"]), dict[str, Any]()
        model = build(backbone, classes, 0.0, found.cosine_scale, found.experts, found.tuner)
        load_into(model.backbone, load_weights(job.inputs["classifier"] / "model.safetensors"))
    else:
        backbone, model, record = frozen_backbone(job, classes)
    model = move_to_device(model, job.world.device, job.run.compute, job.run.backbone)
    return backbone, model.eval(), record


def move_to_device(model: Model, device: torch.device, compute: config.Compute, name: str) -> Model:
    """Move a model to a device, with the options of `compute` that change only memory, speed and rounding.

    Raises:
        UserError: The network does not support such an option. The message refers to the network as `name`.
    """
    model.to(device)
    channels_last = compute.channels_last
    if channels_last is None:
        channels_last = device.type == "cuda" and is_convolutional(model)
    if channels_last:
        store_channels_last(model)
    if compute.recompute_activations:
        recompute_activations(model, name)
    return model


def frozen_backbone(
    job: Job, classes: int
) -> tuple[config.ImageBackbone, BackboneClassifier | FrozenBackbone, dict[str, Any]]:
    """Build a backbone that is not finetuned.

    Returns:
        The backbone's settings, the module, and a record of the loaded weights for run.json.

    Raises:
        UserError: The weights or the user-provided module are missing, changed after the run was planned, or do not
            fit.
    """
    backbone = job.run.union("backbone", config.ImageBackbone)
    if isinstance(backbone, config.CustomModule):
        require_unchanged(job, backbone.module, MODULE_DIGEST, file_digest(backbone.file))
    seed_torch(job.seed)
    model = build_frozen(backbone, classes)
    return backbone, model, load_starting_weights(job, model)


def load_starting_weights(
    job: Job, model: BackboneClassifier | FrozenBackbone | Autoencoder
) -> dict[str, dict[str, Any]]:
    """Load the initial weights of the run, if any, and return a record of them for run.json.

    These are the encoder of the job's pretraining run, or the weights that the run's section `initial` specifies.

    Raises:
        UserError: The weights are missing, changed after the run was planned, or do not fit.
    """
    if "encoder" in job.inputs:
        path = job.inputs["encoder"] / "encoder.safetensors"
        report = initialise_from(model, load_weights(path), str(path))
        job.say(f"Loaded {job.inputs['encoder']}: {report}.")
        return {"encoder": report.document()}
    if "initial" not in job.run.settings:
        return {}
    initial = job.run.section("initial", config.Initial)
    path = weights_file(initial)
    verification = verify_weights(initial, path)
    if initial.custom_file is not None:
        require_unchanged(job, str(path), INITIAL_DIGEST, verification.sha256[:DIGEST_DIGITS])
    tensors = read_checkpoint(path, keys=initial.keys)
    report = initialise_from(model, tensors, initial.weights or str(path), initial.keys)
    job.say(f"Loaded {initial.weights or path}: {report}.")
    job.say(f"The file is {verification.text}.")
    return {"initial": {**weights_record(initial, path, verification), **report.document()}}
