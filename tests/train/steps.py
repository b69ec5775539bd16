"""Small models of each kind and batches, for tests of single training steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from mem import config
from mem.data.batch import Batch
from mem.jobs.classification import Classification
from mem.models.backbones import build
from mem.models.mae import build_autoencoder
from mem.models.tuners.adaptformer import add_adaptformer
from mem.models.tuners.lora import add_lora
from mem.models.tuners.prompts import add_prompts
from mem.objectives.cross_entropy import CrossEntropy
from mem.stages.pretrain import reconstruction
from mem.train.step import Objective
from tests.train.training import CNN, PIXELS

BATCH = 12
VIT = config.VisionTransformer(
    name="v", kind="vit", image_size=32, patch_size=16, width=16, depth=2, heads=2, center_crop=1
)
CONVMAE = config.ConvMae(
    name="c", kind="convmae", image_size=32, patch_sizes=(4, 2, 2), widths=(8, 8, 16), depths=(1, 1, 1), heads=2,
    center_crop=1,
)  # fmt: skip
PRETRAIN = config.Pretrain(
    epochs=10, warmup_epochs=1, global_batch=BATCH, base_lr=1e-3, min_lr=0, betas=(0.9, 0.95), weight_decay=0.05,
    precision="bf16", mask_ratio=0.5, norm_pix_loss=True, decoder=config.Decoder(width=16, depth=1, heads=2),
    augmentation=config.Augmentation(crop_scale=(0.2, 1.0), flip=True),
)  # fmt: skip


SIDE = 32
"""Height and width of the images in pixels."""
Case = Callable[[], tuple[nn.Module, Objective]]


def autoencoder(backbone: config.VisionTransformer | config.ConvMae) -> tuple[nn.Module, Objective]:
    torch.manual_seed(0)
    model = build_autoencoder(backbone, PRETRAIN)
    return model, reconstruction(PIXELS, model.grid**2)


def classifier(backbone: config.Backbone) -> tuple[nn.Module, Objective]:
    torch.manual_seed(0)
    model = build(backbone, 5, drop_path=0.4)
    return model, Classification(PIXELS, CrossEntropy(5, 0.1), model.branches)


def tuned() -> tuple[nn.Module, Objective]:
    """A classifier with the layers of three tuners, which a study cannot combine, and with frozen weights."""
    model, objective = classifier(VIT)
    network: nn.Module = model.backbone.requires_grad_(False)  # type: ignore[assignment]
    add_lora(network, config.LoraTuner(name="lora", rank=2, alpha=4, layers=("query", "value")), "the network")
    add_adaptformer(network, config.AdaptFormerTuner(name="adaptformer", width=4, scale="learnt"), "the network")
    add_prompts(network, config.VptTuner(name="vpt", tokens=3, deep=True), "the network")
    return model, objective


CASES: dict[str, Case] = {
    "mae": lambda: autoencoder(VIT),
    "convmae": lambda: autoencoder(CONVMAE),
    "vit": lambda: classifier(VIT),
    "convmae classifier": lambda: classifier(CONVMAE),
    "tuned": tuned,
    "cnn": lambda: classifier(CNN.model_copy(update={"image_size": SIDE, "norm_batch": 6})),
}


def random_batch(step: int, side: int) -> Batch:
    """Return the batch of a step, with random images."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (BATCH, side, side, 3), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.arange(BATCH) % 5, step * BATCH, seed=0)
