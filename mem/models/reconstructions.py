"""Pictures of what a masked autoencoder sees and makes of it."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mem.models.autoencoder import Autoencoder, statistics
from mem.models.pixels import Pixels

GREY, GAP, SMALLEST = 0.5, 4, 112
"""Level of masked patches (0..1), pixels between pictures, and the side that smaller pictures are enlarged to."""


@torch.no_grad()
def reconstruction_sheet(
    model: Autoencoder,
    inputs: UInt8[Tensor, "samples side side 3"],
    noise: Float[Tensor, "samples tokens"],
    pixels: Pixels,
) -> UInt8[Tensor, "rows columns 3"]:
    """A row for each image: the input, what the encoder sees of it, and that with the predicted patches in the gaps.

    Where the loss normalises patches, a prediction says nothing of a patch's mean and contrast: the picture takes both
    from the input.
    """
    training = model.training
    model.eval()
    images = pixels.normalise(inputs)
    prediction, visible = model.reconstruct(images, noise)
    model.train(training)
    patches = model.patches(images)
    prediction = prediction.to(patches.dtype)
    if model.norm_pix_loss:
        mean, scale = statistics(patches)
        prediction = prediction * scale + mean
    seen = torch.zeros_like(noise, dtype=torch.bool).scatter(1, visible, True)[:, :, None]
    gaps = model.patches(torch.ones_like(images) * pixels.normalise(_grey(inputs)))
    columns = (patches, torch.where(seen, patches, gaps), torch.where(seen, patches, prediction))
    return _sheet([pixels.restore(model.images(column)) for column in columns])


def _grey(inputs: UInt8[Tensor, "samples side side 3"]) -> UInt8[Tensor, "1 1 1 3"]:
    return torch.full((1, 1, 1, 3), round(255 * GREY), dtype=torch.uint8, device=inputs.device)


def _sheet(columns: list[UInt8[Tensor, "samples side side 3"]]) -> UInt8[Tensor, "rows columns 3"]:
    """Pictures side by side on white, enlarged by whole factors where they are small."""
    samples, side = columns[0].shape[:2]
    factor = -(-SMALLEST // side)
    step = side * factor + GAP
    sheet = torch.full((samples * step + GAP, len(columns) * step + GAP, 3), 255, dtype=torch.uint8)
    for c, column in enumerate(columns):
        large = column.repeat_interleave(factor, 1).repeat_interleave(factor, 2).cpu()
        for r, picture in enumerate(large):
            top, left = GAP + r * step, GAP + c * step
            sheet[top : top + len(picture), left : left + len(picture)] = picture
    return sheet
