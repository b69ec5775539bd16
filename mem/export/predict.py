"""Predict the classes of image files and pixel arrays with an exported model."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from mem import provenance
from mem.config import Crops
from mem.data.beton.encoding import ImageSource
from mem.data.codecs.decode import Unreadable
from mem.data.loading.single_image import prepare_image
from mem.export.exported_model import ExportedModel
from mem.runs.keys import CROPS

TOP_CLASSES = 5
"""Number of most probable classes that are reported for each image."""


@dataclass(frozen=True)
class BatchPredictions:
    """Classifier outputs for a batch of images."""

    probabilities: Float32[np.ndarray, "images classes"]
    group_weights: Float32[np.ndarray, "images groups"] | None
    """The paper's w; None for heads other than MEM."""
    group_norms: Float32[np.ndarray, "images groups"] | None
    """The paper's Q; None for heads other than MEM."""


@dataclass(frozen=True)
class ImagePrediction:
    """The prediction for one image, or the reason why it is unreadable."""

    name: str
    classes: tuple[tuple[str, float], ...] = ()
    """The most probable classes with their probabilities, in descending order. Empty for an unreadable image."""
    group_weights: dict[str, float] | None = None
    group_norms: dict[str, float] | None = None
    error: str = ""
    """Why the image is unreadable."""


@torch.no_grad()
def predict_prepared(model: ExportedModel, images: UInt8[np.ndarray, "images *crops side side 3"]) -> BatchPredictions:
    """Run the classifier on prepared images. If they have several crops, the outputs are those of the mean logits."""
    if images.ndim == 4:
        out = model.classifier(torch.from_numpy(images))
    else:
        # One crop of each image at a time, so that the number of crops does not change how much memory is needed.
        crops = [model.classifier(torch.from_numpy(images[:, crop])) for crop in range(images.shape[1])]
        out = {name: torch.stack([each[name] for each in crops]).mean(dim=0) for name in crops[0]}
        out["probabilities"] = out["logits"].softmax(dim=1)
    arrays = {name: values.numpy() for name, values in out.items()}
    return BatchPredictions(arrays["probabilities"], arrays.get("group_weights"), arrays.get("group_norms"))


def prepare_images(
    model: ExportedModel, sources: Sequence[ImageSource], pool: ThreadPoolExecutor
) -> list[np.ndarray | str]:
    """Return the prepared square or squares for each image, or the reason why the image is unreadable."""
    crops = Crops(**found) if (found := model.about.get(CROPS)) else None

    def prepare(source: ImageSource) -> np.ndarray | str:
        try:
            if isinstance(source, str) and stat.S_ISFIFO(os.stat(source).st_mode):
                return "is a named pipe, not a file"  # reading it would wait for a writer
            return prepare_image(source, model.encoding, model.side, model.center_crop, crops)
        except Unreadable as reason:
            return str(reason)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        except ValueError as error:  # a name that no file can have
            return f"cannot be read: {error}"

    return list(pool.map(prepare, sources))


def predict_files(model: ExportedModel, names: Sequence[str], batch: int) -> Iterator[ImagePrediction]:
    """Yield the prediction for each file.

    Args:
        model: The exported model.
        names: Paths of the files.
        batch: Number of images per batch.
    """
    with ThreadPoolExecutor(provenance.cpus(), "decode") as pool:
        for start in range(0, len(names), batch):
            batch_names = names[start : start + batch]
            prepared = prepare_images(model, batch_names, pool)
            readable = [image for image in prepared if isinstance(image, np.ndarray)]
            predictions = _image_predictions(model, predict_prepared(model, np.stack(readable))) if readable else ()
            fields = iter(predictions)
            for name, image in zip(batch_names, prepared, strict=True):
                if isinstance(image, str):
                    yield ImagePrediction(name, error=image)
                else:
                    yield ImagePrediction(name, **next(fields))


def _image_predictions(model: ExportedModel, predictions: BatchPredictions) -> Iterator[dict[str, Any]]:
    """Yield the fields of `ImagePrediction` for each image of a batch."""
    number = min(TOP_CLASSES, len(model.classes))
    top = np.argsort(-predictions.probabilities, axis=1, kind="stable")[:, :number]
    for i, best_first in enumerate(top):
        fields: dict[str, Any] = {
            "classes": tuple((model.classes[c], float(predictions.probabilities[i, c])) for c in best_first)
        }
        for kind, values in (("group_weights", predictions.group_weights), ("group_norms", predictions.group_norms)):
            if values is not None:
                fields[kind] = dict(zip(model.groups, values[i].tolist(), strict=True))
        yield fields
