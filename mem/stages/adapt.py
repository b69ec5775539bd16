"""Stage `adapt`: learns the weights of a backbone's experts on the test images, without their labels.

A head that uses these weights is transductive: its predictions for a test image depend on the other test images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mem import config, files
from mem.data.batch import Batch
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler, PartSampler
from mem.data.loading.split_images import SplitImages
from mem.data.loading.unlabelled import UnlabelledImages
from mem.errors import UserError
from mem.heads.aggregation import AggregationWeights
from mem.heads.build import load_classifier
from mem.heads.ensemble import ExpertEnsemble
from mem.jobs.backbone_training import fill_color_of
from mem.jobs.held_out import images_of
from mem.jobs.job import Job
from mem.jobs.online_features import OnlineBackbone
from mem.runs.outputs import WEIGHTS_FILE
from mem.train.loop import fit
from mem.train.schedules import Schedule, training_steps
from mem.train.state import TrainState
from mem.train.step import Objective, StepOptions


def adapt(job: Job) -> Mapping[str, Any]:
    """Learn one weight per expert, and write `weights.json`."""
    settings = job.run.section("adapt", config.Adapt)
    backbone = OnlineBackbone(job)
    images = _test_images(backbone.job, settings.global_batch)
    ensemble = _experts(job).to(job.world.device)
    steps_per_epoch = len(images) / settings.global_batch
    weights = AggregationWeights(len(ensemble.weight)).to(job.world.device)
    schedule = Schedule(
        training_steps(settings.epochs, len(images), settings.global_batch),
        steps_per_epoch,
        lambda step: settings.lr,
        ends_early=lambda model: _smallest_weight(model) < settings.stop_below,
    )
    state = TrainState(weights, _optimizer(weights, settings))
    speed = fit(
        state,
        UnlabelledImages(_view_pairs(backbone, images, settings)),
        _objective(backbone, ensemble),
        schedule,
        job.fit_context(),
        StepOptions(micro_batch=job.run.compute.micro_batch),
    )
    found = [round(weight, 6) for weight in weights.weights.tolist()]
    ended_early = state.step < schedule.steps
    content = {
        "weights": found,
        "transductive": True,
        "images": len(images),
        "steps": state.step,
        "epochs": round(state.step / steps_per_epoch, 3),
        "ended_early": ended_early,
    }
    files.write_text(job.folder.path / WEIGHTS_FILE, json.dumps(content, indent=2) + "\n")
    early = f", because a weight is below {settings.stop_below:g}" if ended_early else ""
    job.say(
        f"Weights of the experts, learned on {len(images):,} unlabelled test images: "
        f"{', '.join(format(weight, '.3f') for weight in found)}. Learning ended after {content['epochs']:g} "
        f"epochs{early}. Results with these weights are transductive."
    )
    return {**content, "images_per_s": round(speed.images_per_second, 1), "data_wait": round(speed.data_wait, 5)}


def _smallest_weight(model: nn.Module) -> float:
    assert isinstance(model, AggregationWeights)
    return model.weights.min().item()


def _test_images(job: Job, global_batch: int) -> SplitImages:
    """Open the test images.

    Raises:
        UserError: There are fewer images than a batch contains.
    """
    images = images_of(job, "test")
    if len(images) < global_batch:
        found = f"only {len(images):,} images" if len(images) else "no images"
        raise UserError(
            f"{job.inputs['images']}: the test split has {found}, but adapt.global_batch is {global_batch:,}. The "
            "weights of the experts are learned on test images: "
            + ("choose a smaller batch." if len(images) else "set `dataset.test`, or remove `adapt`.")
        )
    return images


def _experts(job: Job) -> ExpertEnsemble:
    """Load the classifiers of the experts.

    Raises:
        UserError: The features have no experts.
    """
    classifier = load_classifier(job.inputs["features"] / "classifier.safetensors")
    if not isinstance(classifier, ExpertEnsemble):
        raise UserError(
            f"{job.inputs['features']}: these features have no experts whose weights could be learned. Set "
            "finetune.experts, and run the study again."
        )
    return classifier.requires_grad_(False)


def _view_pairs(backbone: OnlineBackbone, images: SplitImages, settings: config.Adapt) -> TrainingImages:
    """Return the batches of test images, each with two augmented views."""
    job = backbone.job
    return TrainingImages(
        images=images.file,
        sampler=PartSampler(InstanceSampler(len(images), job.seed), images.positions),
        global_batch=settings.global_batch,
        side=backbone.image_size,
        augmentation=settings.augmentation,
        seed=job.seed,
        workers=job.threads,
        fill=fill_color_of(job),
        second_augmentation=settings.augmentation,
    )


def _optimizer(weights: AggregationWeights, settings: config.Adapt) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        weights.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def _objective(backbone: OnlineBackbone, ensemble: ExpertEnsemble) -> Objective:
    """Return the objective: minus the mean cosine similarity between the predictions for two views of an image."""

    def objective(replica: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert batch.second is not None
        with torch.no_grad():
            features = [backbone.compute(view)[0] for view in (batch.inputs, batch.second)]
            logits = torch.stack([ensemble.expert_logits(view.flatten(1)) for view in features], dim=1)
        similarity = replica(logits).mean()
        return -similarity, {"similarity": similarity}

    return objective
