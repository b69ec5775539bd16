"""Making a head from the features of a frozen backbone: chosen, copied or trained. The stage and Python share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mem import config
from mem.data.features.blocks import BlockSampler
from mem.data.features.files import FeatureSource, TrainingFeatures
from mem.data.loading.batch import Batch
from mem.data.loading.samplers import build_sampler
from mem.distributed import ALONE, World
from mem.errors import UserError
from mem.heads.base import Head, Linear
from mem.heads.build import HeadInputs, build_head
from mem.heads.ncm import nearest_class_mean
from mem.heads.prior import log_prior, logit_adjusted
from mem.heads.selection import choose_on_val
from mem.heads.tau import tau_normalised
from mem.tracking.log import Log, NullLog
from mem.train.checkpoints import Checkpoints, NoCheckpoints
from mem.train.loop import NeverStop, StepOptions, StopRequests, TrainState, fit
from mem.train.optimizers import head_optimizer
from mem.train.schedules import cosine, training_steps

EVALUATION_BATCH = 1024


@dataclass(frozen=True)
class FitContext:
    """What surrounds a training: a stage has all of it, a call from Python these, which keep nothing."""

    title: str
    """What the progress bar says."""
    name: str
    """What messages call the head."""
    world: World = ALONE
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)
    log: Log = field(default_factory=NullLog)
    stop: StopRequests = field(default_factory=NeverStop)
    say: Callable[[str], None] = lambda text: None
    quiet: bool = False


def wants_tokens(settings: config.Head) -> bool:
    """Whether a head sees tokens beside the pooled feature."""
    return isinstance(settings, config.Mem) and settings.input == "tokens"


def make_head(
    settings: config.Head, basis: HeadInputs, train: FeatureSource, val: FeatureSource | None, around: FitContext
) -> tuple[Head, dict[str, Any]]:
    """A head on the features, and what run.json says of it.

    Args:
        settings: The method.
        basis: What it starts from.
        train: Features to learn from.
        val: Features to choose with, and for the curve; None or empty where there are none.
        around: Where curves and checkpoints go.

    Raises:
        UserError: A head wants tokens that there are not, or a choice needs val; see `build_head` too.
    """
    val = val if val is not None and len(val) else None
    if wants_tokens(settings) and not train.has_tokens:
        raise UserError(
            f"{around.name}: its input is `tokens`, and these features are pooled only. Set its input to `pooled`, or "
            "give features with tokens"
        )
    match settings:
        case config.Ce() if settings.training is None:
            return build_head(settings, basis), {}
        case config.Tau() | config.LogitAdjustment():
            made = _by_tau(settings, basis)
            tau, results = _choose_tau(made, settings.taus, val, around)
            return made(tau), results
        case config.Ncm():
            return nearest_class_mean(_PlainBatches(train), len(basis.class_counts)), {}
        case _:
            assert settings.training is not None
            head = build_head(settings, basis).to(around.world.device)
            return head, _train(head, settings.training, basis, train, val, wants_tokens(settings), around)


def _by_tau(settings: config.Tau | config.LogitAdjustment, basis: HeadInputs) -> Callable[[float], Linear]:
    """The head of each candidate."""
    if isinstance(settings, config.Tau):
        return lambda tau: tau_normalised(basis.classifier.weight.detach(), tau)
    return lambda tau: logit_adjusted(basis.classifier, log_prior(basis.class_counts), tau)


def _choose_tau(
    made: Callable[[float], Linear], taus: Sequence[float], val: FeatureSource | None, around: FitContext
) -> tuple[float, dict[str, Any]]:
    """The tau with the highest accuracy on val, and what run.json says of the choice."""
    if val is None:
        if (candidates := len(taus)) > 1:
            raise UserError(
                f"{around.name}: taus has {candidates} values to choose from, but the data set has no val split. "
                "Choose on a holdout (dataset.holdout) first, then give the chosen one."
            )
        around.say(f"tau is {taus[0]:g}, as given; there is no val split to compare it on.")
        return taus[0], {"tau": taus[0]}
    features = val.inputs(0, np.arange(len(val)), tokens=False)
    tau, scores = choose_on_val(made, taus, features, torch.from_numpy(val.labels))
    for t, score in scores.items():
        around.log.scalars({"select/val_acc1": 100 * score}, step=round(100 * t))
    around.say(f"tau {tau:g} has the highest accuracy on val: {100 * scores[tau]:.2f} %")
    return tau, {"tau": tau, "val_accuracy_by_tau": {f"{t:g}": round(100 * s, 3) for t, s in scores.items()}}


def _train(
    head: Head,
    settings: config.HeadTraining,
    basis: HeadInputs,
    train: FeatureSource,
    val: FeatureSource | None,
    tokens: bool,
    around: FitContext,
) -> dict[str, Any]:
    order = build_sampler(settings.sampler, train.labels, len(basis.class_counts), basis.seed)
    if settings.blocks:
        order = BlockSampler(len(train), basis.seed, settings.blocks.images, settings.blocks.window)
    data = TrainingFeatures(train, order, settings.global_batch, basis.seed, tokens, settings.views)
    steps_per_epoch = len(train) / settings.global_batch
    steps = training_steps(settings.epochs, len(train), settings.global_batch)

    def objective(replica: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return replica.loss(batch.inputs, batch.labels)  # type: ignore[operator]

    @torch.no_grad()
    def validate(model: nn.Module) -> dict[str, float]:
        assert val is not None
        model.eval()
        return {
            "val/acc1": 100 * float((predict_classes(model, val, tokens, around.world.device) == val.labels).mean())
        }

    speed = fit(
        TrainState(head, head_optimizer(head, settings)),
        data,
        objective,
        cosine(settings.lr, steps),
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        checkpoints=around.checkpoints,
        log=around.log,
        stop=around.stop,
        title=around.title,
        mechanics=StepOptions(around.world, quiet=around.quiet),
        validate=validate if val is not None else None,
        validate_every=max(1, math.ceil(steps_per_epoch)),
    )
    return {
        "steps": steps,
        "images_per_s": round(speed.images_per_second, 1),
        "parameters": sum(p.numel() for p in head.parameters() if p.requires_grad),
    }


@dataclass(frozen=True)
class _PlainBatches:
    """The plain view of a split, batch by batch, as often as it is asked for."""

    split: FeatureSource

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.split), EVALUATION_BATCH):
            indices = np.arange(start, min(start + EVALUATION_BATCH, len(self.split)))
            yield self.split.inputs(0, indices, tokens=False), torch.from_numpy(self.split.labels[indices])


@torch.no_grad()
def predict_classes(model: nn.Module, split: FeatureSource, tokens: bool, device: torch.device) -> np.ndarray:
    """Predicted class of each image, from its plain view."""
    parts: list[np.ndarray] = []
    for start in range(0, len(split), EVALUATION_BATCH):
        indices = np.arange(start, min(start + EVALUATION_BATCH, len(split)))
        logits = model(split.inputs(0, indices, tokens=tokens).to(device))
        parts.append(logits.argmax(dim=1).cpu().numpy())
    return np.concatenate(parts)
