"""What a head says of every image of a split: its class, the runners-up, and MEM's signals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64

from mem import metrics
from mem.data.features.files import FeatureSource
from mem.heads.base import Head
from mem.heads.mem.head import MemHead
from mem.longtail import SHOT_NAMES
from mem.metrics.predictions import TOP, Predictions

BATCH = 1024


@torch.no_grad()
def predict(
    head: Head,
    split: FeatureSource,
    shot_of_class: Int64[np.ndarray, " classes"],
    device: torch.device,
    names: Sequence[str] | None = None,
) -> Predictions:
    """The head's answers on the plain view of a split's images."""
    tokens = isinstance(head, MemHead) and head.settings.input == "tokens"
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(split), BATCH):
        inputs = split.inputs(0, np.arange(start, min(start + BATCH, len(split))), tokens=tokens).to(device)
        part: dict[str, np.ndarray] = {}
        if isinstance(head, MemHead):
            logits, weights, norms = head.modulate(inputs)
            part |= {"weights": weights.cpu().numpy(), "norms": norms.cpu().numpy()}
        else:
            logits = head(inputs)
        top = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
        numbers = logits.float().cpu().numpy()
        part |= {
            "predictions": logits.argmax(dim=1).cpu().numpy(),
            "top": top.cpu().numpy(),
            "top_probabilities": logits.float().softmax(dim=1).gather(1, top).cpu().numpy(),
            "best_in_shot": metrics.best_in_group(numbers, shot_of_class, len(SHOT_NAMES)),
        }
        parts.append(part)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Predictions(labels=np.asarray(split.labels, dtype=np.int64), names=names, **whole)
