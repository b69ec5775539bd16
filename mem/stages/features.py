"""Stage `features`: computes the frozen backbone's features of every image, once per view."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mem import config, files
from mem.data.batch import Batch, on_device
from mem.data.convert.convert import SPLITS, train_counts
from mem.data.features import stored as store
from mem.data.features.writer import Chunk, FeatureWriter, SplitLayout, chunks_of_rank
from mem.data.loading.images import ImageViews
from mem.data.loading.split_images import SplitImages
from mem.errors import Stopped, UserError
from mem.jobs.backbone_training import fill_color_of, pixels_of
from mem.jobs.backbones import backbone_of
from mem.jobs.frozen_features import FeatureFunction, feature_function, in_main_memory
from mem.jobs.held_out import held_out_record, images_of
from mem.jobs.held_out_features import held_out_features
from mem.jobs.job import Job
from mem.jobs.precomputed_features import precomputed_features
from mem.longtail import class_counts
from mem.models.backbones import BackboneClassifier, FrozenBackbone
from mem.models.weights.tensors import save_weights
from mem.progress import Progress
from mem.train.sizes import FEATURE_BATCH


def features(job: Job) -> Mapping[str, Any]:
    """Write the pooled features of all splits, optionally their tokens, and the finetuned classifier if there is one.

    Each rank computes a contiguous part of the missing chunks and writes it to files that all ranks share. If `online`
    is set, only the labels and the classifier are written.
    """
    if "dataset" in job.run.settings:
        return precomputed_features(job)
    if "features" in job.inputs:
        return held_out_features(job)
    settings = job.run.section("features", config.Features)
    classes = len(train_counts(job.inputs["images"]))
    backbone, model, record = backbone_of(job, classes)
    if settings.tokens and not model.tokens:
        raise UserError(f"features.tokens: {backbone.name} has no tokens. Set features.tokens to false.")
    splits = {split: images_of(job, split) for split in SPLITS}
    record |= held_out_record(job)
    out = job.folder.path
    if job.world.is_main:
        for split, images in splits.items():
            files.write_array(store.feature_file(out, split, "labels"), images.labels)
        online = {"online": True} if settings.online else {}
        trained = class_counts(splits["train"].labels, classes)
        store.write_about(out, {"class_counts": trained.tolist(), "width": model.width, **online})
        if "classifier" in job.inputs:
            assert isinstance(model, BackboneClassifier)
            linear = {"weight": model.linear.weight, "bias": model.linear.bias}
            save_weights(out / "classifier.safetensors", linear, {"key": job.run.key})
    if settings.online:
        job.say("Only labels are stored (features.online). The backbone computes features when heads need them.")
        return {"images": 0, **record}
    return _compute(job, settings, backbone, model, splits) | record


def _compute(
    job: Job,
    settings: config.Features,
    backbone: config.ImageBackbone,
    model: BackboneClassifier | FrozenBackbone,
    splits: Mapping[str, SplitImages],
) -> dict[str, Any]:
    compute = feature_function(model, pixels_of(job), settings, compiled=job.run.compute.compile)
    shapes = {"pooled": (model.width,), **({"tokens": (model.tokens, model.width)} if settings.tokens else {})}
    dtypes = {"pooled": "float32", "tokens": settings.dtype}
    layouts = {
        split: SplitLayout(1 + (settings.views if split == "train" else 0), len(images), shapes, dtypes)
        for split, images in splits.items()
    }
    save_seconds = 60 * job.run.compute.checkpoint_minutes
    writer = FeatureWriter(job.folder.path, job.run.key, layouts, FEATURE_BATCH, save_seconds)
    present = job.world.from_main(writer.create_or_resume() if job.world.is_main else None)
    if present:
        job.say(f"Resuming: features of {present:,} views of images are already stored.")
        job.log.event("resumed", step=present)
    total = sum(chunk.count for chunk in writer.chunks())
    # Every rank must read the map of missing chunks before any rank changes it.
    missing = writer.missing_chunks()
    job.world.barrier()
    quiet = not job.world.is_main
    with (
        job.stop.deferred(),
        Progress(job.run.title, total, start=present, quiet=quiet) as progress,
        torch.inference_mode(),
    ):
        try:
            chunks_to_write = chunks_of_rank(missing, job.world.rank, job.world.size)
            batches = _batches(job, splits, chunks_to_write, backbone, settings)
            for chunk, computed in in_main_memory(_computed(compute, batches, shapes)):
                writer.write(chunk, computed)
                splits[chunk.split].file.release()
                progress.advance(chunk.count * job.world.size)
                if job.stop.take_save():
                    writer.save()
                    job.stop.saved()
                if job.stop.requested:
                    raise Stopped("Saved the computed features and stopped on request.")
        finally:
            writer.close()
    job.world.barrier()
    if job.world.is_main:
        writer.finish()
    return {"images": total, "images_per_s": round(progress.rate, 1)}


def _computed(
    compute: FeatureFunction, batches: Iterable[tuple[Chunk, Batch]], kinds: Collection[str]
) -> Iterator[tuple[Chunk, dict[str, Tensor]]]:
    """Yield each chunk with its features, on the device of its batch."""
    for chunk, batch in batches:
        pooled, tokens = compute(batch.inputs)
        yield chunk, {kind: values for kind, values in (("pooled", pooled), ("tokens", tokens)) if kind in kinds}


def _batches(
    job: Job,
    splits: Mapping[str, SplitImages],
    chunks: Sequence[Chunk],
    backbone: config.ImageBackbone,
    settings: config.Features,
) -> Iterator[tuple[Chunk, Batch]]:
    """Yield each chunk with a batch of its images, on the job's device."""
    workers, side = job.threads, backbone.image_size
    fill = fill_color_of(job)
    for (split, view), group in itertools.groupby(chunks, lambda chunk: (chunk.split, chunk.view)):
        chunks_of_view = list(group)
        images = splits[split]
        indices = np.concatenate([images.positions[chunk.first :][: chunk.count] for chunk in chunks_of_view])
        views = ImageViews(images.file, side, backbone.center_crop, settings.augmentation, job.seed, workers, fill)
        # Every chunk is a full batch, except the last chunk of a view.
        batches = on_device(views.of_view(indices, view, FEATURE_BATCH), job.world.device)
        yield from zip(chunks_of_view, batches, strict=True)
