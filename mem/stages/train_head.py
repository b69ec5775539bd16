"""Stage `train_head`: one head on cached features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mem import config
from mem.data.batch import Batch
from mem.data.blocks import BlockOrder
from mem.data.features import FeatureSplit, TrainingFeatures, open_split, read_about
from mem.data.order import make_order
from mem.errors import UserError
from mem.fit import Mechanics, TrainState, fit
from mem.heads.base import Head
from mem.heads.build import Basis, build_head, load_linear, save_head
from mem.heads.tau import choose_tau, tau_normalised
from mem.optim import head_optimizer
from mem.schedules import cosine, steps_of
from mem.stages.job import Job

EVALUATION_BATCH = 1024


def train_head(job: Job) -> Mapping[str, Any]:
    """Train, choose or copy the head, and keep it as `head.safetensors` and `head.json`."""
    if job.world.size > 1:
        raise UserError("Heads train on cached features in one process: give train_head one task.")
    settings = job.run.union("head", config.Head)
    folder = job.inputs["features"]
    shots = config.Shots(**job.run.settings.get("shots", {}))
    counts = np.asarray(read_about(folder)["class_counts"], dtype=np.int64)
    source = job.inputs["head"] / "head.safetensors" if "head" in job.inputs else folder / "classifier.safetensors"
    basis = Basis(load_linear(source), counts, shots, job.seed)

    results: dict[str, Any] = {}
    match settings:
        case config.Ce():
            head = build_head(settings, basis)
        case config.Tau():
            tau, results = _choose_tau(job, basis, settings)
            head = tau_normalised(basis.classifier.weight.detach(), tau)
        case _:
            head = build_head(settings, basis).to(job.world.device)
            tokens = isinstance(settings, config.Mem) and settings.input == "tokens"
            results = _fit_head(job, head, settings.training, folder_split(job, "train"), tokens)
    save_head(job.folder.path, head, settings, basis)
    job.checkpoints().clear()
    return results


def _choose_tau(job: Job, basis: Basis, settings: config.Tau) -> tuple[float, dict[str, Any]]:
    """The tau with the highest accuracy on val, and what run.json says of the choice.

    Raises:
        UserError: There are several candidates, and no val split to choose with.
    """
    val = folder_split(job, "val")
    if not len(val):
        if (candidates := len(settings.taus)) > 1:
            raise UserError(
                f"{job.run.labels['variant']}: taus has {candidates} values to choose from, but the data set "
                "has no val split. Choose on a holdout (dataset.holdout) first, then give the chosen one."
            )
        job.say(f"tau is {settings.taus[0]:g}, as given; there is no val split to compare it on.")
        return settings.taus[0], {"tau": settings.taus[0]}
    features = val.inputs(0, np.arange(len(val)), tokens=False)
    tau, scores = choose_tau(basis.classifier.weight, settings.taus, features, torch.from_numpy(val.labels))
    for t, score in scores.items():
        job.log.scalars({"select/val_acc1": 100 * score}, step=round(100 * t))
    job.say(f"tau {tau:g} has the highest accuracy on val: {100 * scores[tau]:.2f} %")
    return tau, {"tau": tau, "val_accuracy_by_tau": {f"{t:g}": round(100 * s, 3) for t, s in scores.items()}}


def folder_split(job: Job, split: str) -> FeatureSplit:
    """A split of the job's features."""
    return open_split(job.inputs["features"], split)


def _fit_head(job: Job, head: Head, settings: config.HeadTraining, train: FeatureSplit, tokens: bool) -> dict[str, Any]:
    counts = np.asarray(read_about(job.inputs["features"])["class_counts"])
    order = make_order(settings.sampler, train.labels, len(counts), job.seed)
    if settings.blocks:
        order = BlockOrder(len(train), job.seed, settings.blocks.images, settings.blocks.window)
    data = TrainingFeatures(train, order, settings.global_batch, job.seed, tokens)
    steps_per_epoch = len(train) / settings.global_batch
    steps = steps_of(settings.epochs, len(train), settings.global_batch)
    val = folder_split(job, "val")

    def objective(replica: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return replica.loss(batch.inputs, batch.labels)  # type: ignore[operator]

    @torch.no_grad()
    def validate(model: nn.Module) -> dict[str, float]:
        model.eval()
        return {"val/acc1": 100 * float((predict(model, val, tokens, job.world.device) == val.labels).mean())}

    speed = fit(
        TrainState(head, head_optimizer(head, settings)),
        data,
        objective,
        cosine(settings.lr, steps),
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        checkpoints=job.checkpoints(),
        log=job.log,
        stop=job.stop,
        title=job.run.title,
        mechanics=Mechanics(job.world),
        validate=validate if len(val) else None,
        validate_every=max(1, math.ceil(steps_per_epoch)),
    )
    return {
        "steps": steps,
        "images_per_s": round(speed.images_per_second, 1),
        "parameters": sum(p.numel() for p in head.parameters() if p.requires_grad),
    }


@torch.no_grad()
def predict(model: nn.Module, split: FeatureSplit, tokens: bool, device: torch.device) -> np.ndarray:
    """Predicted class of each image, from its plain view."""
    parts: list[np.ndarray] = []
    for start in range(0, len(split), EVALUATION_BATCH):
        indices = np.arange(start, min(start + EVALUATION_BATCH, len(split)))
        logits = model(split.inputs(0, indices, tokens=tokens).to(device))
        parts.append(logits.argmax(dim=1).cpu().numpy())
    return np.concatenate(parts)
