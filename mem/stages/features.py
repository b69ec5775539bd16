"""Stage `features`: what the frozen backbone makes of every image, once per view."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mem import config, provenance
from mem.data.beton.reader import Beton
from mem.data.convert.convert import SPLITS, train_counts
from mem.data.features import files as store
from mem.data.features.writer import FeatureWriter, Part, Piece, each_rank
from mem.data.loading.batch import Batch
from mem.data.loading.images import augmented_batches, plain_batches
from mem.errors import Stopped, UserError
from mem.jobs.backbone_training import fill_color_of, normalization_of
from mem.jobs.job import Job
from mem.jobs.precomputed_features import frozen_backbone, precomputed_features
from mem.models.backbones import Classifier, Frozen, build
from mem.models.weights import load_into, load_weights, save_weights
from mem.progress import Progress
from mem.runs.folder import read_config

BATCH = 256


def features(job: Job) -> Mapping[str, Any]:
    """Write pooled features (and tokens, by setting) of all splits, and the finetuned classifier, where there is one.

    Each rank computes a stretch of the pieces that are not there yet and writes them into the shared files. With
    `online` only labels and classifier are written.
    """
    if "dataset" in job.run.settings:
        return precomputed_features(job)
    settings = job.run.section("features", config.Features)
    counts = train_counts(job.inputs["images"])
    backbone, model, began = backbone_of(job, len(counts))
    if settings.tokens and not model.tokens:
        raise UserError(f"features.tokens: {backbone.name} gives pooled features only; set it to false")
    betons = {split: Beton(job.inputs["images"] / f"{split}.beton") for split in SPLITS}
    out = job.folder.path
    if job.world.is_main:
        for split, images in betons.items():
            np.save(store.feature_file(out, split, "labels"), images.labels)
        online = {"online": True} if settings.online else {}
        store.write_about(out, {"class_counts": counts.tolist(), "width": model.width, **online})
        if "classifier" in job.inputs:
            assert isinstance(model, Classifier)
            linear = {"weight": model.linear.weight, "bias": model.linear.bias}
            save_weights(out / "classifier.safetensors", linear, {"key": job.run.key})
    if settings.online:
        job.say("Nothing but labels is stored (features.online): the heads run the backbone.")
        return {"images": 0, **began}
    return _compute(job, settings, backbone, model, betons) | began


def _compute(
    job: Job,
    settings: config.Features,
    backbone: config.ImageBackbone,
    model: Classifier | Frozen,
    betons: Mapping[str, Beton],
) -> dict[str, Any]:
    pixels = normalization_of(job.inputs["images"])
    shapes = {"pooled": (model.width,), **({"tokens": (model.tokens, model.width)} if settings.tokens else {})}
    dtypes = {"pooled": "float32", "tokens": settings.dtype}
    parts = {
        split: Part(1 + (settings.views if split == "train" else 0), len(images), shapes, dtypes)
        for split, images in betons.items()
    }
    save_seconds = 60 * job.run.compute.checkpoint_minutes
    writer = FeatureWriter(job.folder.path, job.run.key, parts, BATCH, save_seconds)
    there = job.world.from_main(writer.begin() if job.world.is_main else None)
    if there:
        job.say(f"Going on: the features of {there:,} images (times views) are there.")
        job.log.event("resumed", step=there)
    total = sum(piece.count for piece in writer.pieces())
    # Every rank must have seen what is missing before any says that it is not.
    missing = writer.missing()
    job.world.barrier()
    quiet = not job.world.is_main
    with (
        job.stop.deferred(),
        Progress(job.run.title, total, start=there, quiet=quiet) as progress,
        torch.inference_mode(),
    ):
        try:
            mine = each_rank(missing, job.world.rank, job.world.size)
            for piece, batch in _batches(job, betons, mine, backbone, settings):
                vector, sequence = model.features(pixels.normalise(batch.to(job.world.device).inputs))
                made = {"pooled": vector, "tokens": sequence}
                writer.write(piece, {kind: made[kind].float().cpu().numpy() for kind in shapes})
                betons[piece.split].release()
                progress.advance(len(batch) * job.world.size)
                if job.stop.take_save():
                    writer.save()
                    job.stop.saved()
                if job.stop.requested:
                    raise Stopped("Saved what was computed and stopped, as asked.")
        finally:
            writer.close()
    job.world.barrier()
    if job.world.is_main:
        writer.done()
    return {"images": total, "images_per_s": round(progress.rate, 1)}


def backbone_of(job: Job, classes: int) -> tuple[config.ImageBackbone, Classifier | Frozen, dict[str, Any]]:
    """The backbone that a run of features computes with, on the job's device, and what run.json says of its weights.

    It is the finetuned one, or one that nobody finetuned.
    """
    if "classifier" in job.inputs:
        backbone = read_config(job.inputs["classifier"], "finetune").union("backbone", config.ImageBackbone)
        model, began = build(backbone, classes), dict[str, Any]()
        load_into(model.backbone, load_weights(job.inputs["classifier"] / "model.safetensors"))
    else:
        backbone, model, began = frozen_backbone(job, classes)
    return backbone, model.to(job.world.device).eval(), began


def _batches(
    job: Job,
    betons: Mapping[str, Beton],
    pieces: Sequence[Piece],
    backbone: config.ImageBackbone,
    settings: config.Features,
) -> Iterator[tuple[Piece, Batch]]:
    """Each piece with its pictures."""
    workers, side = provenance.cpus(), backbone.image_size
    fill = fill_color_of(job.inputs["images"])
    for (split, view), group in itertools.groupby(pieces, lambda piece: (piece.split, piece.view)):
        alike = list(group)
        indices = np.concatenate([np.arange(piece.first, piece.first + piece.count) for piece in alike])
        if view == 0:
            batches = plain_batches(betons[split], indices, BATCH, side, backbone.center_crop, workers)
        else:
            assert settings.augmentation is not None
            batches = augmented_batches(
                betons[split], indices, BATCH, side, settings.augmentation, job.seed, view, workers, fill
            )
        # All pieces but a view's last one are full batches.
        yield from zip(alike, batches, strict=True)
