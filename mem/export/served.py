"""What MLflow loads and serves: the `loader_module` of the exported MLflow model. It knows nothing of MLflow.

Input: a DataFrame with the column `image`: the content of an image file as base64 text or as bytes, or the pixels as a
(height, width, 3) array or nested lists of 0..255; of any size. Output: one row an image, see `Served.predict`.
"""

from __future__ import annotations

import base64
import binascii
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mem import provenance
from mem.data.beton.encoding import ImageSource
from mem.export.folder import Exported, load_export
from mem.export.predict import predict_squares, prepare_all

COLUMN = "image"
BATCH = 64
"""Images of a request that go through the network together."""


class Served:
    """An exported classifier with the interface that MLflow asks for."""

    def __init__(self, exported: Exported) -> None:
        self.exported = exported
        self._probabilities = [f"probability.{name}" for name in _distinct(exported.classes)]

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row an image.

        Columns are `class` and `probability` of the most probable class, `probability.CLASS` of each class, and of MEM
        `group_weight.GROUP` and `group_norm.GROUP`.

        Raises:
            ValueError: There is no column `image`, or an image is unreadable; says which row and why.
        """
        cells = _cells(model_input)
        sources = [_source(cell, row) for row, cell in enumerate(cells)]
        tables: list[pd.DataFrame] = []
        with ThreadPoolExecutor(provenance.cpus(), "decode") as pool:
            for start in range(0, len(sources), BATCH):
                squares = prepare_all(self.exported, sources[start : start + BATCH], pool)
                for row, square in enumerate(squares, start):
                    if isinstance(square, str):
                        raise ValueError(f"Image of row {row} {square}")
                tables.append(self._table(np.stack(squares)))  # type: ignore[arg-type]
        return pd.concat(tables, ignore_index=True) if tables else self._table(None)

    def _table(self, squares: np.ndarray | None) -> pd.DataFrame:
        side = self.exported.side
        squares = np.empty((0, side, side, 3), dtype=np.uint8) if squares is None else squares
        found = predict_squares(self.exported, squares)
        best = found.probabilities.argmax(axis=1)
        columns: dict[str, Any] = {
            "class": [self.exported.classes[b] for b in best],
            "probability": found.probabilities[np.arange(len(best)), best],
            **dict(zip(self._probabilities, found.probabilities.T, strict=True)),
        }
        for kind, values in (("group_weight", found.group_weights), ("group_norm", found.group_norms)):
            if values is not None:
                columns |= {f"{kind}.{g}": v for g, v in zip(self.exported.groups, values.T, strict=True)}
        return pd.DataFrame(columns)


def _load_pyfunc(path: str) -> Served:
    """Called by MLflow with the exported folder inside of the model's."""
    return Served(load_export(Path(path)))


def _cells(model_input: Any) -> list[Any]:
    if isinstance(model_input, np.ndarray) and model_input.ndim == 4:
        return list(model_input)
    if not isinstance(model_input, pd.DataFrame) or COLUMN not in model_input:
        found = list(model_input) if isinstance(model_input, pd.DataFrame | dict) else type(model_input).__name__
        raise ValueError(f"Expected a table with the column `{COLUMN}`, found {found}")
    return model_input[COLUMN].tolist()


def _source(cell: Any, row: int) -> ImageSource:
    """Pixels, or the content of a file."""
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, str):
        try:
            return base64.b64decode(cell, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"Image of row {row} is no base64 text: {error}") from None
    try:
        pixels = np.asarray(cell)
    except ValueError as error:
        raise ValueError(f"Image of row {row} is no array: {error}") from None
    whole = pixels.dtype.kind in "iu" and pixels.size > 0 and pixels.min() >= 0 and pixels.max() <= 255
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not whole:
        raise ValueError(
            f"Image of row {row} has shape {pixels.shape} and type {pixels.dtype}; expected (height, width, 3) with "
            "whole numbers from 0 to 255"
        )
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def _distinct(names: tuple[str, ...]) -> list[str]:
    """Names of columns: where classes share a name, with their number."""
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names)]
