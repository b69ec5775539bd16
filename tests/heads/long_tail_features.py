"""Gaussian features with class counts like those of iNaturalist 2018, and a linear classifier trained on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from mem.longtail import hold_out_share

CLASSES, WIDTH = 400, 32
HOLDOUT = 0.1
TEST_IMAGES = 20
"""Test images per class."""


@dataclass(frozen=True)
class LongTail:
    """Features and labels of val (a holdout of the training images) and test, and the weights of a classifier."""

    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    weight: Tensor
    """Weights of shape (classes, width), trained with the cross-entropy on the remaining training images."""


def class_counts(seed: int) -> np.ndarray:
    """Return log-normal counts from 2 to 1,000 with a mean of 54, as in iNaturalist 2018, in random order."""
    quantiles = (np.arange(CLASSES) + 0.5) / CLASSES
    normal = np.array([NormalDist(3.25, 1.25).inv_cdf(q) for q in quantiles])
    return np.random.default_rng(seed).permutation(np.clip(np.exp(normal).round(), 2, 1000).astype(np.int64))


def long_tail(seed: int) -> LongTail:
    """Draw features and train a classifier on them with a holdout as val."""
    generator = np.random.default_rng(seed + 1000)
    centers = generator.normal(0, 0.7, (CLASSES, WIDTH))

    def draw(labels: np.ndarray) -> tuple[Tensor, Tensor]:
        features = centers[labels] + generator.normal(0, 1, (len(labels), WIDTH))
        return torch.from_numpy(features).float(), torch.from_numpy(labels)

    labels = np.repeat(np.arange(CLASSES), class_counts(seed))
    features, _ = draw(labels)
    parts = hold_out_share(labels, CLASSES, HOLDOUT, seed, "holdout")
    train, val = ((features[part], torch.from_numpy(labels[part])) for part in (parts.train, parts.rest))
    test = draw(np.repeat(np.arange(CLASSES), TEST_IMAGES))
    return LongTail(val, test, trained_weight(*train, seed))


def trained_weight(features: Tensor, labels: Tensor, seed: int, epochs: int = 10, batch: int = 512) -> Tensor:
    """Train a linear classifier with SGD (momentum 0.9, cosine schedule from 4), with the gradient in closed form."""
    generator = torch.Generator().manual_seed(seed)
    parameters, momentum = torch.zeros(WIDTH + 1, CLASSES), torch.zeros(WIDTH + 1, CLASSES)
    decayed = torch.cat([torch.ones(WIDTH, 1), torch.zeros(1, 1)])  # no weight decay for the bias
    inputs = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    batches = [
        indices for _ in range(epochs) for indices in torch.randperm(len(labels), generator=generator).split(batch)
    ]
    for step, indices in enumerate(batches):
        error = (inputs[indices] @ parameters).softmax(1)
        error[torch.arange(len(indices)), labels[indices]] -= 1
        momentum = 0.9 * momentum + inputs[indices].T @ error / len(indices) + 1e-4 * decayed * parameters
        parameters = parameters - 2 * (1 + math.cos(math.pi * step / len(batches))) * momentum
    return parameters[:WIDTH].T.contiguous()
