"""Reconstructions of a few training images while a masked autoencoder learns, as PNG files and MLflow artifacts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import nn

from mem import files, rng
from mem.data.beton.reader import Beton
from mem.data.loading.images import plain_batches
from mem.jobs.job import Job
from mem.models.autoencoder import Autoencoder
from mem.models.pixels import Pixels
from mem.models.reconstructions import reconstruction_sheet
from mem.train.state import TrainState

SHOWN = 8
"""Images of a sheet."""
FOLDER = "reconstructions"


def reconstruction_logger(
    job: Job, state: TrainState, train: Beton, side: int, center_crop: float, pixels: Pixels
) -> Callable[[nn.Module], Mapping[str, float]]:
    """Draws `reconstructions/step-N.png` in the run's folder: always the same images under the same masks."""
    indices = images_to_show(train.labels)
    (batch,) = plain_batches(train, indices, len(indices), side, center_crop, workers=1)

    def draw(model: nn.Module) -> Mapping[str, float]:
        if not job.world.is_main:
            return {}
        assert isinstance(model, Autoencoder)
        device = job.world.device
        noise = rng.uniforms(job.seed, "reconstructions", 0, len(indices), model.grid**2)
        sheet = reconstruction_sheet(
            model, batch.inputs.to(device), torch.from_numpy(noise).to(device, torch.float32), pixels
        )
        path = job.folder.path / FOLDER / f"step-{state.step:07d}.png"
        with files.atomic(path, "wb") as file:
            Image.fromarray(sheet.numpy()).save(file, "png")
        job.log.artifact(path, FOLDER, state.step)
        return {}

    return draw


def images_to_show(labels: Int64[np.ndarray, " images"]) -> Int64[np.ndarray, " shown"]:
    """The first image of each of a few classes, spread over the classes from the most to the least frequent."""
    classes, first, counts = np.unique(labels, return_index=True, return_counts=True)
    by_frequency = first[np.argsort(-counts, kind="stable")]
    return by_frequency[np.linspace(0, len(classes) - 1, min(SHOWN, len(classes))).round().astype(int)]
