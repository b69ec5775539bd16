"""Class means of the features of a backbone, computed by all ranks."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from mem import config
from mem.data.batch import on_device
from mem.data.loading.images import plain_batches
from mem.data.loading.split_images import SplitImages
from mem.jobs.backbone_training import pixels_of
from mem.jobs.job import Job
from mem.models.backbones import BackboneClassifier
from mem.precision import Precision, autocast
from mem.progress import Progress
from mem.train.sizes import FEATURE_BATCH


@torch.no_grad()
def class_means(
    job: Job,
    model: BackboneClassifier,
    backbone: config.ImageBackbone,
    train: SplitImages,
    classes: int,
    *,
    precision: Precision,
) -> tuple[Float[Tensor, "experts {classes} width"], Int64[Tensor, " {classes}"]]:
    """Return the mean feature of each class, in double precision, and the number of its images.

    The features are those of the images without augmentation, and the model is in evaluation mode. Each rank computes
    a contiguous part of the batches, which are the same for any number of ranks. The result does not depend on the
    number of ranks, apart from the order in which double-precision sums are added.

    Args:
        job: The job.
        model: The backbone, on the job's device.
        backbone: Settings of the backbone.
        train: The training images.
        classes: Number of classes.
        precision: Precision of the backbone's forward pass.
    """
    device, pixels = job.world.device, pixels_of(job)
    model.eval()
    # Sums in main memory are added in a fixed order, which those on a GPU are not.
    sums = torch.zeros(model.experts, classes, model.width, dtype=torch.float64)
    parts = _part_of_rank(len(train), job.world.rank, job.world.size)
    batches = plain_batches(
        train.file, train.positions[parts], FEATURE_BATCH, backbone.image_size, backbone.center_crop, job.threads
    )
    images = parts.stop - parts.start
    with Progress(f"{job.run.title}: class means", images, quiet=not job.world.is_main) as progress:
        for batch in on_device(batches, device):
            with autocast(precision, device):
                pooled, _ = model.features(pixels.normalise(batch.inputs))
            add_by_class(sums, pooled.cpu(), batch.labels.cpu())
            train.file.release()
            progress.advance(len(batch))
    counts = torch.from_numpy(np.bincount(train.labels, minlength=classes))
    means = job.world.sum(sums.to(device)).cpu() / counts.clamp(min=1)[:, None]
    return means, counts


def add_by_class(
    sums: Float64[Tensor, "experts classes width"],
    features: Float[Tensor, "images *experts width"],
    labels: Int64[Tensor, " images"],
) -> None:
    """Add each feature to the sum of its class, in place."""
    by_expert = features if features.ndim == 3 else features[:, None]
    sums.index_add_(1, labels, by_expert.transpose(0, 1).double())


def _part_of_rank(images: int, rank: int, ranks: int) -> slice:
    """Return the images of a rank: a contiguous part that consists of full batches, except at the end."""
    batches = -(-images // FEATURE_BATCH)
    first, last = (batches * i // ranks * FEATURE_BATCH for i in (rank, rank + 1))
    return slice(min(first, images), min(last, images))
