"""Writers for predictions in CSV and JSON format."""

from __future__ import annotations

import csv
import json
from typing import Protocol, runtime_checkable

from mem.export.exported_model import ExportedModel
from mem.export.predict import TOP_CLASSES, ImagePrediction


@runtime_checkable
class TextFile(Protocol):
    """Protocol for writable text files."""

    def write(self, text: str, /) -> int:
        """Write text."""
        ...


class CsvWriter:
    """Writes one row per image."""

    def __init__(self, file: TextFile, model: ExportedModel) -> None:
        ranks = range(2, 1 + min(TOP_CLASSES, len(model.classes)))
        columns = ["path", "class", "probability"]
        columns += [f"{name}_{rank}" for rank in ranks for name in ("class", "probability")]
        columns += [f"{kind}.{group}" for kind in ("group_weight", "group_norm") for group in model.groups]
        self._table = csv.DictWriter(file, [*columns, "error"], lineterminator="\n")
        self._table.writeheader()

    def write(self, prediction: ImagePrediction) -> None:
        """Write the row for an image."""
        row: dict[str, str] = {"path": prediction.name, "error": prediction.error}
        for rank, (name, probability) in enumerate(prediction.classes, 1):
            row |= {f"class_{rank}" if rank > 1 else "class": name}
            row |= {f"probability_{rank}" if rank > 1 else "probability": f"{probability:.6f}"}
        for kind, values in (("group_weight", prediction.group_weights), ("group_norm", prediction.group_norms)):
            row |= {f"{kind}.{group}": f"{value:.6g}" for group, value in (values or {}).items()}
        self._table.writerow(row)

    def finish(self) -> None:
        """Do nothing, because a CSV file has no footer."""


class JsonWriter:
    """Writes a list with one object per image."""

    def __init__(self, file: TextFile) -> None:
        self._file = file
        self._separator = "[\n"

    def write(self, prediction: ImagePrediction) -> None:
        """Write the object for an image."""
        content: dict[str, object] = {"path": prediction.name}
        if prediction.error:
            content["error"] = prediction.error
        else:
            content |= {"class": prediction.classes[0][0], "probability": prediction.classes[0][1]}
            content["top"] = [{"class": name, "probability": probability} for name, probability in prediction.classes]
            if prediction.group_weights is not None:
                content |= {"group_weights": prediction.group_weights, "group_norms": prediction.group_norms}
        self._file.write(self._separator + json.dumps(content, ensure_ascii=False))
        self._separator = ",\n"

    def finish(self) -> None:
        """Close the list."""
        self._file.write("\n]\n")
