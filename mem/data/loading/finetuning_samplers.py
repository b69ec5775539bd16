"""Samplers of finetuning. Samples 2k and 2k + 1 are mixed by mixup and CutMix (`mem.data.augment.mixing`)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from mem import rng
from mem.data.loading.samplers import ClassBalancedSampler, Sampler, build_sampler
from mem.longtail import class_counts, without_images


class ProgressiveSampler:
    """Moves linearly from instance-balanced to class-balanced sampling in the course of training.

    Sample i of T has the class j with probability (1 - t) n_j / N + t / C, where t = i / T, and each image of the class
    is equally likely (Kang et al. 2020, eq. 3). C is the number of classes that have images.

    In the official code (facebookresearch/classifier-balancing at f162ade, data/ClassPrioritySampler.py), t is constant
    within each of E epochs, e / (E - 1) for epoch e, and the images of a class are sampled in shuffled cycles. Here, t
    changes with every sample, so that training may last any number of epochs, and samples are independent, so that the
    sequence can be read from any position.

    Args:
        labels: Label of each image.
        classes: Number of classes.
        seed: The run's seed.
        total_samples: Number of samples of the complete training (T). Later samples are class-balanced.
    """

    def __init__(self, labels: np.ndarray, classes: int, seed: int, total_samples: int) -> None:
        counts = class_counts(labels, classes)
        self._by_class = np.argsort(labels, kind="stable")
        self._starts = np.cumsum(counts) - counts
        self._counts = counts
        self._present = np.flatnonzero(counts)
        self._seed, self._total_samples = seed, total_samples

    def indices(self, start: int, count: int) -> Int64[np.ndarray, " {count}"]:
        """Return the image indices of the samples `start` to `start + count - 1`."""
        choice, of_class, of_image = rng.uniforms(self._seed, "progressive sampler", start, count, 3).T
        share_balanced = np.arange(start, start + count) / self._total_samples
        k = self._present[_scaled(of_class, len(self._present))]
        balanced = self._by_class[self._starts[k] + _scaled(of_image, self._counts[k])]
        return np.where(choice < share_balanced, balanced, _scaled(of_image, len(self._by_class)))


def _scaled(uniforms: np.ndarray, size: int | np.ndarray) -> Int64[np.ndarray, " samples"]:
    """Return random integers from 0 to `size - 1`, given uniform numbers in [0, 1)."""
    return np.floor(uniforms * size).astype(np.int64)


def build_finetuning_sampler(sampler: str, labels: np.ndarray, seed: int, total_samples: int) -> Sampler:
    """Build the sampler with the given name: `instance`, `class_balanced`, `sqrt` or `progressive`.

    `class_balanced` selects one image per visit of a class, so that two samples that are mixed are of different
    classes. Classes without images are skipped.

    Args:
        sampler: Name of the sampler.
        labels: Label of each training image.
        seed: The run's seed.
        total_samples: Number of samples of the complete training.

    Raises:
        ValueError: The name is unknown.
    """
    classes = int(labels.max()) + 1
    match sampler:
        case "class_balanced":
            return ClassBalancedSampler(labels, classes, seed, images_per_visit=1)
        case "progressive":
            return ProgressiveSampler(labels, classes, seed, total_samples)
        case "instance" | "sqrt":
            return build_sampler(sampler, labels, classes, seed)
    raise ValueError(f"unknown sampler {sampler!r}; expected instance, class_balanced, sqrt or progressive")


def skipped_classes_warning(sampler: str, class_counts: np.ndarray) -> str | None:
    """Return a warning that names the classes that a sampler skips, or None if every class has training images."""
    problem = without_images(class_counts)
    if problem is None:
        return None
    return f"{problem}. The sampler `{sampler}` (finetune.sampler) skips classes without images. Add images."
