"""From the run folder of a head to everything that it stands on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mem.errors import UserError
from mem.runs.folder import read_record


@dataclass(frozen=True)
class Lineage:
    """The run folders behind a head."""

    head: Path
    features: Path
    backbone: Path
    """The finetuning."""
    images: Path
    """The converted data set."""


def lineage(folder: Path) -> Lineage:
    """Find the runs that a head was made from.

    Args:
        folder: Run folder of a train_head run.

    Raises:
        UserError: It is no such folder, a run is not finished or gone, or the head has no backbone of its own.
    """
    record = read_record(folder)
    if record["stage"] != "train_head":
        raise UserError(
            f"{folder}: is a {record['stage']} run; a head is exported from the folder of its train_head run "
            "(`mem runs STUDY` lists them)"
        )
    root = root_of(folder)
    features = root / record["inputs"]["features"]
    made_of = read_record(features)["inputs"]
    if "classifier" not in made_of:
        raise UserError(
            f"{folder}: its features ({features}) come from no backbone that was finetuned here, so there is nothing "
            "that could make features of an image"
        )
    backbone, images = root / made_of["classifier"], root / made_of["images"]
    for run, file in ((backbone, "model.safetensors"), (images, "dataset.json")):
        if not (run / file).is_file():
            raise UserError(f"{run}/{file}: no such file; {folder} was made from it and cannot be exported without it")
    return Lineage(folder, features, backbone, images)


def root_of(folder: Path) -> Path:
    """The folder that `runs/` is in, from runs/<dataset>/<backbone>/<stage>-<key>."""
    parents = folder.resolve().parents
    if len(parents) < 4 or parents[2].name != "runs":
        raise UserError(f"{folder}: expected a run folder, runs/<dataset>/<backbone>/<stage>-<key>")
    return parents[3]
