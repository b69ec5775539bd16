"""Predictions of a head for every image of a split, including MEM's norms and weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64

from mem import metrics
from mem.data.features.stored import FeatureSource
from mem.heads.base import Head
from mem.heads.mem.head import MemHead
from mem.longtail import SHOT_NAMES
from mem.metrics.predictions import TOP_CLASSES, Predictions

_BATCH_SIZE = 1024


@torch.no_grad()
def predict(
    head: Head,
    split: FeatureSource,
    shot_of_class: Int64[np.ndarray, " classes"],
    device: torch.device,
    names: Sequence[str] | None = None,
) -> Predictions:
    """Predict the class of each image of a split from its plain view.

    Args:
        head: The head, on `device`.
        split: Features of the split.
        shot_of_class: Shot group of each class: 0 many, 1 medium, 2 few.
        device: Device for the computation.
        names: Name of each image, if known.
    """
    batches: list[dict[str, np.ndarray]] = []
    for start in range(0, len(split), _BATCH_SIZE):
        indices = np.arange(start, min(start + _BATCH_SIZE, len(split)))
        inputs = split.inputs(0, indices, tokens=head.uses_tokens).to(device)
        batch: dict[str, np.ndarray] = {}
        if isinstance(head, MemHead):
            logits, weights, norms = head.modulate(inputs)
            batch |= {"weights": weights.cpu().numpy(), "norms": norms.cpu().numpy()}
        else:
            logits = head(inputs)
        top = logits.topk(min(TOP_CLASSES, logits.shape[1]), dim=1).indices
        batch |= {
            "predictions": logits.argmax(dim=1).cpu().numpy(),
            "top": top.cpu().numpy(),
            "top_probabilities": logits.float().softmax(dim=1).gather(1, top).cpu().numpy(),
            "best_in_shot": metrics.best_in_group(logits.float().cpu().numpy(), shot_of_class, len(SHOT_NAMES)),
        }
        batches.append(batch)
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return Predictions(labels=np.asarray(split.labels, dtype=np.int64), names=names, **columns)
