"""Comparison of trained attention layers whose rounding differs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def without_key_biases(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model without the biases of its attention keys.

    A constant added to all keys does not change the softmax, so that the gradient of these biases is zero except for
    rounding. Adam enlarges it to steps of up to the learning rate, which makes the biases differ between processors,
    numbers of ranks and batch shapes, while the function of the model stays the same.
    """
    found = {}
    for name, value in weights.items():
        if name.endswith("qkv.bias"):
            queries, _, values = value.chunk(3, dim=-1)
            value = torch.cat([queries, values], dim=-1)
        found[name] = value
    return found
