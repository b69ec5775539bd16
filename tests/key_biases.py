"""Comparison of trained attention layers regardless of rounding errors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def without_key_biases(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model without the biases of its attention keys.

    A constant added to all keys does not change the softmax, so the gradient of these biases is zero except for
    rounding errors. Adam scales the rounding errors up to steps as large as the learning rate. The biases therefore
    differ between processors, numbers of ranks and batch shapes, although the model computes the same function.
    """
    found = {}
    for name, value in weights.items():
        if name.endswith("qkv.bias"):
            queries, _, values = value.chunk(3, dim=-1)
            value = torch.cat([queries, values], dim=-1)
        found[name] = value
    return found
