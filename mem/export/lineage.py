"""Find the runs that a head is based on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mem.config import Crops
from mem.errors import UserError
from mem.export.frozen_backbone import frozen_settings, frozen_weights
from mem.models.weights.tensors import load_weights
from mem.runs.folder import read_record
from mem.runs.keys import CROPS
from mem.runs.outputs import BATCH_NORM_STATISTICS


@dataclass(frozen=True)
class Lineage:
    """The run folders of a head and its inputs."""

    head: Path
    features: Path
    backbone: Path
    """The finetune run or, for a backbone without finetuning, the features run."""
    images: Path
    """The convert run."""
    updated_batch_norm: bool
    """Whether the features run updated the BatchNorm statistics of the backbone."""
    crops: Crops | None = None
    """Crops of each image whose logits are averaged; None for one central crop. Only an evaluation has crops."""

    @property
    def frozen(self) -> bool:
        """Whether no run finetuned the backbone."""
        return self.backbone == self.features

    def backbone_weights(self) -> dict[str, Tensor]:
        """Load the weights of the backbone, with the BatchNorm statistics with which its features were computed."""
        if self.frozen:
            classes = len(json.loads((self.images / "dataset.json").read_text())["classes"])
            return frozen_weights(self.features, root_of(self.head), classes)
        weights = load_weights(self.backbone / "model.safetensors")
        return (
            {**weights, **load_weights(self.features / BATCH_NORM_STATISTICS)} if self.updated_batch_norm else weights
        )


def lineage(folder: Path) -> Lineage:
    """Find the runs that a head is based on.

    Args:
        folder: Run folder of a train_head run, or of an evaluate run, whose crops are then those of the predictions.

    Raises:
        UserError: The folder is neither, a run is missing or not finished, or the study did not finetune a backbone.
    """
    record, crops = read_record(folder), None
    if record["stage"] == "evaluate":
        crops = Crops(**found) if (found := record["results"].get(CROPS)) else None
        folder = root_of(folder) / record["inputs"]["head"]
        record = read_record(folder)
    if record["stage"] != "train_head":
        raise UserError(
            f"{folder}: this is a {record['stage']} run, but only the folder of a train_head or evaluate run can be "
            "exported. `mem runs STUDY` lists them."
        )
    root = root_of(folder)
    features = root / record["inputs"]["features"]
    features_record = read_record(features)
    inputs = features_record["inputs"]
    if "images" not in inputs:
        raise UserError(
            f"{folder}: the features of this head ({features}) were not computed from images by that run, so the head "
            "cannot be exported. Export a head from a study of images."
        )
    frozen = "classifier" not in inputs
    backbone, images = features if frozen else root / inputs["classifier"], root / inputs["images"]
    if frozen:
        frozen_settings(features)
    updated = bool(features_record["settings"]["features"].get("batch_norm"))
    statistics = ((features, BATCH_NORM_STATISTICS),) if updated else ()
    weights = () if frozen else ((backbone, "model.safetensors"),)
    for run, file in (*weights, (images, "dataset.json"), *statistics):
        if not (run / file).is_file():
            raise UserError(
                f"{run}/{file}: no such file, but {folder} depends on it. Run the study again to restore the file."
            )
    return Lineage(folder, features, backbone, images, updated, crops)


def root_of(folder: Path) -> Path:
    """Return the parent folder of `runs/` for a run folder runs/<dataset>/<backbone>/<stage>-<key>."""
    parents = folder.resolve().parents
    if len(parents) < 4 or parents[2].name != "runs":
        raise UserError(f"{folder}: expected a run folder, runs/<dataset>/<backbone>/<stage>-<key>")
    return parents[3]
