"""Stage `pretrain`: trains a masked autoencoder on the long-tailed training images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mem import config
from mem.data.batch import Batch
from mem.data.beton.reader import Beton
from mem.jobs.backbone_training import BackboneInputs, pixels_of, train_backbone
from mem.jobs.backbones import load_starting_weights, move_to_device
from mem.jobs.job import Job
from mem.jobs.reconstructions import reconstruction_logger
from mem.models.autoencoder import Autoencoder
from mem.models.backbones import seed_torch
from mem.models.mae import build_autoencoder
from mem.models.parameter_groups import decay_groups
from mem.models.pixels import Pixels
from mem.models.weights.tensors import save_weights
from mem.train.optimizers import backbone_optimizer
from mem.train.state import TrainState
from mem.train.step import Objective


def pretrain(job: Job) -> Mapping[str, Any]:
    """Train the autoencoder and write `autoencoder.safetensors` and its encoder, `encoder.safetensors`."""
    backbone = job.run.union("backbone", config.Backbone)
    settings = job.run.section("pretrain", config.Pretrain)
    seed_torch(job.seed)
    model = build_autoencoder(backbone, settings)
    record = load_starting_weights(job, model)
    move_to_device(model, job.world.device, job.run.compute, job.run.backbone)
    groups = decay_groups(model, settings.weight_decay, decay_all=settings.decay_all)
    state = TrainState(model, backbone_optimizer(groups, settings), settings.ema_decay)
    pixels, side = pixels_of(job), backbone.image_size
    validate = None
    if settings.reconstruct_every_epochs:
        train = Beton(job.inputs["images"] / "train.beton")
        validate = reconstruction_logger(job, state, train, side, backbone.center_crop, pixels)
    results = train_backbone(
        job,
        state,
        reconstruction(pixels, model.grid**2),
        settings,
        BackboneInputs(settings.augmentation, side, flop_shapes=((1, 3, side, side), (1, model.grid**2))),
        validate,
        settings.reconstruct_every_epochs or 0,
    )
    if job.world.is_main:
        about = {"stage": "pretrain", "key": job.run.key}
        trained = state.evaluated_model
        assert isinstance(trained, Autoencoder)
        save_weights(job.folder.path / "encoder.safetensors", trained.encoder.state_dict(), about)
        save_weights(job.folder.path / "autoencoder.safetensors", trained.state_dict(), about)
    return {**results, **record}


def reconstruction(pixels: Pixels, tokens: int) -> Objective:
    """Return the autoencoder's objective. The mask of a sample depends only on the sample's random numbers."""

    def objective(replica: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        images = pixels.normalise(batch.inputs)
        return replica(images, batch.uniforms("mask", tokens)).mean(), {}

    return objective
