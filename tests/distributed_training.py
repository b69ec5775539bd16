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

from mem.config import Augmentation, Backbone, TimmNetwork, Training, VisionTransformer
from mem.data.beton.reader import Beton
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.data.loading.shard import RankShard
from mem.distributed import World, world_from_environment
from mem.models.backbones import build
from mem.models.parameter_groups import layer_decay_groups
from mem.models.pixels import Pixels
from mem.stages.finetune import classification
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

    @property
    def name(self) -> str:
        return f"{self.ranks}-{self.micro_batch}-{self.norm_batch}"


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
    model = build(backbone, 5, drop_path=0.4).double()
    torch.nn.init.normal_(model.linear.weight, std=0.1)
    groups = layer_decay_groups(model, settings.weight_decay, 0.8, decay_all=settings.decay_all)
    state = TrainState(model, backbone_optimizer(groups, settings), settings.ema_decay)
    images = Beton(folder / "train.beton")
    augmentation = Augmentation(crop_scale=(0.4, 1.0), flip=True)
    shard = RankShard(world.rank, world.size)
    data = TrainingImages(images, InstanceSampler(len(images), 0), 12, 8, augmentation, 0, 1, shard)
    pixels = Pixels((0.5,) * 3, (0.25,) * 3, torch.float64)
    checkpoints = Checkpoints(folder / f"checkpoints-{case.name}", "key", 1e9, print, world)
    fit(
        state,
        data,
        classification(pixels, 0.1, model.branches),
        Schedule(10, 3.0, cosine(1e-2, 10)),
        FitContext("test", world, checkpoints),
        StepOptions(micro_batch=case.micro_batch),
    )
    if world.is_main:
        weights = {"model": model.state_dict(), "average": state.evaluated_model.state_dict()}
        torch.save(weights, folder / f"{case.name}.pt")


def main(folder: Path, cases: list[TrainingCase]) -> None:
    with world_from_environment() as world:
        for case in cases:
            train(case, folder, world)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [TrainingCase(*case) for case in json.loads(sys.argv[2])])
