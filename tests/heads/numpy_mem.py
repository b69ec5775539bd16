"""NumPy implementation of the MEM head with loops over samples and groups. It follows the paper, not the `mem` code."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

State = Mapping[str, np.ndarray]
"""Parameters of a head by name."""


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * weight + bias


def embedding(state: State, g: int, tokens: np.ndarray, depth: int, heads: int) -> np.ndarray:
    """Return the embedding that sub-network g computes for one sample of shape (tokens, features)."""

    def parameter(name: str) -> np.ndarray:
        return state[f"subnetworks.{name}"][g]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ parameter(f"{name}.weight") + parameter(f"{name}.bias")

    x = linear(tokens, "embed")
    for block in range(depth):
        at = f"blocks.{block}."
        normed = layer_norm(x, parameter(at + "norm1.weight").ravel(), parameter(at + "norm1.bias").ravel())
        query, key, value = np.split(linear(normed, at + "qkv"), 3, axis=1)
        mixed = np.empty_like(value)
        size = value.shape[1] // heads
        for h in range(heads):
            channels = slice(h * size, (h + 1) * size)
            attention = softmax(query[:, channels] @ key[:, channels].T / math.sqrt(size))
            mixed[:, channels] = attention @ value[:, channels]
        x = x + linear(mixed, at + "proj")
        normed = layer_norm(x, parameter(at + "norm2.weight").ravel(), parameter(at + "norm2.bias").ravel())
        x = x + linear(gelu(linear(normed, at + "fc1")), at + "fc2")
    return x.mean(axis=0)


def activate(output: np.ndarray, kind: str) -> np.ndarray:
    match kind:
        case "softplus":
            return np.log1p(np.exp(output))
        case "exp":
            return np.exp(output)
        case "residual":
            return 1 + output
    return output


def mem(
    state: State, group_of_class: np.ndarray, groups: int, features: np.ndarray, *, tokens: bool, depth: int,
    heads: int, top_k: int, xi: float, weight: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return data-aware logits, group weights and norms.

    Features have shape (samples, width) or (samples, 1 + tokens, width).
    """
    logits, weights, norms = [], [], []
    for sample in features:
        pooled, inputs = (sample[0], sample[1:]) if tokens else (sample, sample[None])
        plain = state["classifier.weight"] @ pooled + state["classifier.bias"]
        norm = np.array([np.linalg.norm(embedding(state, g, inputs, depth, heads)) for g in range(groups)])
        top = [np.sort(plain[group_of_class == g])[::-1][:top_k] for g in range(groups)]
        hidden = gelu(state["fusion.hidden.weight"] @ np.concatenate([norm / xi, *top]) + state["fusion.hidden.bias"])
        w = activate(state["fusion.out.weight"] @ hidden + state["fusion.out.bias"], weight)
        logits.append(plain + w[group_of_class] if weight == "additive" else plain * w[group_of_class])
        weights.append(w)
        norms.append(norm)
    return np.array(logits), np.array(weights), np.array(norms)


def loss(
    logits: np.ndarray, norms: np.ndarray, labels: np.ndarray, group_of_class: np.ndarray, xi: float, mu: float,
    reo_weight: float,
) -> float:  # fmt: skip
    """Return L_DAC + reo_weight * L_REO (eq. 9 and 10)."""
    total = -float(np.mean(np.log(softmax(logits)[np.arange(len(labels)), labels])))
    for g in range(norms.shape[1]):
        positive = group_of_class[labels] == g
        if positive.any():
            total += reo_weight * float(np.mean(np.maximum(xi - norms[positive, g], 0) ** 2))
        if (~positive).any():
            total += reo_weight * float(np.mean(np.maximum(norms[~positive, g] - mu, 0) ** 2))
    return total
