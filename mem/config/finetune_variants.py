"""Variants of finetuning within a study, and the heads that use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mem.config.duplicates import effective
from mem.config.heads import Ce, Finetuned, Head
from mem.config.merge import deep_merge
from mem.config.starts import classifier_from
from mem.config.training import Finetune

_REPLACED = ("objective", "step_decay", "experts", "initial_classifier", "tuner")
"""Sections that a variant replaces as a whole, because their settings belong together."""
_OF_OPTIMIZER = ("betas", "momentum", "nesterov")
"""Settings that only one optimizer has. A variant with another optimizer does not inherit them."""
_RESERVED = ("select", "refit")
"""Names of the branches of a study with `selection`, which label runs as the names of variants do."""


def with_complete_variants(values: Any) -> Any:
    """Return the settings of a study in which each variant of finetuning is completed with those of `finetune`.

    Values that are not mappings are returned unchanged, because validation of the study reports them later.

    Raises:
        ValueError: The study has variants but no `finetune`, or a variant is null.
    """
    if not isinstance(values, dict) or not isinstance(variants := values.get("finetune_variants"), dict):
        return values
    base = values.get("finetune")
    if variants and base is None:
        raise ValueError("finetune_variants: requires `finetune`, whose settings the variants complete")
    for name, own in variants.items():
        if own is None:
            raise ValueError(
                f"finetune_variants.{name}: expected the settings that differ from `finetune`, found null. A study "
                "that extends another one cannot remove a variant of it"
            )
    if not isinstance(base, dict):
        return values
    return {**values, "finetune_variants": {name: _with_base(base, own) for name, own in variants.items()}}


def _with_base(base: Mapping[str, Any], own: Any) -> Any:
    """Return the settings of a variant, completed with those of `finetune`.

    Args:
        base: The section `finetune`.
        own: The settings of the variant. If they are not a mapping, they are returned unchanged, because validation of
            the study reports them later.
    """
    if not isinstance(own, Mapping):
        return own
    not_inherited = [name for name in _REPLACED if name in own]
    optimizer = base.get("optimizer", Finetune.model_fields["optimizer"].default)
    if own.get("optimizer", optimizer) != optimizer:
        not_inherited += _OF_OPTIMIZER
    return deep_merge({name: value for name, value in base.items() if name not in not_inherited}, own)


def check_finetunings(finetunings: Mapping[str | None, Finetune], heads: Mapping[str, Head]) -> None:
    """Check that the heads and the variants of finetuning fit together.

    Args:
        finetunings: Settings of `finetune` (with the name None), unless nothing is finetuned, and of each variant.
        heads: Settings of the heads.

    Raises:
        ValueError: A head uses a variant that does not exist, a variant has no head, or a head does not fit to the
            objective of its finetuning.
    """
    variants = [name for name in finetunings if name is not None]
    for name, head in heads.items():
        if head.finetuning is not None and head.finetuning not in variants:
            raise ValueError(
                f"heads.{name}.finetuning: this study has no variant of finetuning `{head.finetuning}`; its variants "
                f"(finetune_variants): {', '.join(variants) or 'none'}"
            )
        _check_objective(name, head, finetunings.get(head.finetuning))
        _check_start(name, head, heads)
    used = {head.finetuning for head in heads.values()}
    for i, name in enumerate(variants):
        if name in _RESERVED:
            raise ValueError(f"finetune_variants.{name}: the name is reserved for a branch of `selection`; rename it")
        for other in (None, *variants[:i]):
            _check_distinct(finetunings, name, other)
        if name not in used:
            raise ValueError(
                f"finetune_variants.{name}: no head uses this variant; remove it, or add a head with `finetuning: "
                f"{name}`"
            )


def path_of(name: str | None) -> str:
    """Return the path of the settings of a finetuning: `finetune` or `finetune_variants.NAME`."""
    return "finetune" if name is None else f"finetune_variants.{name}"


def _check_distinct(finetunings: Mapping[str | None, Finetune], name: str, other: str | None) -> None:
    own, others = finetunings[name], finetunings[other]
    if effective(own, "finetune") != effective(others, "finetune"):
        return
    reason = "" if effective(own) == effective(others) else ", apart from settings that cannot change the result"
    raise ValueError(f"{path_of(name)}: has the same settings as {path_of(other)}{reason}; change or remove it")


def check_whole_batch(name: str, finetune: Finetune, ranks: int, micro_batch: int | None) -> None:
    """Check that an objective that requires the complete global batch can have it.

    A job checks this again, because its ranks and its micro-batch can have changed since the study was loaded.

    Args:
        name: Name of the finetuning in messages: `finetune` or `finetune_variants.NAME`.
        finetune: Settings of the finetuning.
        ranks: Number of ranks (`compute.finetune`).
        micro_batch: Maximum number of images per forward pass, or None.

    Raises:
        ValueError: The ranks cannot divide the global batch equally, or a rank's part is divided into micro-batches.
    """
    if not finetune.whole_batch:
        return
    batch = finetune.global_batch
    compares = "compares the samples of" if finetune.contrast else "computes statistics over"
    reason = f"{name}.objective: `{finetune.objective.name}` {compares} the global batch"
    if batch % ranks:
        raise ValueError(
            f"{reason}, of which every rank needs an equal part, but {name}.global_batch ({batch}) is not a multiple "
            f"of the number of ranks ({ranks}); change the number of GPUs or tasks (compute.finetune)"
        )
    if micro_batch is not None and micro_batch < batch // ranks:
        raise ValueError(
            f"{reason}, so that a rank must process its {batch // ranks} images at once, but "
            f"compute.finetune.micro_batch is {micro_batch}; remove micro_batch, or use more GPUs"
        )


def _check_objective(name: str, head: Head, finetune: Finetune | None) -> None:
    if isinstance(head, Finetuned) and finetune is None:
        raise ValueError(f"heads.{name}: `finetuned` is a finetuned classifier, but nothing is finetuned")
    if finetune is None:
        return
    trained_with = finetune.objective.name
    if isinstance(head, Ce) and head.training is None and trained_with != "cross_entropy":
        raise ValueError(
            f"heads.{name}.method: `ce` is a classifier that was trained with cross-entropy, but the objective of its "
            f"finetuning is `{trained_with}`; use `method: finetuned`"
        )
    if isinstance(head, Finetuned) and trained_with == "cross_entropy":
        raise ValueError(
            f"heads.{name}.method: `finetuned` is for objectives other than cross-entropy; use `method: ce`"
        )


def _check_start(name: str, head: Head, heads: Mapping[str, Head]) -> None:
    first = heads.get(classifier_from(head) or "")
    if first is not None and first.finetuning != head.finetuning:
        raise ValueError(
            f"heads.{name}.classifier_from: the head must use the same finetuning as the head it starts from, "
            f"because their features differ; `finetuning` is {head.finetuning or 'not set'} here and "
            f"{first.finetuning or 'not set'} there; a sweep over `finetuning` requires heads without it"
        )
