"""Stage `pretrain`: a masked autoencoder on the long-tailed training images themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mem import config
from mem.data.batch import Batch
from mem.fit import Objective, TrainState
from mem.models.backbones import seeded
from mem.models.mae import MaskedAutoencoder
from mem.models.parameter_groups import decay_groups
from mem.models.pixels import Pixels
from mem.models.weights import save_weights
from mem.optim import adamw
from mem.stages.job import Job
from mem.stages.training import pixels_of, train_backbone


def pretrain(job: Job) -> Mapping[str, Any]:
    """Train the autoencoder and keep its encoder as `encoder.safetensors`."""
    backbone = job.run.section("backbone", config.VisionTransformer)
    settings = job.run.section("pretrain", config.Pretrain)
    seeded(job.seed)
    model = MaskedAutoencoder(backbone, settings.decoder, settings.mask_ratio, settings.norm_pix_loss)
    model.to(job.world.device)
    state = TrainState(model, adamw(decay_groups(model, settings.weight_decay), settings.betas))
    objective = reconstruction(pixels_of(job.inputs["images"]), backbone.tokens)
    figures = train_backbone(job, state, objective, settings, settings.augmentation, backbone.image_size)
    if job.world.is_main:
        about = {"stage": "pretrain", "key": job.run.key}
        save_weights(job.folder.path / "encoder.safetensors", model.encoder.state_dict(), about)
        save_weights(job.folder.path / "autoencoder.safetensors", model.state_dict(), about)
    job.checkpoints().clear()
    return figures


def reconstruction(pixels: Pixels, tokens: int) -> Objective:
    """The autoencoder's loss; each sample's mask comes from its own numbers."""

    def objective(replica: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        images = pixels.normalise(batch.inputs)
        return replica(images, batch.uniforms("mask", tokens)).mean(), {}

    return objective
