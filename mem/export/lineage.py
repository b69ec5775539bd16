"""Find the runs that a head is based on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mem.errors import UserError
from mem.runs.folder import read_record


@dataclass(frozen=True)
class Lineage:
    """The run folders of a head and its inputs."""

    head: Path
    features: Path
    backbone: Path
    """The finetune run."""
    images: Path
    """The convert run."""


def lineage(folder: Path) -> Lineage:
    """Find the runs that a head is based on.

    Args:
        folder: Run folder of a train_head run.

    Raises:
        UserError: The folder is not a train_head run folder, a run is missing or not finished, or the study did not
            finetune a backbone.
    """
    record = read_record(folder)
    if record["stage"] != "train_head":
        raise UserError(
            f"{folder}: this is a {record['stage']} run, but only the folder of a train_head run can be exported. "
            "`mem runs STUDY` lists them."
        )
    root = root_of(folder)
    features = root / record["inputs"]["features"]
    inputs = read_record(features)["inputs"]
    if "classifier" not in inputs:
        raise UserError(
            f"{folder}: the features of this head ({features}) were not computed by a backbone that a study finetuned, "
            "so the head cannot be exported. Export a head from a study with `finetune`."
        )
    backbone, images = root / inputs["classifier"], root / inputs["images"]
    for run, file in ((backbone, "model.safetensors"), (images, "dataset.json")):
        if not (run / file).is_file():
            raise UserError(
                f"{run}/{file}: no such file, but {folder} depends on it. Run the study again to restore the file."
            )
    return Lineage(folder, features, backbone, images)


def root_of(folder: Path) -> Path:
    """Return the parent folder of `runs/` for a run folder runs/<dataset>/<backbone>/<stage>-<key>."""
    parents = folder.resolve().parents
    if len(parents) < 4 or parents[2].name != "runs":
        raise UserError(f"{folder}: expected a run folder, runs/<dataset>/<backbone>/<stage>-<key>")
    return parents[3]
