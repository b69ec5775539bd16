"""Log reconstructions of a few training images during pretraining, as PNG files and MLflow artifacts."""

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
from mem.models.reconstruction_sheet import reconstruction_sheet
from mem.train.state import TrainState

SHEET_IMAGES = 8
"""Number of images per sheet."""
FOLDER = "reconstructions"


def reconstruction_logger(
    job: Job, state: TrainState, train: Beton, side: int, center_crop: float, pixels: Pixels
) -> Callable[[nn.Module], Mapping[str, float]]:
    """Return a validation function that writes `reconstructions/step-N.png` in the run folder.

    Every sheet shows the same images with the same masks.
    """
    indices = images_to_show(train.labels)
    (batch,) = plain_batches(train, indices, len(indices), side, center_crop, workers=1)

    def write_sheet(model: nn.Module) -> Mapping[str, float]:
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

    return write_sheet


def images_to_show(labels: Int64[np.ndarray, " images"]) -> Int64[np.ndarray, " shown"]:
    """Return the first image of each of a few classes, spaced evenly from the most to the least frequent class."""
    classes, first, counts = np.unique(labels, return_index=True, return_counts=True)
    by_frequency = first[np.argsort(-counts, kind="stable")]
    return by_frequency[np.linspace(0, len(classes) - 1, min(SHEET_IMAGES, len(classes))).round().astype(int)]
