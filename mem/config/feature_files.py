"""Settings for precomputed features: a dataset without images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import model_validator

from mem.config.base import Name, Section, Unkeyed
from mem.config.data import Root

SUFFIXES = (".npy", ".safetensors")


class FeatureFiles(Section):
    """Features and labels of each split in `.npy` or `.safetensors` files. File digests are part of the run key.

    Features have the shape (images, width), or (images, 1 + tokens, width) with the pooled feature first. Labels are
    integers starting at 0. In a safetensors file the tensors are named `features` and `labels`.
    """

    source: Literal["features"]
    name: Name
    """Name of the dataset's folder under `runs/`."""
    train_features: Root
    """File with the features of the training split."""
    train_labels: Annotated[str | None, Unkeyed()] = None
    """File with the labels of the training split. Default: the safetensors file that contains the features."""
    val_features: Annotated[str | None, Unkeyed()] = None
    """File with the features of the val split, if there is one."""
    val_labels: Annotated[str | None, Unkeyed()] = None
    """File with the labels of the val split. Default: the safetensors file that contains the features."""
    test_features: Root
    """File with the features of the test split."""
    test_labels: Annotated[str | None, Unkeyed()] = None
    """File with the labels of the test split. Default: the safetensors file that contains the features."""
    class_names: Annotated[str | None, Unkeyed()] = None
    """Text file with one class name per line, in label order, starting with label 0."""

    @model_validator(mode="after")
    def _files_are_complete(self) -> FeatureFiles:
        if self.val_labels is not None and self.val_features is None:
            raise ValueError("val_labels requires val_features")
        for split in self.splits():
            features, labels = self.files_of(split)
            for kind, path in (("features", features), ("labels", labels)):
                if path.suffix not in SUFFIXES:
                    raise ValueError(f"{split}_{kind}: expected a .npy or .safetensors file, got {path}")
            if features == labels and features.suffix == ".npy":
                raise ValueError(f"{split}_labels: is required, because a .npy file contains only one array")
        return self

    def splits(self) -> tuple[str, ...]:
        """Return the splits of the dataset."""
        return ("train", "test") if self.val_features is None else ("train", "val", "test")

    def files_of(self, split: str) -> tuple[Path, Path]:
        """Return the files with the features and the labels of a split."""
        features = Path(getattr(self, f"{split}_features")).expanduser()
        labels = getattr(self, f"{split}_labels")
        return features, features if labels is None else Path(labels).expanduser()

    def index_files(self) -> dict[str, Path]:
        """Return all files, because their content defines the dataset."""
        files: dict[str, Path] = {}
        for split in self.splits():
            files[f"{split} features"], files[f"{split} labels"] = self.files_of(split)
        if self.class_names is not None:
            files["class_names"] = Path(self.class_names).expanduser()
        return files

    def has_val(self) -> bool:
        """Whether there is a val split."""
        return self.val_features is not None
