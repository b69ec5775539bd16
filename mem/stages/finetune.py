"""Stage `finetune`: the whole backbone with cross-entropy, from the pretrained encoder or from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mem import config, provenance
from mem.data.batch import Batch
from mem.data.beton import Beton
from mem.data.convert import train_counts
from mem.data.loaders import plain_batches
from mem.fit import Objective, TrainState
from mem.heads.base import accuracy
from mem.losses import cross_entropy
from mem.models.backbones import Classifier, seeded
from mem.models.parameter_groups import layer_decay_groups
from mem.models.pixels import Pixels
from mem.models.weights import load_into, load_weights, save_weights
from mem.optim import adamw
from mem.stages.job import Job
from mem.stages.training import pixels_of, train_backbone

EVALUATION_BATCH = 256


def finetune(job: Job) -> Mapping[str, Any]:
    """Train the classifier and keep it as `model.safetensors`."""
    backbone = job.run.section("backbone", config.VisionTransformer)
    settings = job.run.section("finetune", config.Finetune)
    images = job.inputs["images"]
    counts = train_counts(images)
    seeded(job.seed)
    model = Classifier(backbone, len(counts), settings.drop_path)
    if "encoder" in job.inputs:
        weights = load_weights(job.inputs["encoder"] / "encoder.safetensors")
        # The encoder's norm comes before pooling, the classifier's after it: that one starts fresh.
        report = load_into(model.backbone, weights, fresh=("fc_norm.", "head."), unused=("norm.",))
        job.say(f"From {job.inputs['encoder']}: {report}.")
    model.to(job.world.device)
    pixels = pixels_of(images)
    groups = layer_decay_groups(model.backbone, settings.weight_decay, settings.layer_decay)
    figures = train_backbone(
        job,
        TrainState(model, adamw(groups, settings.betas)),
        classification(pixels, settings.label_smoothing, model.branches),
        settings,
        settings.augmentation,
        backbone.image_size,
        validate=lambda m: validation(m, Beton(images / "val.beton"), backbone, pixels, job),
        validate_every_epochs=settings.validate_every_epochs,
    )
    if job.world.is_main:
        about = {"stage": "finetune", "key": job.run.key}
        save_weights(job.folder.path / "model.safetensors", model.backbone.state_dict(), about)
    job.checkpoints().clear()
    return figures


def classification(pixels: Pixels, smoothing: float, branches: int) -> Objective:
    """Cross-entropy; the branches that a sample drops come from its own numbers."""

    def objective(replica: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        images = pixels.normalise(batch.inputs)
        draws = batch.uniforms("drop path", branches) if branches else None
        logits = replica(images, draws)
        return cross_entropy(logits, batch.labels, smoothing).mean(), {"acc1": 100 * accuracy(logits, batch.labels)}

    return objective


@torch.no_grad()
def validation(
    model: nn.Module,
    val: Beton,
    backbone: config.VisionTransformer,
    pixels: Pixels,
    job: Job,
) -> dict[str, float]:
    """Loss and accuracy on val, for the curves. Every rank computes all of it."""
    model.eval()
    losses: list[Tensor] = []
    predictions: list[Tensor] = []
    device = job.world.device
    for batch in plain_batches(
        val,
        np.arange(len(val)),
        EVALUATION_BATCH,
        backbone.image_size,
        backbone.center_crop,
        provenance.cpus(),
    ):
        on_device = batch.to(device)
        logits = model(pixels.normalise(on_device.inputs))
        losses.append(cross_entropy(logits, on_device.labels))
        predictions.append(logits.argmax(dim=1))
    right = torch.cat(predictions).cpu().numpy() == val.labels
    return {"val/loss": float(torch.cat(losses).mean()), "val/acc1": 100 * float(right.mean())}
