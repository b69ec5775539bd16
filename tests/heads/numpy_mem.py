"""NumPy implementation of the MEM head with loops over samples and groups. It follows the paper, not the `mem` code."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mem.config import Mem

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


def embeddings(state: State, g: int, tokens: np.ndarray, depth: int, heads: int) -> np.ndarray:
    """Return the embedding of each token that sub-network g computes for one sample of shape (tokens, features)."""

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
    return x


def norm_of(embedded: np.ndarray, pool: str) -> float:
    """Return the norm of the mean embedding, or the mean of the norms of all embeddings."""
    if pool == "embedding":
        return float(np.sqrt((embedded.mean(axis=0) ** 2).sum()))
    return float(np.mean([np.sqrt((token**2).sum()) for token in embedded]))


def read(logits: np.ndarray, kind: str) -> np.ndarray:
    """Return the logits of one sample as the modulator reads them."""
    match kind:
        case "centred":
            return logits - logits.mean()
        case "log_softmax":
            return np.log(softmax(logits))
        case "standardised":
            return (logits - logits.mean()) / np.sqrt(((logits - logits.mean()) ** 2).mean() + 1e-6)
    return logits


def activate(output: np.ndarray, kind: str) -> np.ndarray:
    match kind:
        case "softplus":
            return np.log1p(np.exp(output))
        case "exp":
            return np.exp(output)
        case "sigmoid":
            return 1 / (1 + np.exp(-output))
        case "residual":
            return 1 + output
        case "softmax":
            return softmax(output)
        case "mixture":
            return np.log(softmax(output))
    return output


def modulated(logits: np.ndarray, w: np.ndarray, group_of_class: np.ndarray, kind: str) -> np.ndarray:
    """Return the data-aware logits of one sample."""
    if kind == "additive":
        return logits + w[group_of_class]
    if kind != "mixture":
        return logits * w[group_of_class]
    probabilities = np.empty_like(logits)
    for g in range(len(w)):
        members = group_of_class == g
        probabilities[members] = np.exp(w[g]) * softmax(logits[members])
    return np.log(probabilities)


def mem(
    state: State, group_of_class: np.ndarray, features: np.ndarray, settings: Mem, heads: int,
    fixed_norms: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return data-aware logits, group weights and norms.

    Features have shape (samples, width) or (samples, 1 + tokens, width). The fusion uses `fixed_norms` if they are
    given. A finite difference of the result is then a gradient that does not pass through the norms.
    """
    logits, weights, norms = [], [], []
    scale = settings.xi if settings.norms == "scaled" else 1.0
    temperature = np.exp(state["log_temperature"]) if settings.temperature == "learned" else settings.temperature
    for i, sample in enumerate(features):
        pooled, inputs = (sample[0], sample[1:]) if settings.input == "tokens" else (sample, sample[None])
        plain = read(state["classifier.weight"] @ pooled + state["classifier.bias"], settings.logits)
        embedded = [embeddings(state, g, inputs, settings.depth, heads) for g in range(settings.groups)]
        norm = np.array([norm_of(tokens, settings.pool) for tokens in embedded])
        top = [np.sort(plain[group_of_class == g])[::-1][: settings.top_k] for g in range(settings.groups)]
        fused = norm if fixed_norms is None else fixed_norms[i]
        hidden = gelu(
            state["fusion.hidden.weight"] @ np.concatenate([fused / scale, *top]) + state["fusion.hidden.bias"]
        )
        w = activate(state["fusion.out.weight"] @ hidden + state["fusion.out.bias"], settings.weight)
        logits.append(modulated(plain, w, group_of_class, settings.weight) / temperature)
        weights.append(w)
        norms.append(norm)
    return np.array(logits), np.array(weights), np.array(norms)


def classification_loss(logits: np.ndarray, labels: np.ndarray, log_prior: np.ndarray | float = 0.0) -> float:
    """Return L_DAC (eq. 9)."""
    return -float(np.mean(np.log(softmax(logits + log_prior)[np.arange(len(labels)), labels])))


def regularisation(norms: np.ndarray, labels: np.ndarray, group_of_class: np.ndarray, settings: Mem) -> float:
    """Return reo_weight * L_REO (eq. 3 to 5)."""
    total = 0.0
    for g in range(norms.shape[1]):
        positive = group_of_class[labels] == g
        if positive.any():
            total += float(np.mean(np.maximum(settings.xi - norms[positive, g], 0) ** 2))
        if (~positive).any():
            total += float(np.mean(np.maximum(norms[~positive, g] - settings.mu, 0) ** 2))
    return settings.reo_weight * total / (settings.xi**2 if settings.reo_scale == "xi_squared" else 1.0)
