"""The features of a job: from disk, or, where a study keeps none, from the frozen backbone in the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from mem import config, provenance
from mem.data.beton.reader import Beton
from mem.data.features.files import FeatureSource, is_online, open_split, read_about, read_labels
from mem.data.loading.images import ImageViews
from mem.jobs.backbone_training import fill_color_of, normalization_of
from mem.jobs.job import Job
from mem.models.pixels import Pixels
from mem.runs.folder import read_config
from mem.stages.features import BATCH, backbone_of


def feature_sources(job: Job) -> Callable[[str], FeatureSource]:
    """Gives each split of a job's features by its name.

    Raises:
        UserError: When a split is asked for; see `mem.data.features.files.open_split`.
    """
    folder = job.inputs["features"]
    return OnlineBackbone(job).split if is_online(folder) else lambda split: open_split(folder, split)


class OnlineBackbone:
    """What the features stage would have computed with, loaded when it is needed.

    Args:
        job: A job whose inputs are a run of features and all that this run was made of.
    """

    def __init__(self, job: Job) -> None:
        self.folder = job.inputs["features"]
        run = read_config(self.folder, "features")
        self.job = replace(job, run=run, inputs={name: job.inputs[name] for name in run.inputs})
        """As the features stage saw it."""
        self.settings = run.section("features", config.Features)

    @cached_property
    def _backbone(self) -> tuple[config.ImageBackbone, Any]:
        counts: Any = read_about(self.folder)["class_counts"]
        return backbone_of(self.job, len(counts))[:2]

    @property
    def model(self) -> Any:
        """The frozen backbone."""
        return self._backbone[1]

    @cached_property
    def pixels(self) -> Pixels:
        """How pictures are normalised."""
        return normalization_of(self.job.inputs["images"])

    def split(self, split: str) -> OnlineFeatures:
        """One split."""
        return OnlineFeatures(self, split)

    def views(self, split: str) -> ImageViews:
        """The pictures of a split."""
        backbone, images = self._backbone[0], self.job.inputs["images"]
        return ImageViews(
            Beton(images / f"{split}.beton"),
            backbone.image_size,
            backbone.center_crop,
            self.settings.augmentation,
            self.job.seed,
            provenance.cpus(),
            fill_color_of(images),
        )


class OnlineFeatures:
    """One split, with the features that the stage would have stored, computed when they are asked for."""

    def __init__(self, loop: OnlineBackbone, split: str) -> None:
        self._loop = loop
        self._labels = read_labels(loop.folder, split)
        self._split = split

    @cached_property
    def _images(self) -> ImageViews:
        return self._loop.views(self._split)

    @property
    def labels(self) -> Int64[np.ndarray, " images"]:
        """Class of each image."""
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def views(self) -> int:
        """The plain view and, of the training split, the augmented ones."""
        return 1 + (self._loop.settings.views if self._split == "train" else 0)

    @property
    def has_tokens(self) -> bool:
        """Whether heads may see tokens, by the study's settings."""
        return self._loop.settings.tokens

    def shape(self, *, tokens: bool) -> tuple[int, ...]:
        """Shape of one sample of `inputs`."""
        model = self._loop.model
        return (1 + model.tokens, model.width) if tokens else (model.width,)

    def inputs(self, views: np.ndarray | int, indices: np.ndarray, *, tokens: bool) -> Tensor:
        """What a head sees: (samples, width), or (samples, 1 + tokens, width) with the pooled feature first."""
        every = np.broadcast_to(views, indices.shape)
        if not len(indices):
            return torch.empty((0, *self.shape(tokens=tokens)))
        pieces = [np.s_[start : start + BATCH] for start in range(0, len(indices), BATCH)]
        parts = self.stream(((every[piece], indices[piece]) for piece in pieces), tokens=tokens)
        return torch.cat([part.cpu() for part in parts])

    def stream(self, samples: Iterable[tuple[np.ndarray, np.ndarray]], *, tokens: bool) -> Iterator[Tensor]:
        """`inputs` of each pair of views and indices, on the job's device; pictures are made ahead by threads."""
        device = self._loop.job.world.device
        for batch in self._images.batches(samples):
            # Not inference_mode: a head's backward pass may keep these.
            with torch.no_grad():
                made = [
                    self._features(part, tokens) for part in batch.inputs.to(device, non_blocking=True).split(BATCH)
                ]
            self._images.images.release()
            yield torch.cat(made) if len(made) > 1 else made[0]

    def _features(self, pictures: Tensor, tokens: bool) -> Tensor:
        pooled, sequence = self._loop.model.features(self._loop.pixels.normalise(pictures))
        return torch.cat([pooled[:, None], sequence], dim=1).float() if tokens else pooled.float()
