"""Names of the images of a features run, for the predictions of an evaluation."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mem import config
from mem.data.split_parts import parts_of_train
from mem.runs.folder import original_features, read_record
from mem.runs.keys import HOLDOUT

_SPLITS = ("val", "test")


def image_names(features: Path) -> dict[str, list[str]]:
    """Return the names of the images of val and test, or an empty dictionary if there is no `images.csv`.

    Args:
        features: Folder of a finished features run. If it holds out training images, they are val.
    """
    holdout = read_record(features)["settings"].get(HOLDOUT)
    images = read_record(original_features(features))["inputs"].get("images")
    path = Path(images, "images.csv") if images is not None else None
    if path is None or not path.is_file():
        return {}
    if holdout is None:
        return _names(path, _SPLITS)[0]
    names, labels = _names(path, ("train",))
    parts = parts_of_train(np.asarray(labels["train"]), config.Holdout(**holdout))
    return {split: [names["train"][position] for position in parts[split].tolist()] for split in _SPLITS}


def _names(path: Path, splits: tuple[str, ...]) -> tuple[dict[str, list[str]], dict[str, list[int]]]:
    """Return the names and the labels of the images of splits."""
    names: dict[str, list[str]] = {}
    labels: dict[str, list[int]] = {}
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        for line in csv.DictReader(file):
            if line["split"] in splits:
                names.setdefault(line["split"], []).append(line["name"])
                labels.setdefault(line["split"], []).append(int(line["label"]))
    return names, labels
