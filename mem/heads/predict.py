"""Predictions of a head for every image of a split, including MEM's norms and weights and the router's decisions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from mem import metrics
from mem.data.features.stored import FeatureSource
from mem.heads.base import Head
from mem.heads.mem.modulated import ModulatedHead
from mem.heads.ride_router import RideRouterHead
from mem.heads.temperature import TemperatureScores
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
    temperatures: TemperatureScores | None = None,
) -> Predictions:
    """Predict the class of each image of a split.

    If the images have several views, which are their crops, the logits are the means over the views. The same applies
    to the norms and group weights of MEM, and to the number of experts that a router uses.

    Args:
        head: The head, on `device`.
        split: Features of the split.
        shot_of_class: Shot group of each class: 0 many, 1 medium, 2 few.
        device: Device for the computation.
        names: Name of each image, if known.
        temperatures: Receives the logits, for the scores with temperature scaling.
    """
    batches: list[dict[str, np.ndarray]] = []
    for start in range(0, len(split), _BATCH_SIZE):
        indices = np.arange(start, min(start + _BATCH_SIZE, len(split)))
        views = [
            _outputs(head, split.inputs(view, indices, tokens=head.uses_tokens).to(device))
            for view in range(split.views)
        ]
        outputs = {name: _mean([view[name] for view in views]) for name in views[0]}
        logits = outputs.pop("logits")
        if temperatures is not None:
            temperatures.add(logits, np.asarray(split.labels[start : start + len(logits)], dtype=np.int64))
        batch = {name: values.cpu().numpy() for name, values in outputs.items()}
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


def _outputs(head: Head, inputs: Tensor) -> dict[str, Tensor]:
    """Return the `logits` of head inputs, and further columns of the predictions that the head has."""
    if isinstance(head, ModulatedHead):
        logits, weights, norms = head.modulate(inputs)
        return {"logits": logits, "weights": weights, "norms": norms}
    if isinstance(head, RideRouterHead):
        logits, used = head.route(inputs)
        return {"logits": logits, "experts_used": used}
    return {"logits": head(inputs)}


def _mean(views: Sequence[Tensor]) -> Tensor:
    """Return the mean over views. A single view is returned unchanged, with its type."""
    return views[0] if len(views) == 1 else torch.stack(list(views)).float().mean(dim=0)
