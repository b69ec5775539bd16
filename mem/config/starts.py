"""The head that provides the initial classifier of another head."""

from __future__ import annotations

from collections.abc import Mapping

from mem.config.control_heads import BlockClassifier, GroupConstants
from mem.config.heads import BalancedSoftmax, Ce, Crt, Head, LogitAdjustedLoss, LogitAdjustment, Lws, Mem, Tau

LINEAR = (Ce, Tau, Crt, Lws, LogitAdjustment, LogitAdjustedLoss, BalancedSoftmax, GroupConstants)
"""Heads that are linear classifiers when they predict. Other heads can start from them."""
_STARTS_FROM_CE = (Tau, Lws, LogitAdjustment)
"""Heads that start from the finetuned classifier or, without finetuning, from the linear probe."""


def classifier_from(head: Head) -> str | None:
    """Return the name of the head that a head starts from according to its settings, or None."""
    return head.start if isinstance(head, Mem) else getattr(head, "classifier_from", None)


def starts_optionally(head: Head) -> bool:
    """Return whether a head can start from a new classifier or from that of another head."""
    return isinstance(head, Crt | LogitAdjustedLoss | BalancedSoftmax | BlockClassifier)


def start_of(head: Head, probe: str | None) -> str | None:
    """Return the name of the head that provides the initial classifier of a head.

    None means that the head starts from a new classifier or, if its method requires one, from the finetuned classifier.

    Args:
        head: Settings of the head.
        probe: Name of the linear probe that replaces the finetuned classifier; None with finetuning.
    """
    return probe if isinstance(head, _STARTS_FROM_CE) else classifier_from(head)


def check_starts(heads: Mapping[str, Head]) -> None:
    """Check that every head starts from a linear classifier, and that no head starts from itself.

    Raises:
        ValueError: The initial head is missing or not linear, or heads start from each other in a cycle.
    """
    for name, head in heads.items():
        first = classifier_from(head)
        if first is not None and not isinstance(heads.get(first), LINEAR):
            choices = [other for other, settings in heads.items() if isinstance(settings, LINEAR) and other != name]
            raise ValueError(
                f"heads.{name}.classifier_from: this study has no head `{first}` with a linear classifier; choose one "
                f"of {choices}"
            )
    for name in heads:
        chain = [name]
        while (first := classifier_from(heads[chain[-1]])) is not None:
            if first in chain:
                cycle = [*chain[chain.index(first) :], first]
                raise ValueError(
                    f"heads.{first}.classifier_from: the heads start from each other: {' -> '.join(cycle)}. Let one of "
                    "them start from another head or, if its method allows this, from a new classifier"
                )
            chain.append(first)


def ordered_heads(heads: Mapping[str, Head], probe: str | None) -> list[str]:
    """Return the names of all heads, each after the head that it starts from.

    Heads are ordered by the length of the chain of heads that they start from; otherwise they keep their order.

    Args:
        heads: Heads without a cycle, see `check_starts`.
        probe: As in `start_of`.
    """

    def chain_length(name: str) -> int:
        first = start_of(heads[name], probe)
        return 0 if first is None else 1 + chain_length(first)

    return sorted(heads, key=chain_length)
