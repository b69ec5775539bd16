"""Predictions of an exported classifier for images from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from mem import provenance
from mem.data.beton.encoding import ImageSource
from mem.data.codecs.decode import Unreadable
from mem.data.loading.single_image import prepare_image
from mem.export.folder import Exported

TOP = 5
"""So many of the most probable classes are told."""


@dataclass(frozen=True)
class BatchPredictions:
    """What a classifier makes of some images; rows are images."""

    probabilities: Float32[np.ndarray, "images classes"]
    group_weights: Float32[np.ndarray, "images groups"] | None
    """The paper's w; of MEM only."""
    group_norms: Float32[np.ndarray, "images groups"] | None
    """The paper's Q; of MEM only."""


@dataclass(frozen=True)
class ImagePrediction:
    """What became of one image."""

    name: str
    classes: tuple[tuple[str, float], ...] = ()
    """The most probable classes, with their probabilities, the first first; none where the image was unreadable."""
    group_weights: dict[str, float] | None = None
    group_norms: dict[str, float] | None = None
    error: str = ""
    """Why it was unreadable."""


@torch.no_grad()
def predict_squares(exported: Exported, squares: UInt8[np.ndarray, "images side side 3"]) -> BatchPredictions:
    """Run the classifier on prepared images."""
    out = {name: value.numpy() for name, value in exported.classifier(torch.from_numpy(squares)).items()}
    return BatchPredictions(out["probabilities"], out.get("group_weights"), out.get("group_norms"))


def prepare_all(exported: Exported, sources: Sequence[ImageSource], pool: ThreadPoolExecutor) -> list[np.ndarray | str]:
    """The prepared square of each image, or why it is unreadable."""

    def one(source: ImageSource) -> np.ndarray | str:
        try:
            return prepare_image(source, exported.encoding, exported.side, exported.center_crop)
        except Unreadable as reason:
            return str(reason)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"

    return list(pool.map(one, sources))


def predict_files(exported: Exported, names: Sequence[str], batch: int) -> Iterator[ImagePrediction]:
    """The answer for each file, in order.

    Args:
        exported: The classifier.
        names: Paths of the files.
        batch: Images that go through the network together.
    """
    with ThreadPoolExecutor(provenance.cpus(), "decode") as pool:
        for start in range(0, len(names), batch):
            part = names[start : start + batch]
            squares = prepare_all(exported, part, pool)
            good = [square for square in squares if isinstance(square, np.ndarray)]
            found = iter(_answers(exported, predict_squares(exported, np.stack(good))) if good else ())
            for name, square in zip(part, squares, strict=True):
                yield (
                    ImagePrediction(name, error=square)
                    if isinstance(square, str)
                    else ImagePrediction(name, **next(found))
                )


def _answers(exported: Exported, predictions: BatchPredictions) -> Iterator[dict[str, Any]]:
    number = min(TOP, len(exported.classes))
    top = np.argsort(-predictions.probabilities, axis=1, kind="stable")[:, :number]
    for i, order in enumerate(top):
        answer: dict[str, Any] = {
            "classes": tuple((exported.classes[c], float(predictions.probabilities[i, c])) for c in order)
        }
        for kind, values in (("group_weights", predictions.group_weights), ("group_norms", predictions.group_norms)):
            if values is not None:
                answer[kind] = dict(zip(exported.groups, values[i].tolist(), strict=True))
        yield answer
