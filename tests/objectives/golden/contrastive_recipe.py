"""Inputs of the recorded contrastive losses. They need no random numbers, so that no library can change them."""

from __future__ import annotations

import numpy as np

PACO = {"sample_weight": 0.05, "temperature": 0.2}
NCL = {"temperature": 0.2}
MOMENTUM = 0.9
LEARNING_RATE = 0.3
STEPS = 3
BATCH = 4
QUEUE = 8
"""Number of keys in the queue: the keys of two steps. The third step replaces those of the first one."""
WIDTH = 5
CLASSES = 3
COUNTS = [60, 25, 4]
FEATURES = 6
SIDE = 2
LABELS = [[0, 1, 0, 2], [1, 0, 2, 0], [0, 0, 1, 1]]
"""Labels of each step."""
QUEUE_LABELS = [0, 2, 1, 0, 0, 1, 2, 0]
"""Labels of the keys with which the queue starts."""


def waves(*shape: int, frequency: float) -> np.ndarray:
    """Return numbers between -1 and 1 in float64."""
    return np.sin(frequency * (1 + np.arange(np.prod(shape)))).reshape(shape)


def directions(*shape: int, frequency: float) -> np.ndarray:
    """Return vectors of length 1."""
    vectors = waves(*shape, frequency=frequency)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def images(step: int, view: int) -> np.ndarray:
    """Return the images of a step: batch, channels, rows, columns."""
    return 2 * waves(BATCH, 3, SIDE, SIDE, frequency=1.3 + 0.37 * step + 0.011 * view)


def weights() -> dict[str, np.ndarray]:
    """Return the initial weights of the network: a layer, a classifier, and a projector with a hidden layer."""
    shapes = {
        "layer.weight": (FEATURES, 3 * SIDE * SIDE),
        "layer.bias": (FEATURES,),
        "classifier.weight": (CLASSES, FEATURES),
        "classifier.bias": (CLASSES,),
        "hidden.weight": (FEATURES, FEATURES),
        "hidden.bias": (FEATURES,),
        "out.weight": (WIDTH, FEATURES),
        "out.bias": (WIDTH,),
    }
    return {name: waves(*shape, frequency=0.7 + 0.31 * i) for i, (name, shape) in enumerate(shapes.items())}


def queue() -> np.ndarray:
    """Return the keys with which the queue starts."""
    return directions(QUEUE, WIDTH, frequency=2.9)
