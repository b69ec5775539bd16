"""Image sheet that shows the inputs and reconstructions of a masked autoencoder."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mem.models.autoencoder import Autoencoder, patch_statistics
from mem.models.pixels import Pixels
from mem.models.sheet_layout import GAP_PIXELS

GREY = 0.5
"""Grey level of masked patches, from 0 to 1."""
SMALLEST_SIDE_PIXELS = 112
"""Images with a shorter side are enlarged to at least this side length."""


@torch.no_grad()
def reconstruction_sheet(
    model: Autoencoder,
    inputs: UInt8[Tensor, "samples side side 3"],
    noise: Float[Tensor, "samples tokens"],
    pixels: Pixels,
) -> UInt8[Tensor, "rows columns 3"]:
    """Return a sheet with one row per image: the input, its visible patches, and its reconstruction.

    The reconstruction combines the visible patches of the input with the predictions for the masked patches. If the
    loss normalises patches, the model does not predict their mean and contrast, which are then taken from the input.
    """
    training = model.training
    model.eval()
    images = pixels.normalise(inputs)
    prediction, visible = model.reconstruct(images, noise)
    model.train(training)
    patches = model.patches(images)
    prediction = prediction.to(patches.dtype)
    if model.norm_pix_loss:
        mean, scale = patch_statistics(patches)
        prediction = prediction * scale + mean
    is_visible = torch.zeros_like(noise, dtype=torch.bool).scatter(1, visible, True)[:, :, None]
    masked = model.patches(torch.ones_like(images) * pixels.normalise(_grey(inputs)))
    columns = (patches, torch.where(is_visible, patches, masked), torch.where(is_visible, patches, prediction))
    return _sheet([pixels.restore(model.images(column)) for column in columns])


def _grey(inputs: UInt8[Tensor, "samples side side 3"]) -> UInt8[Tensor, "1 1 1 3"]:
    return torch.full((1, 1, 1, 3), round(255 * GREY), dtype=torch.uint8, device=inputs.device)


def _sheet(columns: list[UInt8[Tensor, "samples side side 3"]]) -> UInt8[Tensor, "rows columns 3"]:
    """Arrange images on a white background, and enlarge small images by an integer factor."""
    samples, side = columns[0].shape[:2]
    factor = -(-SMALLEST_SIDE_PIXELS // side)
    step = side * factor + GAP_PIXELS
    shape = (samples * step + GAP_PIXELS, len(columns) * step + GAP_PIXELS, 3)
    sheet = torch.full(shape, 255, dtype=torch.uint8)
    for c, column in enumerate(columns):
        enlarged = column.repeat_interleave(factor, 1).repeat_interleave(factor, 2).cpu()
        for r, image in enumerate(enlarged):
            top, left = GAP_PIXELS + r * step, GAP_PIXELS + c * step
            sheet[top : top + len(image), left : left + len(image)] = image
    return sheet
