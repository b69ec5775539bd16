"""Weights, images and masks that are generated from their names, so that only results need to be recorded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SAMPLES, SIDE, GRID = 2, 224, 14
VISIBLE = 49
"""Number of visible patches: int(196 * (1 - 0.75))."""
DECODER = {"width": 512, "depth": 1, "heads": 16}
VIT = {"image_size": SIDE, "patch_size": 16, "width": 768, "depth": 2, "heads": 12}
CONVMAE = {
    "image_size": SIDE,
    "patch_sizes": (4, 2, 2),
    "widths": (256, 384, 768),
    "depths": (2, 2, 2),
    "heads": 12,
    "mlp_ratios": (4.0, 4.0, 4.0),
}
SAMPLED = 12
"""Number of gradient values recorded per parameter."""


def normal(name: str, shape: Iterable[int]) -> np.ndarray:
    """Return float32 numbers from a standard normal distribution. They depend only on the name and the shape."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(tuple(shape), dtype=np.float32)


def fill(parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Fill each trained parameter, except position embeddings, with numbers that depend on its official name.

    Matrices and kernels preserve the variance of their input. Gains are close to 1. Biases are not 0, so that a missing
    bias is detected.
    """
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        numbers = torch.from_numpy(normal(name, parameter.shape))
        if parameter.ndim > 1:
            numbers /= math.sqrt(numbers[0].numel())
        else:
            numbers *= 0.1
            numbers += float("norm" in name and name.endswith("weight"))
        with torch.no_grad():
            parameter.copy_(numbers)


def images() -> Tensor:
    """Return normalised images (samples, 3, side, side) that consist of large shapes and noise."""
    coarse = torch.from_numpy(normal("coarse", (SAMPLES, 3, 8, 8)))
    smooth = nn.functional.interpolate(coarse, size=SIDE, mode="nearest")
    return smooth + 0.3 * torch.from_numpy(normal("fine", (SAMPLES, 3, SIDE, SIDE)))


def noise() -> Tensor:
    """Return one random number per patch. The patches with the smallest numbers are visible."""
    return torch.from_numpy(normal("mask", (SAMPLES, GRID * GRID)))


def sampled_indices(name: str, size: int) -> np.ndarray:
    """Return the indices of the recorded values of a parameter's gradient."""
    key = int.from_bytes(hashlib.blake2b(f"places {name}".encode(), digest_size=8).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).integers(0, size, SAMPLED)


def summary(gradients: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the recorded statistics of each gradient: L2 norm, largest absolute value, and sampled values."""
    found = {}
    for name, gradient in gradients.items():
        flat = gradient.detach().double().flatten()
        values = flat[torch.from_numpy(sampled_indices(name, len(flat)))]
        found[name] = {
            "shape": list(gradient.shape),
            "norm": float(flat.norm()),
            "largest": float(flat.abs().max()),
            "values": values.tolist(),
        }
    return found
