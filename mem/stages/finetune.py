"""Stage `finetune`: trains the backbone and a linear classifier with cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mem import config
from mem.data.augment.erasing import random_erase
from mem.data.augment.mixing import PAIR, Mixing, mix
from mem.data.batch import Batch
from mem.data.convert.convert import train_counts
from mem.data.loading.images import plain_batches
from mem.data.loading.split_images import SplitImages
from mem.heads.base import accuracy
from mem.jobs.backbone_training import BackboneInputs, pixels_of, train_backbone
from mem.jobs.backbones import load_starting_weights, move_to_device
from mem.jobs.held_out import held_out_record, images_of
from mem.jobs.job import Job
from mem.losses import cross_entropy, mixed_cross_entropy
from mem.models.backbones import BackboneClassifier, build, seed_torch
from mem.models.parameter_groups import layer_decay_groups
from mem.models.pixels import Pixels
from mem.models.weights.tensors import save_weights
from mem.train.optimizers import backbone_optimizer
from mem.train.state import TrainState
from mem.train.step import Objective

EVALUATION_BATCH = 256


def finetune(job: Job) -> Mapping[str, Any]:
    """Train the backbone and the classifier, from pretrained weights or from scratch; write `model.safetensors`."""
    backbone = job.run.union("backbone", config.Backbone)
    settings = job.run.section("finetune", config.Finetune)
    classes = len(train_counts(job.inputs["images"]))
    seed_torch(job.seed)
    model = build(backbone, classes, settings.drop_path)
    record = load_starting_weights(job, model) | held_out_record(job)
    move_to_device(model, job.world.device, job.run.compute, job.run.backbone)
    pixels = pixels_of(job)
    val = images_of(job, "val")
    mixing = mixing_of(settings)
    groups = layer_decay_groups(
        model,
        settings.weight_decay,
        settings.layer_decay,
        decay_all=settings.decay_all,
        classifier_lr_factor=settings.classifier_lr_factor,
    )
    state = TrainState(model, backbone_optimizer(groups, settings), settings.ema_decay)
    results = train_backbone(
        job,
        state,
        classification(pixels, settings.label_smoothing, model.branches, settings.augmentation.erasing, mixing),
        settings,
        BackboneInputs(settings.augmentation, backbone.image_size, group_size=PAIR if mixing else 1),
        (lambda m: validation(m, val, backbone, pixels, job, bf16=settings.precision == "bf16")) if len(val) else None,
        settings.validate_every_epochs,
    )
    if job.world.is_main:
        about = {"stage": "finetune", "key": job.run.key}
        trained = state.evaluated_model
        assert isinstance(trained, BackboneClassifier)
        save_weights(job.folder.path / "model.safetensors", trained.backbone.state_dict(), about)
    job.checkpoints().clear()
    return {**results, **record}


def mixing_of(settings: config.Finetune) -> Mixing | None:
    """Return the mixup and CutMix settings, or None if samples are not mixed."""
    if not settings.mixes:
        return None
    return Mixing(settings.mixup, settings.cutmix, settings.mix_probability, settings.mix_switch, settings.mix_batch)


def classification(
    pixels: Pixels, smoothing: float, branches: int, erasing: float = 0, mixing: Mixing | None = None
) -> Objective:
    """Return the cross-entropy objective.

    Random erasing, mixing and stochastic depth of a sample depend only on the sample's random numbers. The accuracy of
    a mixed sample uses the label with the larger share.
    """

    def objective(replica: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        images = random_erase(pixels.normalise(batch.inputs), batch, erasing)
        drop_path_numbers = batch.uniforms("drop path", branches) if branches else None
        if mixing is None:
            logits = replica(images, drop_path_numbers)
            loss, labels = cross_entropy(logits, batch.labels, smoothing), batch.labels
        else:
            samples = mix(images, batch, mixing)
            logits = replica(samples.images, drop_path_numbers)
            loss = mixed_cross_entropy(logits, samples.labels, samples.partner_labels, samples.shares, smoothing)
            labels = samples.main_labels
        return loss.mean(), {"acc1": 100 * accuracy(logits, labels)}

    return objective


@torch.no_grad()
def validation(
    model: nn.Module,
    val: SplitImages,
    backbone: config.ImageBackbone,
    pixels: Pixels,
    job: Job,
    *,
    bf16: bool,
) -> dict[str, float]:
    """Return loss and accuracy on val, in the precision used for training. Every rank evaluates all val images."""
    model.eval()
    losses: list[Tensor] = []
    predictions: list[Tensor] = []
    device = job.world.device
    for batch in plain_batches(
        val.file,
        val.positions,
        EVALUATION_BATCH,
        backbone.image_size,
        backbone.center_crop,
        job.threads,
    ):
        on_device = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(pixels.normalise(on_device.inputs)).float()
        losses.append(cross_entropy(logits, on_device.labels))
        predictions.append(logits.argmax(dim=1))
    correct = torch.cat(predictions).cpu().numpy() == val.labels
    return {"val/loss": float(torch.cat(losses).mean()), "val/acc1": 100 * float(correct.mean())}
