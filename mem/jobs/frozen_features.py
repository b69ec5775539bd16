"""The images and the forward pass of a frozen backbone, for stored and for online features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from mem import config
from mem.data.loading.images import ImageViews
from mem.data.loading.split_images import SplitImages
from mem.jobs.backbone_training import fill_color_of
from mem.jobs.job import Job
from mem.models.backbones import BackboneClassifier, FrozenBackbone
from mem.models.pixels import Pixels
from mem.precision import Precision, autocast

FeatureFunction = Callable[
    [UInt8[Tensor, "images side side 3"]],
    tuple[Float32[Tensor, "images *experts width"], Float32[Tensor, "images tokens width"]],
]
"""Function that returns the pooled features and the tokens of images."""
Key = TypeVar("Key")


def feature_function(
    model: BackboneClassifier | FrozenBackbone, pixels: Pixels, precision: Precision, *, compiled: bool = False
) -> FeatureFunction:
    """Return the function that computes the features of images.

    Args:
        model: The frozen backbone, in evaluation mode.
        pixels: The normalisation of the images.
        precision: Precision of the forward pass, which the device supports.
        compiled: Whether to use torch.compile. Every number of images per call is compiled separately.
    """
    features = torch.compile(model.features, dynamic=False) if compiled else model.features

    def compute(images: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(precision, images.device):
            pooled, tokens = features(pixels.normalise(images))
        return pooled.float(), tokens.float()

    return compute


def views_of(
    job: Job,
    images: SplitImages,
    backbone: config.ImageBackbone,
    settings: config.Features,
    crops: config.Crops | None = None,
) -> ImageViews:
    """Return the views of all images in the file of a split.

    Args:
        job: The job, whose seed determines augmentations.
        images: Images of the split.
        backbone: Settings of the backbone, which determine the size of its input.
        settings: Settings of the features, with the augmentation of views 1, 2, ...
        crops: Several crops per image, which are the views instead.
    """
    return ImageViews(
        images.file,
        backbone.image_size,
        backbone.center_crop,
        settings.augmentation,
        job.seed,
        job.threads,
        fill_color_of(job),
        crops,
    )


def in_main_memory(results: Iterable[tuple[Key, Mapping[str, Tensor]]]) -> Iterator[tuple[Key, dict[str, np.ndarray]]]:
    """Yield results as arrays in main memory, each after the work on the next result has been started.

    A GPU therefore computes while the caller stores the previous result.
    """
    previous: _Copy[Key] | None = None
    for key, tensors in results:
        started = _Copy(key, tensors)
        if previous is not None:
            yield previous.wait()
        previous = started
    if previous is not None:
        yield previous.wait()


class _Copy(Generic[Key]):
    """A copy of tensors to main memory. Copies from a GPU run in the background, into pinned memory."""

    def __init__(self, key: Key, tensors: Mapping[str, Tensor]) -> None:
        self._key = key
        self._copies: dict[str, Tensor] = {}
        self._finished: torch.cuda.Event | None = None
        for name, tensor in tensors.items():
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) if tensor.is_cuda else None
            self._copies[name] = tensor if pinned is None else pinned.copy_(tensor, non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._finished = torch.cuda.Event()
            self._finished.record()

    def wait(self) -> tuple[Key, dict[str, np.ndarray]]:
        """Wait for the copy, and return it."""
        if self._finished is not None:
            self._finished.synchronize()
        return self._key, {name: tensor.numpy() for name, tensor in self._copies.items()}
