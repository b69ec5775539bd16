"""Build the objective of finetuning from its settings."""

from __future__ import annotations

import numpy as np

from mem import config, longtail
from mem.errors import UserError
from mem.objectives.ace import Ace, owned_classes
from mem.objectives.balanced_bce import BalancedBce
from mem.objectives.base import FinetuningLoss
from mem.objectives.class_balanced import ClassBalanced
from mem.objectives.cross_entropy import CrossEntropy
from mem.objectives.focal import Focal
from mem.objectives.lade import Lade
from mem.objectives.ldam import Ldam
from mem.objectives.logit_adjustment import balanced_softmax, logit_adjusted_loss
from mem.objectives.ncl import Ncl
from mem.objectives.paco import Paco
from mem.objectives.ride import Ride
from mem.objectives.sade import Sade

_WITHOUT_COUNTS = (config.CrossEntropyObjective, config.FocalObjective)


def build_objective(
    finetune: config.Finetune, class_counts: np.ndarray, counts_before_holdout: np.ndarray | None = None
) -> FinetuningLoss:
    """Build the objective of a finetuning.

    A class without training images counts as one image.

    Args:
        finetune: Settings of the finetuning. Its objective, label smoothing and cosine scale are used.
        class_counts: Number of training images of each class.
        counts_before_holdout: The same before a holdout, which define the subsets of ACE. Default: `class_counts`.

    Raises:
        UserError: The objective is not defined for the number of classes or for their numbers of images.
    """
    settings, smoothing, classes = finetune.objective, finetune.label_smoothing, len(class_counts)
    if classes < 2 and _requires_two_classes(settings):
        raise UserError(
            f"objective `{settings.name}`: the dataset has {classes} class; expected at least 2. Use the objective "
            "`cross_entropy`, or add classes."
        )
    try:
        settings.check_classes(classes)
    except ValueError as error:
        raise UserError(f"{error}.") from None
    match settings:
        case config.CrossEntropyObjective():
            return CrossEntropy(classes, smoothing)
        case config.BalancedSoftmaxObjective():
            return balanced_softmax(class_counts, smoothing)
        case config.LogitAdjustmentObjective():
            return logit_adjusted_loss(class_counts, settings.tau, smoothing)
        case config.LadeObjective():
            return Lade(class_counts, settings)
        case config.BalancedBceObjective():
            return BalancedBce(class_counts, settings.tau, smoothing)
        case config.LdamObjective():
            assert finetune.cosine_scale is not None  # checked by config.Finetune
            return Ldam(class_counts, settings, finetune.cosine_scale)
        case config.ClassBalancedObjective():
            return ClassBalanced(class_counts, settings)
        case config.FocalObjective():
            return Focal(classes, settings.gamma)
        case config.PacoObjective():
            return Paco(class_counts, settings)
        case config.AceObjective():
            _check_subsets(class_counts if counts_before_holdout is None else counts_before_holdout, settings)
            return Ace(class_counts, settings, counts_before_holdout)
        case config.RideObjective():
            assert finetune.cosine_scale is not None  # checked by config.Finetune
            return Ride(class_counts, settings, finetune.cosine_scale)
        case config.SadeObjective():
            return Sade(class_counts, settings.tau)
        case config.NclObjective():
            return Ncl(class_counts, settings)


def _check_subsets(class_counts: np.ndarray, settings: config.AceObjective) -> None:
    """Check that each expert of ACE owns at least one class, and other classes than the expert before it."""
    numbers = [int(owned.sum()) for owned in owned_classes(class_counts, settings.largest_counts)]
    for i, largest in enumerate(settings.largest_counts):
        if numbers[i + 1] == 0 or numbers[i + 1] == numbers[i]:
            owns = "no class" if numbers[i + 1] == 0 else f"the same {numbers[i]} classes as expert {i + 1}"
            raise UserError(
                f"objective.largest_counts: with {largest}, expert {i + 2} owns {owns}. Classes have "
                f"{class_counts.min()} to {class_counts.max()} training images. Change the number, or use fewer "
                "experts."
            )


def empty_counts_warning(objective: config.Objective, class_counts: np.ndarray) -> str | None:
    """Return a warning that names the classes without training images, or None.

    There is no warning if every class has training images or if the objective does not use their numbers.
    """
    problem = longtail.without_images(class_counts)
    if problem is None or isinstance(objective, _WITHOUT_COUNTS):
        return None
    return f"{problem}. The objective `{objective.name}` counts each class without images as one image. Add images."


def _requires_two_classes(objective: config.Objective) -> bool:
    """Whether a formula of the objective is infinite for a single class."""
    match objective:
        case config.BalancedBceObjective() | config.FocalObjective():
            return True
        case config.ClassBalancedObjective():
            return objective.loss != "softmax"
        case _:
            return False
