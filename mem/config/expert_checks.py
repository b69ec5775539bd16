"""Checks of experts that start equal, of the heads that use the experts of a backbone, and of the stage `adapt`."""

from __future__ import annotations

from collections.abc import Mapping

from mem.config.adapt import Adapt
from mem.config.backbones import Backbone, TimmNetwork
from mem.config.finetune_variants import path_of
from mem.config.heads import Ensemble, Head, RideRouter, SadeAggregation, is_per_expert
from mem.config.objectives import AceObjective, NclObjective, SadeObjective
from mem.config.starts import classifier_from, is_finetuned_classifier, starts_from_finetuned
from mem.config.training import Finetune


def check_different_experts(path: str, finetune: Finetune, backbone: Backbone, *, pretrained: bool) -> None:
    """Check that experts can become different, although they start from the same classifier.

    Only random numbers in the initial layers or in training, or a loss or a projector of its own for each expert, make
    experts different.

    Args:
        path: Path of the settings of the finetuning, for messages.
        finetune: The settings of the finetuning.
        backbone: Settings of the backbone.
        pretrained: Whether the layers of the experts start from pretrained weights.

    Raises:
        ValueError: All experts would be equal before and after training.
    """
    if finetune.experts is None or finetune.initial_classifier is None or not pretrained:
        return
    objective = finetune.objective
    has_new_neck = isinstance(backbone, TimmNetwork) and backbone.neck_width is not None
    has_own_loss = isinstance(objective, AceObjective | SadeObjective)
    has_own_projector = isinstance(objective, NclObjective) and objective.contrast is not None
    if finetune.drop_path or has_new_neck or has_own_loss or has_own_projector:
        return
    raise ValueError(
        f"{path}.initial_classifier: all experts start from the same pretrained layers and classifier, so that they "
        "would remain equal; remove initial_classifier, or set drop_path, which drops branches of each expert "
        "independently"
    )


def check_expert_heads(heads: Mapping[str, Head], finetunings: Mapping[str | None, Finetune], source: str) -> None:
    """Check that the backbone of every head that requires experts has them, and that its experts fit to the head.

    Args:
        heads: All heads of a study. Their starts are valid; see `mem.config.starts.check_starts`.
        finetunings: Settings of each finetuning by name.
        source: Source of the dataset.

    Raises:
        ValueError: There are no experts, the head would ignore which classes experts own, or the head that a head per
            expert starts from is not one per expert.
    """
    for name, head in heads.items():
        setting = "per_expert" if is_per_expert(head) else "method" if head.requires_experts else None
        if setting is not None and (reason := _without_experts(finetunings, head.finetuning, source)):
            raise ValueError(
                f"heads.{name}.{setting}: requires the experts of a finetuned backbone, but {reason}; set "
                f"finetune.experts, or remove {'the head' if setting == 'method' else 'per_expert'}"
            )
        if isinstance(head, RideRouter | SadeAggregation) and _experts_own_classes(finetunings, head.finetuning):
            raise ValueError(
                f"heads.{name}.method: `{head.method}` averages the logits of all experts for every class, but with "
                f"the objective `ace` of {path_of(head.finetuning)}, experts learn only their own classes; use "
                "the method `ensemble` or `finetuned`, which respect the owners, or a finetuning with another objective"
            )
        if (
            is_per_expert(head)
            and starts_from_finetuned(head, heads)
            and _experts_own_classes(finetunings, head.finetuning)
        ):
            raise ValueError(
                f"heads.{name}.per_expert: each expert starts from its finetuned classifier and its logits count for "
                f"every class, but with the objective `ace` of {path_of(head.finetuning)}, experts learn only their "
                "own classes; use a method that starts from a new classifier, such as crt, or a finetuning with "
                "another objective"
            )
        if isinstance(head, Ensemble) and head.experts is not None:
            experts = finetunings[head.finetuning].experts
            number = 0 if experts is None else experts.number
            if max(head.experts) > number:
                raise ValueError(
                    f"heads.{name}.experts: found expert {max(head.experts)}, but {path_of(head.finetuning)} trains "
                    f"{number} experts; use numbers from 1 to {number}"
                )
        first = classifier_from(head)
        if is_per_expert(head) and first is not None and not _has_one_per_expert(heads[first]):
            raise ValueError(
                f"heads.{name}.classifier_from: with per_expert, each expert starts from a classifier of its own, but "
                f"heads.{first} is one classifier for all experts; name the finetuned classifier or a head with "
                "per_expert, or remove per_expert"
            )


def check_adapt(
    adapt: Adapt | None, heads: Mapping[str, Head], finetunings: Mapping[str | None, Finetune], source: str
) -> None:
    """Check that there are test images and experts for the stage `adapt`, that a head uses it, and that it can learn.

    Args:
        adapt: Settings of the stage, if the study has them.
        heads: All heads of the study.
        finetunings: Settings of each finetuning by name.
        source: Source of the dataset.

    Raises:
        ValueError: The stage cannot learn weights or would always end after one epoch, no head uses them, or a head
            requires them without the stage.
    """
    users = [name for name, head in heads.items() if isinstance(head, SadeAggregation)]
    if adapt is None:
        if users:
            raise ValueError(
                f"heads.{users[0]}.method: `sade_aggregation` uses the weights that the stage `adapt` learns, but the "
                "study has no section `adapt`; add it, or use the method `ensemble`, which averages the experts"
            )
        return
    if all(_without_experts(finetunings, name, source) for name in (None, *finetunings)):
        raise ValueError(
            "adapt: learns the weights of the experts of a finetuned backbone on test images, but "
            f"{_without_experts(finetunings, None, source)}; remove adapt, or set finetune.experts"
        )
    if not users:
        raise ValueError(
            "adapt: no head uses the weights that this stage learns; add a head with the method `sade_aggregation`, or "
            "remove adapt"
        )
    for user in users:
        finetuning = heads[user].finetuning
        experts = finetunings[finetuning].experts
        # The smallest of E weights that add up to 1 is at most 1 / E.
        if experts is not None and adapt.stop_below >= 1 / experts.number:
            raise ValueError(
                f"adapt.stop_below ({adapt.stop_below:g}): the {experts.number} weights of the experts of "
                f"{path_of(finetuning)} add up to 1, so that learning would end after the first epoch; expected less "
                f"than 1/{experts.number}, for example 0.05"
            )


def _without_experts(finetunings: Mapping[str | None, Finetune], name: str | None, source: str) -> str | None:
    """Return why the features of a finetuning have no experts, or None if they have them."""
    if source == "features":
        return "the dataset consists of features"
    if name not in finetunings:
        return "nothing is finetuned (finetune: null)"
    return f"{path_of(name)}.experts is null" if finetunings[name].experts is None else None


def _experts_own_classes(finetunings: Mapping[str | None, Finetune], name: str | None) -> bool:
    return name in finetunings and isinstance(finetunings[name].objective, AceObjective)


def _has_one_per_expert(head: Head) -> bool:
    return is_finetuned_classifier(head) or is_per_expert(head)
