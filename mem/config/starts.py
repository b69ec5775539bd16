"""The head that provides the initial classifier of another head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mem.config.class_embeddings import ZeroShot
from mem.config.control_heads import BlockClassifier, GroupConstants
from mem.config.heads import (
    BalancedSoftmax,
    Ce,
    Crt,
    Finetuned,
    Head,
    LogitAdjustedLoss,
    LogitAdjustment,
    Lws,
    Mem,
    Mislas,
    Tau,
)

LINEAR = (
    Ce, Finetuned, Tau, Crt, Lws, Mislas, LogitAdjustment, LogitAdjustedLoss, BalancedSoftmax, GroupConstants, ZeroShot,
)  # fmt: skip
"""Methods whose heads are linear classifiers when they predict, except cosine classifiers; see `is_linear`. The
zero-shot classifier predicts the same as a linear one."""
_STARTS_FROM_CE = (Tau, Lws, Mislas, LogitAdjustment)
"""Heads that start from the finetuned classifier or, without finetuning, from the linear probe, unless their setting
`classifier_from` names another head."""


def is_linear(head: Head, *, cosine_finetuning: bool = False) -> bool:
    """Return whether a head is a linear classifier when it predicts. Other heads can start from it.

    Args:
        head: Settings of the head.
        cosine_finetuning: Whether the finetuned classifier is a cosine classifier.
    """
    if is_finetuned_classifier(head):
        return not cosine_finetuning
    return isinstance(head, LINEAR) and getattr(head, "cosine_scale", None) is None


def is_finetuned_classifier(head: Head) -> bool:
    """Return whether a head is the finetuned classifier without further training."""
    return isinstance(head, Finetuned) or (isinstance(head, Ce) and head.training is None)


def classifier_from(head: Head) -> str | None:
    """Return the name of the head that a head starts from according to its settings, or None."""
    return head.start if isinstance(head, Mem) else getattr(head, "classifier_from", None)


def starts_optionally(head: Head) -> bool:
    """Return whether a head can start from a new classifier or from that of another head."""
    return isinstance(head, Crt | LogitAdjustment | LogitAdjustedLoss | BalancedSoftmax | BlockClassifier)


def start_of(head: Head, probe: str | None) -> str | None:
    """Return the name of the head that provides the initial classifier of a head.

    None means that the head starts from a new classifier or, if its method requires one, from the finetuned classifier.

    Args:
        head: Settings of the head.
        probe: Name of the linear probe that replaces the finetuned classifier; None with finetuning.
    """
    return probe if _starts_from_ce(head) else classifier_from(head)


def starts_from_finetuned(head: Head, heads: Mapping[str, Head]) -> bool:
    """Return whether a head starts from the finetuned classifier of a study with finetuning.

    Args:
        head: Settings of the head.
        heads: All heads of the study.
    """
    first = classifier_from(head)
    return _starts_from_ce(head) if first is None else first in heads and is_finetuned_classifier(heads[first])


def _starts_from_ce(head: Head) -> bool:
    """Return whether a head starts from the finetuned classifier or the linear probe."""
    return isinstance(head, _STARTS_FROM_CE) and classifier_from(head) is None


def check_starts(heads: Mapping[str, Head], probe: str | None, has_cosine_finetuning: Callable[[Head], bool]) -> None:
    """Check that every head starts from a linear classifier, and that no head starts from itself.

    Args:
        heads: All heads of a study.
        probe: As in `start_of`.
        has_cosine_finetuning: Function that returns whether the finetuned classifier of a head is a cosine classifier.

    Raises:
        ValueError: The initial classifier is missing or not linear, or heads start from each other in a cycle.
    """
    linear = [name for name, head in heads.items() if is_linear(head, cosine_finetuning=has_cosine_finetuning(head))]
    for name, head in heads.items():
        first = classifier_from(head)
        if first is not None and first not in linear:
            raise ValueError(
                f"heads.{name}.classifier_from: this study has no head `{first}` with a linear classifier; choose one "
                f"of {[other for other in linear if other != name]}"
                + (" (a cosine classifier is not linear)" if isinstance(heads.get(first), LINEAR) else "")
            )
        if _starts_from_ce(head):
            _check_start_from_ce(name, head, probe, linear, has_cosine_finetuning(head))
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


def _check_start_from_ce(
    name: str, head: Head, probe: str | None, linear: Sequence[str], cosine_finetuning: bool
) -> None:
    """Check that the finetuned classifier or, without finetuning, the probe is linear."""
    if probe is None and cosine_finetuning:
        variant = "finetune" if head.finetuning is None else f"finetune_variants.{head.finetuning}"
        raise ValueError(
            f"heads.{name}.method: `{head.method}` starts from the finetuned classifier, which is a cosine classifier "
            f"({variant}.cosine_scale) and not linear; remove the head, or remove cosine_scale"
        )
    if probe is not None and probe not in linear:
        raise ValueError(
            f"heads.{name}.method: `{head.method}` starts from the linear probe, but heads.{probe} is a cosine "
            f"classifier; remove heads.{probe}.cosine_scale, or remove the head"
        )


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
