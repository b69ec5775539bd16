"""Gaussian blur of randomly selected images (Chen et al. 2020, appendix A)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from mem.config import Blur

UNIFORMS = 2
"""Number of uniform random numbers per sample: whether to blur, and the standard deviation."""


def sample_sigmas(uniforms: Float64[np.ndarray, "samples numbers"], settings: Blur) -> Float64[np.ndarray, " samples"]:
    """Return the standard deviation of each sample's Gaussian in pixels, or 0 if the sample is not blurred."""
    low, high = settings.sigma
    return np.where(uniforms[:, 0] < settings.probability, low + (high - low) * uniforms[:, 1], 0.0)
