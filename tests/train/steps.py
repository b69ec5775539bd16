"""Small models of each kind and batches, for tests of single training steps."""

from __future__ import annotations

import torch

from mem import config
from mem.data.batch import Batch

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


def random_batch(step: int, side: int) -> Batch:
    """Return the batch of a step, with random images."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (BATCH, side, side, 3), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.arange(BATCH) % 5, step * BATCH, seed=0)
