"""Ensembles and settings for tests of heads on experts."""

from __future__ import annotations

import numpy as np
import torch

from mem import config
from mem.heads.build import HeadInputs
from mem.heads.ensemble import ExpertEnsemble
from tests.heads.test_baselines import TRAINING

EXPERTS, CLASSES, WIDTH = 3, 5, 4
COUNTS = np.array([200, 120, 50, 21, 5])
ROUTER = config.RideRouter(
    method="ride_router", top_logits=3, hidden_width=16, positive_weight=100, threshold=0.5, training=TRAINING
)
AGGREGATION = config.SadeAggregation(method="sade_aggregation")


def ensemble_of(weight: np.ndarray, bias: np.ndarray | None = None, scale: float | None = None) -> ExpertEnsemble:
    """Return an ensemble with linear classifiers or, with a scale, cosine classifiers."""
    bias_tensor = None if bias is None else torch.from_numpy(bias)
    return ExpertEnsemble(torch.from_numpy(weight), bias=bias_tensor, scale=scale)


def random_ensemble(seed: int = 0, scale: float | None = None) -> ExpertEnsemble:
    """Return an ensemble in float32."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(EXPERTS, CLASSES, WIDTH)).astype(np.float32)
    bias = rng.normal(size=(EXPERTS, CLASSES)).astype(np.float32)
    return ensemble_of(weight, bias if scale is None else None, scale)


def head_inputs(seed: int = 0, scale: float | None = None) -> HeadInputs:
    """Return the inputs of a head on experts."""
    return HeadInputs(random_ensemble(seed, scale), COUNTS, config.Shots(), seed)


def random_features(samples: int = 7, seed: int = 1) -> torch.Tensor:
    """Return the concatenated features of all experts."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(samples, EXPERTS * WIDTH))).float()
