"""Fit heads to features, by training, by selecting tau or in closed form, for `train_head` and `mem.frozen`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mem import config, longtail
from mem.data.batch import Batch
from mem.data.features.batches import TrainingFeatures
from mem.data.features.blocks import BlockSampler
from mem.data.features.stored import FeatureSource
from mem.data.loading.samplers import build_sampler
from mem.errors import UserError
from mem.heads.base import Head, Linear
from mem.heads.build import HeadInputs, build_head
from mem.heads.ncm import nearest_class_mean
from mem.heads.prior import log_prior, logit_adjusted
from mem.heads.selection import choose_on_val
from mem.heads.tau import tau_normalised
from mem.heads.zero_shot import ZeroShotHead, set_mean_norm
from mem.train.context import FitContext
from mem.train.loop import Validation, fit
from mem.train.optimizers import head_optimizer
from mem.train.schedules import Schedule, training_steps, two_cosines
from mem.train.state import TrainState

EVALUATION_BATCH = 1024


@dataclass(frozen=True)
class HeadFeatures:
    """The features that a head is fitted to."""

    train: FeatureSource
    val: FeatureSource | None
    """Features for selecting tau and for the validation curve. None or empty if there is no val split."""
    val_crops: FeatureSource | None = None
    """Features of the crops of val, if predictions are means over crops. Tau is then selected with these means."""

    @property
    def validation(self) -> FeatureSource | None:
        """The val split, or None if it has no images."""
        return self.val if self.val is not None and len(self.val) else None

    @property
    def selection(self) -> FeatureSource | None:
        """The features that tau is selected with, or None if the val split has no images."""
        return self.validation if self.val_crops is None or self.validation is None else self.val_crops


def make_head(
    settings: config.Head, inputs: HeadInputs, features: HeadFeatures, context: FitContext
) -> tuple[Head, dict[str, Any]]:
    """Fit a head to features.

    Args:
        settings: Method and settings of the head.
        inputs: Inputs of `build_head`, such as the initial classifier and the class counts.
        features: Features of the train and val splits.
        context: Processes, log, checkpoints and messages.

    Returns:
        The head, and the results for run.json.

    Raises:
        UserError: The head needs tokens but the features have none, or there are several values of tau to select from
            but no val split. See also `build_head`.
    """
    if config.uses_tokens(settings) and not features.train.has_tokens:
        raise UserError(
            f"{context.name}: its input is `tokens`, but these features are pooled only. Set its input to `pooled`, or "
            "provide features with tokens."
        )
    match settings:
        case config.Ce() if settings.training is None:
            return build_head(settings, inputs), {}
        case config.Finetuned() | config.Ensemble():
            return build_head(settings, inputs), {}
        case config.SadeAggregation():
            assert inputs.expert_weights is not None, "the schema requires the stage `adapt`"
            return build_head(settings, inputs), {"transductive": True, "weights": inputs.expert_weights.tolist()}
        case config.Tau() | config.LogitAdjustment():
            head_of_tau = _heads_by_tau(settings, inputs)
            tau, results = _choose_tau(head_of_tau, settings.taus, features.selection, context)
            return head_of_tau(tau), results
        case config.ZeroShot():
            head = build_head(settings, inputs)
            assert isinstance(head, ZeroShotHead)
            set_mean_norm(head, (features for features, _ in _PlainBatches(features.train)))
            return head, {}
        case config.Ncm():
            return nearest_class_mean(_PlainBatches(features.train), len(inputs.class_counts)), {}
        case _:
            assert settings.training is not None
            head = build_head(settings, inputs).to(context.world.device)
            return head, _train(head, settings.training, inputs, features, head.uses_tokens, context)


def _heads_by_tau(settings: config.Tau | config.LogitAdjustment, inputs: HeadInputs) -> Callable[[float], Linear]:
    if isinstance(settings, config.Tau):
        return lambda tau: tau_normalised(inputs.linear.weight.detach(), tau)
    return lambda tau: logit_adjusted(inputs.linear, log_prior(inputs.class_counts), tau)


def _choose_tau(
    head_of_tau: Callable[[float], Linear], taus: Sequence[float], val: FeatureSource | None, context: FitContext
) -> tuple[float, dict[str, Any]]:
    """Return the tau with the highest mean per-class accuracy on val, and the results for run.json."""
    if val is None:
        if (candidates := len(taus)) > 1:
            raise UserError(
                f"{context.name}: taus has {candidates} candidates, but the dataset has no val split to select from "
                "them. Set `selection` in the study, which selects tau on held-out training images, or set one tau."
            )
        context.say(f"tau is {taus[0]:g}, the only candidate.")
        return taus[0], {"tau": taus[0]}
    indices = np.arange(len(val))
    # The heads are linear: their mean logits over the crops of an image are the logits of the mean feature.
    views = [val.inputs(view, indices, tokens=False) for view in range(val.views)]
    features = views[0] if len(views) == 1 else torch.stack(views).mean(dim=0)
    tau, scores = choose_on_val(head_of_tau, taus, features, torch.from_numpy(val.labels))
    for candidate, score in scores.items():
        values = {"select/val_acc1": 100 * score.accuracy, "select/val_balanced": 100 * score.balanced}
        context.log.scalars(values, step=round(100 * candidate))
    context.say(
        f"tau {tau:g} has the highest mean per-class accuracy on val: {100 * scores[tau].balanced:.2f} % "
        f"(standard error {100 * scores[tau].standard_error:.2f}; {100 * scores[tau].accuracy:.2f} % of the images)"
    )
    return tau, {
        "tau": tau,
        "val_accuracy_by_tau": {f"{t:g}": round(100 * score.accuracy, 3) for t, score in scores.items()},
        "val_balanced_accuracy_by_tau": {f"{t:g}": round(100 * score.balanced, 3) for t, score in scores.items()},
    }


def _train(
    head: Head,
    training: config.HeadTraining,
    inputs: HeadInputs,
    features: HeadFeatures,
    tokens: bool,
    context: FitContext,
) -> dict[str, Any]:
    """Train a head in place and return the results for run.json."""
    train, val = features.train, features.validation
    shot_groups = longtail.shot_groups(inputs.group_counts, inputs.shots)
    sampler = build_sampler(training.sampler, train.labels, len(inputs.class_counts), inputs.seed, shot_groups)
    if training.blocks:
        sampler = BlockSampler(len(train), inputs.seed, training.blocks.images, training.blocks.window)
    data = TrainingFeatures(train, sampler, training.global_batch, inputs.seed, tokens, training.views)
    steps_per_epoch = len(train) / training.global_batch
    steps = training_steps(training.epochs, len(train), training.global_batch)

    first_phase = head.first_phase_steps(steps)

    def objective(replica: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        # The phase depends only on the position of the batch, so that training resumes in the same phase.
        if batch.first < first_phase * training.global_batch:
            return replica.first_phase_loss(batch.inputs, batch.labels)  # type: ignore[operator]
        return replica.loss(batch.inputs, batch.labels)  # type: ignore[operator]

    @torch.no_grad()
    def evaluate(model: nn.Module) -> dict[str, float]:
        assert val is not None
        model.eval()
        return {
            "val/acc1": 100 * float((predict_classes(model, val, tokens, context.world.device) == val.labels).mean())
        }

    speed = fit(
        TrainState(head, head_optimizer(head.parameter_groups(), training)),
        data,
        objective,
        Schedule(steps, steps_per_epoch, two_cosines(training.lr, first_phase, steps)),
        context,
        validation=Validation(evaluate, max(1, math.ceil(steps_per_epoch))) if val is not None else None,
    )
    return {
        "steps": steps,
        "images_per_s": round(speed.images_per_second, 1),
        "parameters": sum(p.numel() for p in head.parameters() if p.requires_grad),
    }


@dataclass(frozen=True)
class _PlainBatches:
    """Batches of the plain view of a split. The batches can be iterated more than once."""

    split: FeatureSource

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.split), EVALUATION_BATCH):
            indices = np.arange(start, min(start + EVALUATION_BATCH, len(self.split)))
            yield self.split.inputs(0, indices, tokens=False), torch.from_numpy(self.split.labels[indices])


@torch.no_grad()
def predict_classes(model: nn.Module, split: FeatureSource, tokens: bool, device: torch.device) -> np.ndarray:
    """Return the predicted class of each image, from its plain view, as an int64 array of shape (images,)."""
    parts: list[np.ndarray] = []
    for start in range(0, len(split), EVALUATION_BATCH):
        indices = np.arange(start, min(start + EVALUATION_BATCH, len(split)))
        logits = model(split.inputs(0, indices, tokens=tokens).to(device))
        parts.append(logits.argmax(dim=1).cpu().numpy())
    return np.concatenate(parts)
