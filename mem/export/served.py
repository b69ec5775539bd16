"""The `loader_module` of exported MLflow models, which MLflow loads and serves. This module does not import mlflow.

The input is a DataFrame with the column `image`. Each cell contains an image file as base64 text or bytes, or pixels
from 0 to 255 as a (height, width, 3) array or nested lists. Images may have any size. The output has one row per image
(see `ServedModel.predict`).

Saved MLflow models contain the name of this module. Do not rename or move it.
"""

from __future__ import annotations

import base64
import binascii
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from mem import provenance
from mem.data.beton.encoding import ImageSource
from mem.export.described_model import ExportedModel, class_labels
from mem.export.exported_model import load_export
from mem.export.predict import predict_prepared, prepare_images

COLUMN = "image"
BATCH = 64
"""Maximum number of images of a request that are classified at once."""


def output_columns(model: ExportedModel) -> dict[str, str]:
    """Return the columns of the output with MLflow's types, in their order; see `ServedModel.predict`."""
    names = [f"probability.{name}" for name in class_labels(model.classes)]
    names += [f"{kind}.{group}" for kind in ("group_weight", "group_norm") for group in model.groups]
    return {"class": "string", "probability": "float", **dict.fromkeys(names, "float")}


def example_input() -> pd.DataFrame:
    """Return a table with one image: colour gradients as a PNG file in base64. It contains no user's image."""
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    success, content = cv2.imencode(".png", np.stack([rows, columns, 255 - rows], axis=2))
    assert success
    return pd.DataFrame({COLUMN: [base64.b64encode(content.tobytes()).decode()]})


class _InvalidInput(ValueError):
    """An input that cannot be processed."""


class ServedModel:
    """An exported model with the interface that MLflow expects.

    Args:
        model: The exported model.
        refusal: Type of the error for input that cannot be processed.
    """

    def __init__(self, model: ExportedModel, refusal: type[ValueError] = ValueError) -> None:
        self.model = model
        self._refusal = refusal
        self._probability_columns = [f"probability.{name}" for name in class_labels(model.classes)]

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return one row per image.

        The columns are `class` and `probability` for the most probable class, `probability.CLASS` for each class, and
        for MEM also `group_weight.GROUP` and `group_norm.GROUP`.

        Raises:
            ValueError: The column `image` is missing, or an image is unreadable. The message is one line, and names the
                row and the reason.
        """
        try:
            return self._predict(_cells(model_input))
        except _InvalidInput as error:
            raise self._refusal(str(error)) from None

    def _predict(self, cells: list[Any]) -> pd.DataFrame:
        sources = [_source(cell, row) for row, cell in enumerate(cells)]
        tables: list[pd.DataFrame] = []
        with ThreadPoolExecutor(provenance.cpus(), "decode") as pool:
            for start in range(0, len(sources), BATCH):
                prepared = prepare_images(self.model, sources[start : start + BATCH], pool)
                for row, image in enumerate(prepared, start):
                    if isinstance(image, str):
                        raise _InvalidInput(f"Image of row {row} {image}")
                tables.append(self._table(np.stack(prepared)))  # type: ignore[arg-type]
        return pd.concat(tables, ignore_index=True) if tables else self._table(None)

    def _table(self, images: np.ndarray | None) -> pd.DataFrame:
        side = self.model.side
        images = np.empty((0, side, side, 3), dtype=np.uint8) if images is None else images
        predictions = predict_prepared(self.model, images)
        best = predictions.probabilities.argmax(axis=1)
        columns: dict[str, Any] = {
            "class": [self.model.classes[b] for b in best],
            "probability": predictions.probabilities[np.arange(len(best)), best],
            **dict(zip(self._probability_columns, predictions.probabilities.T, strict=True)),
        }
        for kind, values in (("group_weight", predictions.group_weights), ("group_norm", predictions.group_norms)):
            if values is not None:
                columns |= {f"{kind}.{g}": v for g, v in zip(self.model.groups, values.T, strict=True)}
        return pd.DataFrame(columns)


def _load_pyfunc(path: str) -> ServedModel:
    """Load a model. MLflow calls this function with the path of the exported folder inside the MLflow model."""
    from mem.tracking.served_errors import RefusedInput  # imports mlflow, which is imported here already

    return ServedModel(load_export(Path(path)), RefusedInput)


def _cells(model_input: Any) -> list[Any]:
    if isinstance(model_input, np.ndarray) and model_input.ndim == 4:
        return list(model_input)
    if not isinstance(model_input, pd.DataFrame) or COLUMN not in model_input:
        found = list(model_input) if isinstance(model_input, pd.DataFrame | dict) else type(model_input).__name__
        raise _InvalidInput(f"Expected a table with the column `{COLUMN}`, found {found}")
    return model_input[COLUMN].tolist()


def _source(cell: Any, row: int) -> ImageSource:
    """Return the file content or the pixels of a cell."""
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    if isinstance(cell, str):
        try:
            return base64.b64decode(cell, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _InvalidInput(
                f"Image of row {row} is not valid base64: {error}. Expected the content of an image file as base64, "
                "without line breaks and without a `data:` prefix"
            ) from None
    try:
        pixels = np.asarray(cell)
    except (ValueError, TypeError) as error:
        raise _InvalidInput(f"Image of row {row} is not an array: {error}") from None
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype.kind not in "iu" or not pixels.size:
        found = f"shape {pixels.shape} and type {pixels.dtype}" if pixels.ndim else f"the type {type(cell).__name__}"
        raise _InvalidInput(
            f"Image of row {row} has {found}; expected (height, width, 3) with integers from 0 to 255, or the content "
            "of an image file"
        )
    if pixels.min() < 0 or pixels.max() > 255:
        raise _InvalidInput(
            f"Image of row {row} has values from {pixels.min()} to {pixels.max()}; expected integers from 0 to 255"
        )
    return np.ascontiguousarray(pixels, dtype=np.uint8)
