"""Features that the frozen backbone computes on request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from mem import config
from mem.data.batch import on_device
from mem.data.features.stored import read_about, read_labels
from mem.data.loading.images import ImageViews
from mem.data.loading.split_images import SplitImages
from mem.jobs.backbone_training import pixels_of
from mem.jobs.backbones import backbone_of
from mem.jobs.batch_norm import load_batch_norm
from mem.jobs.frozen_features import FeatureFunction, feature_function, views_of
from mem.jobs.held_out import images_of
from mem.jobs.job import Job
from mem.jobs.precision import precision_of, precision_record
from mem.models.backbones import BackboneClassifier
from mem.runs.run_config import read_config
from mem.train.sizes import FEATURE_BATCH


class OnlineBackbone:
    """The backbone and the settings of a features run, loaded on first use.

    Args:
        job: A job whose inputs are a features run and the inputs of this features run.
        crops: Several crops per image of val and test, whose logits are averaged, instead of one central crop.
    """

    def __init__(self, job: Job, crops: config.Crops | None = None) -> None:
        self.crops = crops
        self.folder = job.inputs["features"]
        run = read_config(self.folder, "features")
        self.job = replace(job, run=run, inputs={name: job.inputs[name] for name in run.inputs})
        """The job from the perspective of the stage `features`."""
        self.settings = run.section("features", config.Features)

    @cached_property
    def _backbone(self) -> tuple[config.ImageBackbone, Any]:
        counts: Any = read_about(self.folder)["class_counts"]
        backbone, model, _ = backbone_of(self.job, len(counts))
        if self.settings.batch_norm is not None:
            assert isinstance(model, BackboneClassifier)
            load_batch_norm(model, self.folder)
        return backbone, model

    @property
    def model(self) -> Any:
        """The frozen backbone."""
        return self._backbone[1]

    @property
    def image_size(self) -> int:
        """Height and width of the backbone's input, in pixels."""
        return self._backbone[0].image_size

    @cached_property
    def compute(self) -> FeatureFunction:
        """Function that returns the features of images."""
        precision = precision_of(self.job, self.settings.precision)
        precision_record(self.job, self.settings.precision, precision)  # the record is in the run of `features`
        return feature_function(self.model, pixels_of(self.job), precision)

    def split(self, split: str) -> OnlineFeatures:
        """Return the features of a split."""
        return OnlineFeatures(self, split)

    def views(self, images: SplitImages) -> ImageViews:
        """Return the views of all images in the file of a split."""
        return views_of(self.job, images, self._backbone[0], self.settings, self.crops)


class OnlineFeatures:
    """The features of one split, computed on request.

    They equal the features that the stage `features` stores if `online` is not set.
    """

    def __init__(self, backbone: OnlineBackbone, split: str) -> None:
        self._backbone = backbone
        self._labels = read_labels(backbone.folder, split)
        self._split = split

    @cached_property
    def _images(self) -> SplitImages:
        return images_of(self._backbone.job, self._split)

    @cached_property
    def _views(self) -> ImageViews:
        return self._backbone.views(self._images)

    @property
    def labels(self) -> Int64[np.ndarray, " images"]:
        """Class of each image."""
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def views(self) -> int:
        """Number of views: the plain view and, for the training split, the augmented views; or the crops."""
        if self._backbone.crops is not None:
            return self._backbone.crops.number
        return 1 + (self._backbone.settings.views if self._split == "train" else 0)

    @property
    def has_tokens(self) -> bool:
        """Whether the features include tokens."""
        return self._backbone.settings.tokens

    def shape(self, *, tokens: bool) -> tuple[int, ...]:
        """Shape of one sample of `inputs`."""
        model = self._backbone.model
        return (1 + model.tokens, model.width) if tokens else (model.experts * model.width,)

    def inputs(self, views: np.ndarray | int, indices: np.ndarray, *, tokens: bool) -> Tensor:
        """Return head inputs: (samples, width), or (samples, 1 + tokens, width) with the pooled feature first."""
        every = np.broadcast_to(views, indices.shape)
        if not len(indices):
            return torch.empty((0, *self.shape(tokens=tokens)))
        pieces = [np.s_[start : start + FEATURE_BATCH] for start in range(0, len(indices), FEATURE_BATCH)]
        parts = self.stream(((every[piece], indices[piece]) for piece in pieces), tokens=tokens)
        return torch.cat([part.cpu() for part in parts])

    def stream(self, samples: Iterable[tuple[np.ndarray, np.ndarray]], *, tokens: bool) -> Iterator[Tensor]:
        """Yield `inputs` for each pair of views and indices, on the job's device. Threads prefetch the images."""
        device = self._backbone.job.world.device
        positions = self._images.positions
        in_file = ((views, positions[indices]) for views, indices in samples)
        for batch in on_device(self._views.batches(in_file), device):
            # Do not use inference_mode, because a head's backward pass may need these tensors.
            with torch.no_grad():
                parts = [self._features(part, tokens) for part in batch.inputs.split(FEATURE_BATCH)]
            self._images.file.release()
            yield torch.cat(parts) if len(parts) > 1 else parts[0]

    def _features(self, images: Tensor, tokens: bool) -> Tensor:
        pooled, sequence = self._backbone.compute(images)
        return torch.cat([pooled[:, None], sequence], dim=1) if tokens else pooled.flatten(1)
