"""Inputs of the recorded losses. They need no random numbers, so that no library can change them."""

from __future__ import annotations

import numpy as np

COUNTS = [500, 120, 40, 9, 3, 1]
"""Training images per class."""
LABELS = [0, 0, 0, 1, 0, 2, 1, 3, 0, 5, 0, 2]
"""Label of each sample. Class 4 has training images, but no sample in the batch."""
SMOOTHING = 0.1
LADE = {"regulariser_weight": 0.1, "quadratic_weight": 0.5}
LDAM = {"max_margin": 0.5, "beta": 0.9999}
SCALE = 30.0
TAU = 1.5
BETA = 0.999
GAMMAS = (0.5, 2.0)
EXPERTS = 3
RIDE_SCALE = 4.0
RIDE = {"max_margin": 0.5, "diversity_weight": 0.2, "temperature": 1.5, "temperature_prior_weight": 0.05}
SADE = {"tau": 2.0}
NCL = {"hard_classes": 3, "mutual_weight": 0.6}


def logits() -> np.ndarray:
    """Return logits between -4 and 4 in float64."""
    samples, classes = np.meshgrid(np.arange(len(LABELS)), np.arange(len(COUNTS)), indexing="ij")
    return 4 * np.sin(1.7 * samples + 2.3 * classes + 0.9 * samples * classes)


def cosines() -> np.ndarray:
    """Return the outputs of a cosine classifier without its scale."""
    return logits() / 5


def expert_logits() -> np.ndarray:
    """Return the logits of several experts between -4 and 4: samples, experts, classes."""
    shape = len(LABELS), EXPERTS, len(COUNTS)
    samples, experts, classes = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return 4 * np.sin(1.7 * samples + 2.9 * experts + 2.3 * classes + 0.9 * samples * classes + 0.4 * experts * classes)


def partner_labels() -> list[int]:
    """Return the label of the sample that each sample is mixed with: the one at the mirrored position, as in timm."""
    return LABELS[::-1]


def shares() -> np.ndarray:
    """Return the weight of the label of each mixed sample."""
    return 0.5 + 0.5 * np.cos(np.arange(len(LABELS)))
