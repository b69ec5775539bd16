"""Contrastive objectives in tests: settings, projections, and NumPy versions, written from the definitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mem.config import Finetune
from mem.objectives.base import Targets
from mem.objectives.projections import Projections
from tests.objectives.numpy_objectives import filled
from tests.objectives.settings import finetune

CONTRAST: dict[str, Any] = {"queue": 64, "width": 5, "temperature": 0.2, "momentum": 0.9, "projector_norm": True}
PACO: dict[str, Any] = {"name": "paco", "sample_weight": 0.05, "contrast": CONTRAST}


@dataclass(frozen=True)
class Views:
    """Labels, queries and keys of a global batch, and a queue. Label -1 marks an empty entry of the queue."""

    labels: np.ndarray
    queries: np.ndarray
    keys: np.ndarray
    queue: np.ndarray
    queue_labels: np.ndarray

    def targets(self, queries: torch.Tensor, part: slice = slice(None)) -> Targets:
        """Return the targets of some samples. `queries` are those of the global batch."""
        labels = torch.from_numpy(self.labels)
        first = part.indices(len(labels))[0]
        tensors = [torch.from_numpy(values) for values in (self.keys, self.labels, self.queue, self.queue_labels)]
        return Targets(labels[part], projections=Projections(queries[part], first, queries, *tensors))


def directions(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return random vectors of length 1."""
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def paco(z: np.ndarray, views: Views, counts: np.ndarray, alpha: float, temperature: float) -> np.ndarray:
    """Return the value of each sample."""
    prior = filled(counts) / filled(counts).sum()
    values = []
    for i, label in enumerate(views.labels):
        # Unnormalised log-probability and weight of each competitor of sample i.
        scores = [(z[i, c] + np.log(pi), 1.0 if c == label else 0.0) for c, pi in enumerate(prior)]
        for j, vector in enumerate(views.queries):
            if j != i:
                same = views.labels[j] == label
                scores.append((views.queries[i] @ vector / temperature, alpha if same else 0.0))
        for vector, other in zip([*views.keys, *views.queue], [*views.labels, *views.queue_labels], strict=True):
            if other >= 0:
                scores.append((views.queries[i] @ vector / temperature, alpha if other == label else 0.0))
        total = np.log(sum(np.exp(score) for score, _ in scores))
        weight = sum(w for _, w in scores)
        values.append(-sum(w * (score - total) for score, w in scores) / weight)
    return np.array(values)


def contrastive_finetune(global_batch: int) -> Finetune:
    """Return the settings of a finetuning with PaCo, whose queue contains the keys of two steps."""
    values = finetune(PACO).model_dump() | {"global_batch": global_batch}
    values["objective"]["contrast"]["queue"] = 2 * global_batch
    return Finetune.model_validate(values)
