"""The data-aware classifier of the paper (eq. 8) and its readings."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

_EPS = 1e-6
"""Epsilon of the variance of the logits, which is 0 for a single class."""


def read_logits(logits: Float[Tensor, "samples classes"], kind: str) -> Float[Tensor, "samples classes"]:
    """Return the logits that eq. 6 to 8 use.

    A product with a group weight depends on a shift and on the scale of the logits, which the softmax of a classifier
    does not fix (shift) or which only its training fixes (scale).

    Args:
        logits: Logits of the linear classifier.
        kind: `plain`: unchanged. `centred`: minus their mean over the classes. `log_softmax`: the classifier's
            log-probabilities. `standardised`: minus their mean, divided by their standard deviation.
    """
    match kind:
        case "centred":
            return logits - logits.mean(dim=1, keepdim=True)
        case "log_softmax":
            return logits.log_softmax(dim=1)
        case "standardised":
            return F.layer_norm(logits, logits.shape[1:], eps=_EPS)
        case _:
            return logits


def modulated_logits(
    logits: Float[Tensor, "samples classes"],
    weights: Float[Tensor, "samples groups"],
    group_of_class: Int64[Tensor, " classes"],
    kind: str,
) -> Float[Tensor, "samples classes"]:
    """Return the logits of the data-aware classifier.

    Args:
        logits: Logits of the classes.
        weights: Group weights w.
        group_of_class: Group of each class.
        kind: `additive`: the sum of logit and weight. `mixture`: the log of the product of the probability of the
            group, whose log is the weight, and the probability of the class given the group, which is the softmax of
            the logits within the group. Otherwise, the product of logit and weight (eq. 8).
    """
    if kind == "mixture":
        weights = weights - group_log_sums(logits, group_of_class, weights.shape[1])
    return data_aware_logits(logits, weights, group_of_class, additive=kind in ("additive", "mixture"))


def group_log_sums(
    logits: Float[Tensor, "samples classes"], group_of_class: Int64[Tensor, " classes"], groups: int
) -> Float[Tensor, "samples groups"]:
    """Return the log of the sum of the exponentials of each group's logits."""
    members = group_of_class == torch.arange(groups, device=group_of_class.device)[:, None]
    return torch.where(members, logits[:, None], -torch.inf).logsumexp(dim=2)


def data_aware_logits(
    logits: Float[Tensor, "samples classes"],
    weights: Float[Tensor, "samples groups"],
    group_of_class: Int64[Tensor, " classes"],
    *,
    additive: bool = False,
) -> Float[Tensor, "samples classes"]:
    """Multiply each logit by the weight of its group. The products are the arguments of the softmax in eq. 8.

    With `additive`, the weight is added to the logit instead.
    """
    if torch.is_grad_enabled():
        # Equivalent to indexing, but the gradient is a matrix product instead of a scatter.
        membership = F.one_hot(group_of_class, weights.shape[1]).T.to(weights.dtype)
        weight_of_class = weights @ membership
    else:
        weight_of_class = weights[:, group_of_class]
    return logits + weight_of_class if additive else logits * weight_of_class
