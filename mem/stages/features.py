"""Stage `features`: what the frozen backbone makes of every image, once per view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from mem import config, provenance
from mem.data import features as store
from mem.data.batch import Batch
from mem.data.beton import Beton
from mem.data.convert import SPLITS, train_counts
from mem.data.loaders import Slice, augmented_batches, plain_batches
from mem.models.backbones import build
from mem.models.weights import load_into, load_weights, save_weights
from mem.progress import Progress
from mem.runfolder import read_config
from mem.stages.job import Job
from mem.stages.training import fill_of, pixels_of

BATCH = 256


def features(job: Job) -> Mapping[str, Any]:
    """Write pooled features (and tokens, by setting) of all splits, and the classifier that belongs to them.

    Each rank computes a stretch of each split and writes it into the shared files.
    """
    settings = job.run.section("features", config.Features)
    tuned = read_config(job.inputs["classifier"], "finetune")
    backbone = tuned.union("backbone", config.Backbone)
    counts = train_counts(job.inputs["images"])
    model = build(backbone, len(counts))
    load_into(model.backbone, load_weights(job.inputs["classifier"] / "model.safetensors"))
    model.to(job.world.device).eval()
    pixels = pixels_of(job.inputs["images"])
    betons = {split: Beton(job.inputs["images"] / f"{split}.beton") for split in SPLITS}
    views = {split: 1 + (settings.views if split == "train" else 0) for split in SPLITS}
    out = job.folder.path

    if job.world.is_main:
        for split, images in betons.items():
            np.save(store.feature_file(out, split, "labels"), images.labels)
            store.create(out, split, "pooled", (views[split], len(images), model.width))
            if settings.tokens:
                store.create(out, split, "tokens", (views[split], len(images), model.tokens, model.width))
        store.write_about(out, {"class_counts": counts.tolist(), "width": model.width})
        linear = {"weight": model.linear.weight, "bias": model.linear.bias}
        save_weights(out / "classifier.safetensors", linear, {"key": job.run.key})
    job.world.barrier()

    part = Slice(job.world.rank, job.world.size)
    total = sum(views[split] * len(images) for split, images in betons.items())
    with Progress(job.run.title, total, quiet=not job.world.is_main) as progress, torch.inference_mode():
        for split, images in betons.items():
            low, high = part.of(len(images))
            pooled = np.load(store.feature_file(out, split, "pooled"), mmap_mode="r+")
            tokens = np.load(store.feature_file(out, split, "tokens"), mmap_mode="r+") if settings.tokens else None
            for view in range(views[split]):
                for batch in _batches(job, images, np.arange(low, high), backbone, settings, view):
                    place = slice(low + batch.first, low + batch.first + len(batch))
                    inputs = pixels.normalise(batch.to(job.world.device).inputs)
                    vector, sequence = model.features(inputs)
                    pooled[view, place] = vector.float().cpu().numpy()
                    if tokens is not None:
                        tokens[view, place] = sequence.float().cpu().numpy()
                    progress.advance(len(batch) * job.world.size)
            pooled.flush()
            if tokens is not None:
                tokens.flush()
    return {"images": total, "images_per_s": round(progress.rate, 1)}


def _batches(
    job: Job,
    images: Beton,
    indices: np.ndarray,
    backbone: config.Backbone,
    settings: config.Features,
    view: int,
) -> Iterator[Batch]:
    workers = provenance.cpus()
    if view == 0:
        return plain_batches(images, indices, BATCH, backbone.image_size, backbone.center_crop, workers)
    assert settings.augmentation is not None
    fill = fill_of(job.inputs["images"])
    return augmented_batches(
        images, indices, BATCH, backbone.image_size, settings.augmentation, job.seed, view, workers, fill
    )
