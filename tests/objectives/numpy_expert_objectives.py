"""The objectives of several experts in NumPy, written from their definitions with loops over samples and experts.

Logits have the shape (samples, experts, classes).
"""

from __future__ import annotations

import numpy as np

from tests.objectives.numpy_objectives import Samples, cross_entropy, filled, ldam, log_softmax


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q)."""
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum()


def ride(
    z: np.ndarray,
    samples: Samples,
    counts: np.ndarray,
    mean: np.ndarray,
    margin: float,
    beta: float | None,
    diversity: float,
    temperatures: np.ndarray,
) -> np.ndarray:
    """`mean` are the mean logits of the experts, which have no gradient. `margin` contains the scale."""
    values = sum(ldam(z[:, e], samples, counts, margin, beta) for e in range(z.shape[1]))
    for i in range(len(z)):
        for own in z[i]:
            kl = divergence(softmax(mean[i] / temperatures), softmax(own / temperatures))
            values[i] -= diversity * np.mean(temperatures) ** 2 * kl
    return values


def class_temperatures(counts: np.ndarray, highest: float, r: float) -> np.ndarray:
    share = filled(counts) / filled(counts).sum()
    relative = r * share / (1 / len(counts)) + (1 - r)
    return highest * relative / max(relative)


def sade(z: np.ndarray, samples: Samples, counts: np.ndarray, tau: float) -> np.ndarray:
    share = filled(counts) / filled(counts).sum()
    rank = {k: i for i, k in enumerate(sorted(range(len(share)), key=lambda k: share[k]))}
    by_rank = sorted(share)
    mirrored = np.array([by_rank[len(share) - 1 - rank[k]] for k in range(len(share))])
    return (
        cross_entropy(z[:, 0], samples)
        + cross_entropy(z[:, 1] + np.log(share), samples)
        + cross_entropy(z[:, 2] + np.log(share / mirrored**tau), samples)
    )


def ncl(z: np.ndarray, samples: Samples, counts: np.ndarray, hard: int, weight: float) -> np.ndarray:
    values = np.zeros(len(z))
    for i, label in enumerate(samples.labels):
        others = sorted((k for k in range(z.shape[2]) if k != label), key=lambda k: -z[i, 0, k])
        chosen = [label, *others[: hard - 1]]
        every = z[i] + np.log(filled(counts))
        only_hard = np.zeros_like(every)
        only_hard[:, chosen] = every[:, chosen]
        for a in (every, only_hard):
            values[i] -= log_softmax(a)[:, label].sum()
            for first in range(len(a)):
                for second in range(len(a)):
                    if first != second:
                        kl = divergence(softmax(a[second]), softmax(a[first]))
                        values[i] += weight * kl / (len(a) - 1)
    return values


def ace(z: np.ndarray, samples: Samples, counts: np.ndarray, largest: tuple[int, ...], weight: float) -> np.ndarray:
    values = np.zeros(len(z))
    for i, label in enumerate(samples.labels):
        for own, limit in zip(z[i], (np.inf, *largest), strict=True):
            owned = [k for k in range(len(counts)) if counts[k] <= limit]
            if label in owned:
                entropy = np.log(sum(np.exp(own[k]) for k in owned)) - own[label]
                suppressed = sum(own[k] ** 2 for k in range(len(counts)) if k not in owned)
                values[i] += counts.sum() / counts[owned].sum() * (entropy + weight * suppressed)
    return values
