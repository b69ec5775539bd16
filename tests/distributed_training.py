"""Program that test_distributed.py runs once per rank. It trains a small model for each case and saves the weights.

    python -m tests.distributed_training FOLDER CASES

FOLDER contains `train.beton`. CASES is a JSON list of `TrainingCase`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from mem.config import Augmentation, Backbone, Compute, Finetune, TimmNetwork, Training, VisionTransformer
from mem.data.augment.mixing import PAIR
from mem.data.beton.reader import Beton
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.data.loading.shard import RankShard
from mem.distributed import World, world_from_environment
from mem.jobs.classification import Classification, require_global_batch
from mem.jobs.contrastive_classification import with_contrast
from mem.longtail import class_counts
from mem.models.backbones import build
from mem.models.parameter_groups import decay_groups, layer_decay_groups
from mem.models.pixels import Pixels
from mem.objectives.build import build_objective
from mem.stages.finetune import mixing_of
from mem.train.checkpoints import Checkpoints
from mem.train.context import FitContext
from mem.train.loop import fit
from mem.train.optimizers import backbone_optimizer
from mem.train.schedules import Schedule, cosine
from mem.train.state import TrainState
from mem.train.step import StepOptions


class TrainingCase(NamedTuple):
    """Settings of one training run."""

    ranks: int
    micro_batch: int | None
    norm_batch: int | None
    """Number of samples per BatchNorm group. None selects a ViT, which has no BatchNorm."""
    objective: str = "cross_entropy"
    """Name of the objective or of the tuner, one of `OBJECTIVES` or `TUNERS`."""

    @property
    def name(self) -> str:
        return f"{self.ranks}-{self.micro_batch}-{self.norm_batch}-{self.objective}"


OBJECTIVES: dict[str, dict] = {
    "cross_entropy": {"label_smoothing": 0.1},
    "balanced_softmax": {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1},
    "logit_adjustment": {"tau": 1.5},
    "lade": {"regulariser_weight": 0.5, "quadratic_weight": 0.5},
    "balanced_bce": {"tau": 1.0, "mixup": 0.8, "label_smoothing": 0.1},
    "ldam": {"max_margin": 0.5, "reweight_from_epoch": 2.0, "beta": 0.99},
    "class_balanced": {"beta": 0.99, "loss": "focal", "gamma": 1.0},
    "focal": {"gamma": 2.0},
    "paco": {
        "sample_weight": 0.05,
        "contrast": {"queue": 36, "width": 6, "temperature": 0.2, "momentum": 0.8, "projector_norm": True},
    },
    "ncl": {
        "hard_classes": 3,
        "mutual_weight": 0.6,
        "contrast": {"queue": 24, "width": 6, "temperature": 0.2, "momentum": 0.8, "projector_norm": False},
        "contrast_weight": 1.0,
        "experts": {"number": 2},
    },
    "ride": {
        "max_margin": 0.5,
        "reweight_from_epoch": 2.0,
        "beta": 0.99,
        "diversity_weight": 0.4,
        "temperature": 1.5,
        "temperature_prior_weight": 0.1,
        "experts": {"number": 2, "own_from": "blocks.1"},
    },
    "sade": {"tau": 2.0, "experts": {"number": 3, "own_from": "blocks.1"}},
    "ace": {
        "largest_counts": [9, 6],
        "suppression_weight": 0.1,
        "experts": {"number": 3, "own_from": "blocks.1", "shared_trained_by": "first"},
    },
    "experts": {
        "name": "cross_entropy",
        "mixup": 0.8,
        "label_smoothing": 0.1,
        "experts": {"number": 2, "own_from": "blocks.1"},
    },
    "lade_of_experts": {
        "name": "lade",
        "regulariser_weight": 0.5,
        "quadratic_weight": 0.5,
        "experts": {"number": 2},
    },
}
"""Settings of the objectives, and of finetuning with them."""
TUNERS: dict[str, dict] = {
    "lora": {"name": "lora", "rank": 2, "alpha": 4.0, "layers": ["query", "value", "mlp_in"]},
    "head": {"name": "head"},
    "batch_norm": {"name": "batch_norm"},
}
"""Settings of tuners, with which the objective is cross-entropy."""
_FINETUNE = ("mixup", "cutmix", "label_smoothing", "experts", "tuner")


def finetune_settings(objective: str) -> Finetune:
    """Return the settings of finetuning for an objective or a tuner. Unused settings have arbitrary values."""
    tuned = {"name": "cross_entropy", "tuner": TUNERS.get(objective)}
    given = tuned if objective in TUNERS else OBJECTIVES[objective]
    own = {name: value for name, value in given.items() if name not in _FINETUNE}
    recipe = {name: value for name, value in given.items() if name in _FINETUNE}
    return Finetune(
        **{"epochs": 10, "warmup_epochs": 1, "global_batch": 12, "base_lr": 1e-3, "min_lr": 0, "betas": (0.9, 0.999)},
        **{"weight_decay": 0.05, "precision": "fp32", "layer_decay": 0.8, "drop_path": 0.4, "label_smoothing": 0.0}
        | recipe,
        augmentation=Augmentation(crop_scale=(0.4, 1.0), flip=True),
        validate_every_epochs=1,
        objective={"name": objective} | own,
        cosine_scale=10.0 if objective in ("ldam", "ride") else None,
    )


def model_and_settings(norm_batch: int | None) -> tuple[Backbone, Training]:
    common = {"epochs": 10, "warmup_epochs": 1, "global_batch": 12, "base_lr": 1e-3, "min_lr": 0, "precision": "fp32"}
    common["ema_decay"] = 0.9
    if norm_batch is None:
        shape = {"image_size": 8, "patch_size": 4, "width": 16, "depth": 2, "heads": 2, "center_crop": 1.0}
        return VisionTransformer(name="v", kind="vit", **shape), Training(
            betas=(0.9, 0.999), weight_decay=0.05, **common
        )
    backbone = TimmNetwork(
        name="c", kind="timm", model="resnet10t", image_size=8, norm_batch=norm_batch, center_crop=1.0
    )
    return backbone, Training(optimizer="sgd", momentum=0.9, weight_decay=5e-4, decay_all=True, **common)


def train(case: TrainingCase, folder: Path, world: World) -> None:
    """Train for ten steps in float64 and save the weights and their moving average to `NAME.pt`."""
    torch.manual_seed(0)
    backbone, settings = model_and_settings(case.norm_batch)
    finetune = finetune_settings(case.objective)
    model = build(backbone, 5, 0.4, finetune.cosine_scale, finetune.experts, finetune.tuner).double()
    for classifier in model.classifiers:
        torch.nn.init.normal_(classifier.weight, std=0.1)
    images = Beton(folder / "train.beton")
    loss = build_objective(finetune, class_counts(images.labels, 5)).double()
    groups = layer_decay_groups(
        model,
        settings.weight_decay,
        0.8,
        decay_all=settings.decay_all,
        expert_lr_factors=loss.expert_lr_factors,
    )
    mixing = mixing_of(finetune)
    data = TrainingImages(
        images,
        InstanceSampler(len(images), 0),
        12,
        8,
        finetune.augmentation,
        0,
        1,
        RankShard(world.rank, world.size),
        group_size=PAIR if mixing else 1,
        second_augmentation=finetune.second_augmentation,
    )
    objective = Classification(
        Pixels((0.5,) * 3, (0.25,) * 3, torch.float64),
        loss,
        model.branches,
        mixing=mixing,
        global_batch=12,
        images=len(images),
        rank_group=require_global_batch(finetune, Compute(), world),
    )
    trained: torch.nn.Module = model
    if finetune.contrast is not None:
        objective = with_contrast(objective, model, finetune, case.norm_batch)
        trained = objective.model.double()
        groups += decay_groups(objective.model.projectors, settings.weight_decay, decay_all=settings.decay_all)
    state = TrainState(trained, backbone_optimizer(groups, settings), settings.ema_decay)
    checkpoints = Checkpoints(folder / f"checkpoints-{case.name}", "key", 1e9, print, world)
    fit(
        state,
        data,
        objective,
        Schedule(10, 3.0, cosine(1e-2, 10)),
        FitContext("test", world, checkpoints),
        StepOptions(micro_batch=case.micro_batch),
    )
    if world.is_main:
        weights = {"model": trained.state_dict(), "average": state.evaluated_model.state_dict()}
        torch.save(weights, folder / f"{case.name}.pt")


def main(folder: Path, cases: list[TrainingCase]) -> None:
    with world_from_environment() as world:
        for case in cases:
            train(case, folder, world)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [TrainingCase(*case) for case in json.loads(sys.argv[2])])
