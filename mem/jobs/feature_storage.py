"""Computation and storage of the features of images: the main part of the stage `features`."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mem import config
from mem.data.batch import Batch, on_device
from mem.data.features.writer import DIVERGED, Chunk, FeatureWriter, SplitLayout, chunks_of_rank
from mem.data.loading.images import ImageViews
from mem.data.loading.split_images import SplitImages
from mem.errors import Stopped
from mem.jobs.frozen_features import FeatureFunction, in_main_memory
from mem.jobs.job import Job
from mem.models.backbones import BackboneClassifier, FrozenBackbone
from mem.progress import Progress
from mem.train.sizes import FEATURE_BATCH

_OVERFLOW = (
    "with features.precision fp16, values above 65,504 overflow. Set features.precision to bf16 or fp32. If the value "
    "is then still not finite, the backbone diverged during training: finetune it again with a lower base_lr."
)


@dataclass(frozen=True)
class ViewsToStore:
    """The views of a split's images whose features are stored."""

    images: SplitImages
    views: ImageViews
    number: int
    """Number of views of each image."""


def store_features(
    job: Job,
    settings: config.Features,
    model: BackboneClassifier | FrozenBackbone,
    compute: FeatureFunction,
    splits: Mapping[str, ViewsToStore],
) -> dict[str, Any]:
    """Compute the features of all views that are not yet stored, and return the results for run.json.

    Each rank computes a part of the missing chunks and writes it to files that all ranks share.

    Args:
        job: The job.
        settings: Settings of the features.
        model: The frozen backbone.
        compute: Function that returns the features of images.
        splits: Views by split.
    """
    pooled = (model.width,) if model.experts == 1 else (model.experts, model.width)
    shapes = {"pooled": pooled, **({"tokens": (model.tokens, model.width)} if settings.tokens else {})}
    dtypes = {"pooled": settings.pooled_dtype, "tokens": settings.dtype}
    layouts = {
        split: SplitLayout(to_store.number, len(to_store.images), shapes, dtypes) for split, to_store in splits.items()
    }
    save_seconds = 60 * job.run.compute.checkpoint_minutes
    cause = _OVERFLOW if settings.precision == "fp16" else DIVERGED
    writer = FeatureWriter(job.folder.path, job.run.key, layouts, FEATURE_BATCH, save_seconds, cause)
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
        Progress(job.run.title, total, start=present, quiet=quiet, folder=job.folder.path) as progress,
        torch.inference_mode(),
    ):
        try:
            chunks_to_write = chunks_of_rank(missing, job.world.rank, job.world.size)
            batches = _batches(job, splits, chunks_to_write)
            for chunk, computed in in_main_memory(_computed(compute, batches, shapes)):
                writer.write(chunk, computed)
                splits[chunk.split].images.file.release()
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
        job.stop.hold()
        writer.finish()
    return {"images": total, "images_per_s": round(progress.rate, 1)}


def _computed(
    compute: FeatureFunction, batches: Iterable[tuple[Chunk, Batch]], kinds: Collection[str]
) -> Iterator[tuple[Chunk, dict[str, Tensor]]]:
    """Yield each chunk with its features, on the device of its batch."""
    for chunk, batch in batches:
        pooled, tokens = compute(batch.inputs)
        yield chunk, {kind: values for kind, values in (("pooled", pooled), ("tokens", tokens)) if kind in kinds}


def _batches(job: Job, splits: Mapping[str, ViewsToStore], chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Batch]]:
    """Yield each chunk with a batch of its images, on the job's device."""
    for (split, view), group in itertools.groupby(chunks, lambda chunk: (chunk.split, chunk.view)):
        chunks_of_view = list(group)
        to_store = splits[split]
        positions = to_store.images.positions
        indices = np.concatenate([positions[chunk.first :][: chunk.count] for chunk in chunks_of_view])
        # Every chunk is a full batch, except the last chunk of a view.
        batches = on_device(to_store.views.of_view(indices, view, FEATURE_BATCH), job.world.device)
        yield from zip(chunks_of_view, batches, strict=True)
