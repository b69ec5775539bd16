"""Running statistics of BatchNorm that are computed again for a finetuned backbone, before it computes features.

MiSLAS (Zhong et al. 2021, section 3.4) calls this shift learning. In the official code, the statistics move while the
second stage trains the classifier. Here, they are computed first, so that all heads use the same frozen backbone.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from mem import config
from mem.data.batch import on_device
from mem.data.loading.split_images import SplitImages
from mem.errors import Stopped
from mem.jobs.backbone_training import BackboneInputs, pixels_of, training_images
from mem.jobs.frozen_features import feature_function
from mem.jobs.job import Job
from mem.jobs.precision import precision_of
from mem.jobs.unfinished import UNFINISHED_STATISTICS
from mem.models.backbones import BackboneClassifier
from mem.models.batch_norm import (
    configure_batch_norms,
    keep_batch_norm_statistics,
    running_statistics,
    train_only_batch_norms,
    update_batch_norm_statistics,
)
from mem.models.weights.tensors import load_weights, save_weights
from mem.progress import Progress
from mem.runs.outputs import BATCH_NORM_STATISTICS
from mem.train.schedules import training_steps


def update_batch_norm(
    job: Job, model: BackboneClassifier, backbone: config.ImageBackbone, settings: config.Features, train: SplitImages
) -> None:
    """Update the running statistics of a backbone as `features.batch_norm` specifies, and store them for a resumed run.

    The result depends on the number of ranks by rounding only. A run that is interrupted during the update starts the
    update again. A run that is interrupted later reads the stored statistics, so that all features of a run are
    computed with the same ones.

    Raises:
        UserError: The batch cannot be divided among the ranks.
        Stopped: The job was asked to stop.
    """
    path = job.folder.path / UNFINISHED_STATISTICS
    stored = job.world.from_main(path.is_file() if job.world.is_main else None)
    if not stored:
        _compute(job, model, backbone, settings, train)
        if job.world.is_main:
            save_weights(path, running_statistics(model.backbone), {"key": job.run.key})
        job.world.barrier()
    _load(model, path)


def finish_batch_norm(job: Job) -> None:
    """Give the file of statistics its final name. Call this on all ranks, after the features are on disk."""
    job.world.barrier()
    if job.world.is_main:
        os.replace(job.folder.path / UNFINISHED_STATISTICS, job.folder.path / BATCH_NORM_STATISTICS)


def load_batch_norm(model: BackboneClassifier, features: Path) -> None:
    """Load the statistics from the folder of a finished features run."""
    _load(model, features / BATCH_NORM_STATISTICS)


def _load(model: BackboneClassifier, path: Path) -> None:
    statistics = load_weights(path)
    assert statistics.keys() == running_statistics(model.backbone).keys()
    model.backbone.load_state_dict({**model.backbone.state_dict(), **statistics})


def _compute(
    job: Job, model: BackboneClassifier, backbone: config.ImageBackbone, settings: config.Features, train: SplitImages
) -> None:
    update = settings.batch_norm
    assert update is not None and settings.augmentation is not None
    configure_batch_norms(model, job.world, update.batch, None)
    steps = training_steps(update.epochs, len(train), update.batch)
    inputs = BackboneInputs(settings.augmentation, backbone.image_size, sampler=update.sampler)
    data = training_images(job, train, inputs, steps, update.batch)
    compute = feature_function(model, pixels_of(job), precision_of(job, settings.precision))
    title, quiet = f"{job.run.title}: BatchNorm", not job.world.is_main
    with (
        job.stop.deferred(),
        Progress(title, steps * update.batch, quiet=quiet) as progress,
        torch.no_grad(),
        train_only_batch_norms(model),
    ):
        for batch in on_device(data.from_step(0, steps), job.world.device):
            compute(batch.inputs)
            keep_batch_norm_statistics(model)
            update_batch_norm_statistics(model, job.world)
            progress.advance(update.batch)
            if job.world.any(job.stop.requested):
                raise Stopped("Stopped on request; the update of the BatchNorm statistics starts again.")
