"""Stage `finetune`: trains the backbone and a classifier with the objective of the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mem import config
from mem.data.augment.mixing import PAIR, Mixing
from mem.data.convert.convert import train_counts_before_holdout
from mem.data.loading.finetuning_samplers import skipped_classes_warning
from mem.data.loading.images import plain_batches
from mem.data.loading.split_images import SplitImages
from mem.jobs.backbone_training import BackboneInputs, pixels_of, train_backbone
from mem.jobs.backbones import load_starting_weights, move_to_device
from mem.jobs.classification import Classification, require_global_batch
from mem.jobs.contrastive_classification import with_contrast
from mem.jobs.held_out import held_out_record, images_of
from mem.jobs.initial_classifier import initialise_classifier
from mem.jobs.job import Job
from mem.jobs.precision import precision_of
from mem.longtail import class_counts
from mem.losses import cross_entropy
from mem.models.backbones import BackboneClassifier, add_tuner, build, network_name, seed_torch
from mem.models.backbones.tuned import parameter_counts
from mem.models.parameter_groups import decay_groups, layer_decay_groups
from mem.models.pixels import Pixels
from mem.models.tuners.counts import trained_text
from mem.models.weights.tensors import save_weights
from mem.objectives.build import build_objective, empty_counts_warning
from mem.precision import Precision, autocast
from mem.train.optimizers import backbone_optimizer
from mem.train.state import TrainState

EVALUATION_BATCH = 256


def finetune(job: Job) -> Mapping[str, Any]:
    """Train the backbone and the classifier, from pretrained weights or from scratch; write `model.safetensors`.

    Raises:
        UserError: The objective does not fit to the number of classes, to the number of ranks or to the micro-batch.
    """
    backbone = job.run.union("backbone", config.Backbone)
    settings = job.run.section("finetune", config.Finetune)
    train, val = images_of(job, "train"), images_of(job, "val")
    before_holdout = train_counts_before_holdout(job.inputs["images"])
    counts = class_counts(train.labels, len(before_holdout))
    loss = build_objective(settings, counts, before_holdout)
    rank_group = require_global_batch(settings, job.run.compute, job.world)
    for warning in (
        empty_counts_warning(settings.objective, counts),
        skipped_classes_warning(settings.sampler, counts) if settings.sampler != "instance" else None,
    ):
        if warning and job.world.is_main:
            job.say(warning)
    seed_torch(job.seed)
    model = build(backbone, len(counts), settings.drop_path, settings.cosine_scale, settings.experts)
    record = load_starting_weights(job, model) | held_out_record(job)
    record |= initialise_classifier(job, model, settings, backbone, train)
    add_tuner(model, settings.tuner, network_name(backbone))
    is_tuned, parameters = not isinstance(settings.tuner, config.AllParameters), parameter_counts(model)
    if is_tuned:
        job.say(trained_text(*parameters))
    move_to_device(model, job.world.device, job.run.compute, job.run.backbone)
    pixels = pixels_of(job)
    mixing = mixing_of(settings)
    objective = Classification(
        pixels,
        loss.to(job.world.device),
        model.branches,
        settings.augmentation.erasing,
        mixing,
        global_batch=settings.global_batch,
        images=len(train),
        rank_group=rank_group,
    )
    groups = layer_decay_groups(
        model,
        settings.weight_decay,
        settings.layer_decay,
        decay_all=settings.decay_all,
        classifier_lr_factor=settings.classifier_lr_factor,
        expert_lr_factors=loss.expert_lr_factors,
    )
    trained: nn.Module = model
    if settings.contrast is not None:
        objective = with_contrast(objective, model, settings, getattr(backbone, "norm_batch", None))
        trained = objective.model
        groups += decay_groups(objective.model.projectors, settings.weight_decay, decay_all=settings.decay_all)
    precision = precision_of(job, settings.precision)
    state = TrainState(trained, backbone_optimizer(groups, settings), settings.ema_decay)
    results = train_backbone(
        job,
        state,
        objective,
        settings,
        BackboneInputs(
            settings.augmentation,
            backbone.image_size,
            group_size=PAIR if mixing else 1,
            sampler=settings.sampler,
            undivided=settings.whole_batch,
            second_augmentation=settings.second_augmentation,
        ),
        (lambda m: validation(m, loss.predictions, val, backbone, pixels, job, precision=precision))
        if len(val)
        else None,
        settings.validate_every_epochs,
    )
    if job.world.is_main:
        about = {"stage": "finetune", "key": job.run.key}
        evaluated = state.evaluated_model
        assert isinstance(evaluated, BackboneClassifier)
        save_weights(job.folder.path / "model.safetensors", evaluated.backbone.state_dict(), about)
    return {**results, **({"total_parameters": parameters[1]} if is_tuned else {}), **record}


def mixing_of(settings: config.Finetune) -> Mixing | None:
    """Return the mixup and CutMix settings, or None if samples are not mixed."""
    if not settings.mixes:
        return None
    return Mixing(settings.mixup, settings.cutmix, settings.mix_probability, settings.mix_switch, settings.mix_batch)


@torch.no_grad()
def validation(
    model: nn.Module,
    predict: Callable[[Tensor], Tensor],
    val: SplitImages,
    backbone: config.ImageBackbone,
    pixels: Pixels,
    job: Job,
    *,
    precision: Precision,
) -> dict[str, float]:
    """Return loss and accuracy on val, in the precision used for training. Every rank evaluates all val images.

    With experts, both use the ensemble's logits.

    Args:
        model: The backbone with its classifiers.
        predict: Returns the logits with which the model predicts (`FinetuningLoss.predictions`).
        val: The val images.
        backbone: Settings of the backbone.
        pixels: Pixel normalisation.
        job: The job.
        precision: Precision of the model's forward pass.
    """
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
        with autocast(precision, device):
            logits = predict(model(pixels.normalise(on_device.inputs)).float())
        losses.append(cross_entropy(logits, on_device.labels))
        predictions.append(logits.argmax(dim=1))
    correct = torch.cat(predictions).cpu().numpy() == val.labels
    return {"val/loss": float(torch.cat(losses).mean()), "val/acc1": 100 * float(correct.mean())}
