"""Test-time aggregation of SADE (Zhang et al. 2022, section 4.2): the weights of experts, learned without labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mem.heads.base import Head, pooled_feature
from mem.heads.ensemble import ExpertEnsemble

_EPS = 1e-6
"""Smallest product of the lengths of two vectors of probabilities in their cosine similarity, as in the official
code."""


class AggregationWeights(nn.Module):
    """One weight per expert: the softmax of parameters that start from 1 / E.

    Source: Vanint/SADE-AgnosticLT at cba11b8, test_training_imagenet.py.

    Args:
        experts: Number of experts E.
    """

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.full((experts,), 1 / experts))

    @property
    def weights(self) -> Float[Tensor, " experts"]:
        """The weights, which are positive and add up to 1."""
        return self.scores.softmax(dim=0)

    def forward(self, logits: Float[Tensor, "samples 2 experts classes"]) -> Float[Tensor, " samples"]:
        """Return the cosine similarity between the probabilities that the ensemble predicts for two views.

        Args:
            logits: Logits of each expert for two views of each sample.
        """
        probabilities = aggregate(logits, self.weights).softmax(dim=2)
        return F.cosine_similarity(probabilities[:, 0], probabilities[:, 1], dim=1, eps=_EPS)


def aggregate(
    logits: Float[Tensor, "*samples experts classes"], weights: Float[Tensor, " experts"]
) -> Float[Tensor, "*samples classes"]:
    """Return the weighted sum of the logits of the experts."""
    return torch.einsum("...ec,e->...c", logits, weights.to(logits.dtype))


class SadeAggregationHead(Head):
    """The weighted mean of the logits of the experts. The stage `adapt` learned the weights on test images.

    Args:
        ensemble: The finetuned classifiers of the experts.
        weights: Weight of each expert.
    """

    transductive = True

    def __init__(self, ensemble: ExpertEnsemble, weights: Float[Tensor, " experts"]) -> None:
        super().__init__()
        self.ensemble = ensemble.requires_grad_(False)
        self.register_buffer("weights", weights.clone())

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the logits."""
        return aggregate(self.ensemble.expert_logits(pooled_feature(features)), self.get_buffer("weights"))
