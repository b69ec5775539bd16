"""The objectives of finetuning in NumPy, written from their definitions with loops over samples and classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Samples:
    """Targets of a batch."""

    labels: np.ndarray
    partners: np.ndarray | None = None
    shares: np.ndarray | None = None

    def soft(self, classes: int, smoothing: float) -> np.ndarray:
        """Return the target of each class in each sample."""
        rows = np.full((len(self.labels), classes), smoothing / classes)
        for i, label in enumerate(self.labels):
            share = 1.0 if self.shares is None else self.shares[i]
            rows[i, label] += (1 - smoothing) * share
            if self.partners is not None:
                rows[i, self.partners[i]] += (1 - smoothing) * (1 - share)
        return rows


Values = Callable[[np.ndarray, Samples], np.ndarray]
"""Function of the logits and the targets that returns one value per sample."""


def filled(counts: np.ndarray) -> np.ndarray:
    return np.where(counts == 0, 1, counts).astype(float)


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def cross_entropy(z: np.ndarray, samples: Samples, smoothing: float = 0.0) -> np.ndarray:
    return -(samples.soft(z.shape[1], smoothing) * log_softmax(z)).sum(axis=1)


def balanced_softmax(z: np.ndarray, samples: Samples, counts: np.ndarray, smoothing: float) -> np.ndarray:
    weighted = filled(counts) * np.exp(z)
    log_p = np.log(weighted / weighted.sum(axis=1, keepdims=True))
    return -(samples.soft(len(counts), smoothing) * log_p).sum(axis=1)


def logit_adjustment(z: np.ndarray, samples: Samples, counts: np.ndarray, tau: float, smoothing: float) -> np.ndarray:
    n = filled(counts)
    return cross_entropy(z + tau * np.log(n / n.sum()), samples, smoothing)


def balanced_bce(z: np.ndarray, samples: Samples, counts: np.ndarray, tau: float, smoothing: float) -> np.ndarray:
    n = filled(counts)
    # The odds pi / (1 - pi) of a class are its images divided by all others.
    p = sigmoid(z + tau * np.log(n / (n.sum() - n)))
    t = samples.soft(len(counts), smoothing)
    return -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum(axis=1)


def lade(z: np.ndarray, samples: Samples, counts: np.ndarray, alpha: float, quadratic: float) -> np.ndarray:
    prior = filled(counts) / filled(counts).sum()
    regulariser = 0.0
    for c, pi in enumerate(prior):
        own = z[samples.labels == c, c]
        a = np.log(np.mean(np.exp(z[:, c]) / (pi * len(prior))))
        regulariser -= pi * ((own.mean() if len(own) else 0.0) - a - quadratic * a**2)
    return cross_entropy(z + np.log(prior), samples) + alpha * regulariser


def effective_numbers(counts: np.ndarray, beta: float) -> np.ndarray:
    """The sum of the geometric series 1 + beta + ... + beta^(n - 1)."""
    return np.array([sum(beta**i for i in range(int(n))) for n in filled(counts)])


def ldam(
    z: np.ndarray, samples: Samples, counts: np.ndarray, margin_of_smallest: float, beta: float | None
) -> np.ndarray:
    """`margin_of_smallest` contains the scale of the classifier. Without `beta`, samples are not weighted."""
    n = filled(counts)
    z = z.copy()
    for i, label in enumerate(samples.labels):
        smallest = min((count for count in counts if count), default=1)
        z[i, label] -= margin_of_smallest * min(1.0, smallest / n[label]) ** 0.25
    weights = np.ones(len(n)) if beta is None else 1 / effective_numbers(counts, beta)
    weights = weights / (n / n.sum() @ weights)
    return weights[samples.labels] * cross_entropy(z, samples)


def class_balanced(
    z: np.ndarray, samples: Samples, counts: np.ndarray, beta: float, loss: str, gamma: float
) -> np.ndarray:
    weights = 1 / effective_numbers(counts, beta)
    weights = weights / weights.sum() * len(weights)
    if loss == "softmax":
        return weights[samples.labels] * cross_entropy(z, samples)
    # The classifier starts with the probability 1 / C for each class if its logits start at 0.
    p = 1 / (1 + (len(counts) - 1) * np.exp(-z))
    p_t = np.where(np.arange(len(counts)) == samples.labels[:, None], p, 1 - p)
    return weights[samples.labels] * (-((1 - p_t) ** gamma) * np.log(p_t)).sum(axis=1)


def focal(z: np.ndarray, samples: Samples, gamma: float) -> np.ndarray:
    p = np.exp(log_softmax(z))[np.arange(len(z)), samples.labels]
    return -((1 - p) ** gamma) * np.log(p)


def gradient_of_mean(values: Values, z: np.ndarray, samples: Samples) -> np.ndarray:
    """Return the gradient of the mean of the values with respect to the logits, by central differences."""
    h, gradient = 1e-5, np.empty_like(z)
    for index in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[index] = h
        gradient[index] = (values(z + step, samples).mean() - values(z - step, samples).mean()) / (2 * h)
    return gradient
