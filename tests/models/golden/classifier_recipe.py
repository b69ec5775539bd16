"""Inputs from which LIFT's classifier, its loss and the initial weights of the classifier are recorded."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.models.golden import recipe

CLASSES, WIDTH, EMBEDDING, SAMPLES = 5, 12, 7, 9
SCALE = 25.0
"""Scale of the cosine classifier in LIFT (utils/config.py)."""
COUNTS = (60, 25, 8, 3, 1)
LABELS = (0, 0, 1, 2, 0, 3, 4, 1, 2)
"""Labels of the features. Each class has at least one feature, because LIFT requires this."""
NAMES = ("great_white shark", "tench", "crane", "airfield", "apple")
ENSEMBLE = ("a bad photo of a {}.", "the origami {}.", "art of the {}.")
"""Prompts that replace LIFT's list of 80, which is also averaged."""


def features() -> Tensor:
    """Return one feature per sample."""
    return torch.from_numpy(recipe.normal("LIFT features", (SAMPLES, WIDTH))).double()


def labels() -> Tensor:
    """Return the class of each sample."""
    return torch.tensor(LABELS)


def weights() -> Tensor:
    """Return weight vectors of the classifier, which do not have norm 1."""
    return torch.from_numpy(recipe.normal("LIFT weights", (CLASSES, WIDTH))).double()


def projection() -> Tensor:
    """Return CLIP's projection of image features, as a factor on the right."""
    return torch.from_numpy(recipe.normal("LIFT projection", (WIDTH, EMBEDDING))).double()


def text_features(texts: list[str]) -> Tensor:
    """Return features that depend on the texts alone, in place of those of a text encoder."""
    return torch.stack([torch.from_numpy(recipe.normal(f"LIFT text {text}", (EMBEDDING,))) for text in texts]).double()
