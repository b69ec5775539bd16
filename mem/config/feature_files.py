"""Features that somebody else computed, in files: a data set without images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import model_validator

from mem.config.base import Name, Section, Unkeyed
from mem.config.data import Root

SUFFIXES = (".npy", ".safetensors")


class FeatureFiles(Section):
    """Features and labels of each split, in `.npy` or `.safetensors` files, which count by their content.

    Features are (images, width), or (images, 1 + tokens, width) with the pooled feature first; labels are whole numbers
    from 0. In a safetensors file the tensors are called `features` and `labels`.
    """

    source: Literal["features"]
    name: Name
    """Name of the data set's folder under `runs/`."""
    train_features: Root
    """Features of the training split."""
    train_labels: Annotated[str | None, Unkeyed()] = None
    """Its labels; without it the features' safetensors file holds them. So it is with the other splits."""
    val_features: Annotated[str | None, Unkeyed()] = None
    """Features of the val split, where there is one."""
    val_labels: Annotated[str | None, Unkeyed()] = None
    """Its labels."""
    test_features: Root
    """Features of the test split."""
    test_labels: Annotated[str | None, Unkeyed()] = None
    """Its labels."""
    class_names: Annotated[str | None, Unkeyed()] = None
    """A file with the name of a class in each line, in the order of the labels, from 0."""

    @model_validator(mode="after")
    def _files_are_named(self) -> FeatureFiles:
        if self.val_labels is not None and self.val_features is None:
            raise ValueError("val_labels goes with val_features")
        for split in self.splits():
            features, labels = self.files_of(split)
            for kind, path in (("features", features), ("labels", labels)):
                if path.suffix not in SUFFIXES:
                    raise ValueError(f"{split}_{kind}: {path} is neither a .npy nor a .safetensors file")
            if features == labels and features.suffix == ".npy":
                raise ValueError(f"{split}_labels: is needed, since a .npy file holds one array only")
        return self

    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return ("train", "test") if self.val_features is None else ("train", "val", "test")

    def files_of(self, split: str) -> tuple[Path, Path]:
        """Files of a split's features and labels."""
        features = Path(getattr(self, f"{split}_features")).expanduser()
        labels = getattr(self, f"{split}_labels")
        return features, features if labels is None else Path(labels).expanduser()

    def index_files(self) -> dict[str, Path]:
        """All files: their content is the data set."""
        found: dict[str, Path] = {}
        for split in self.splits():
            found[f"{split} features"], found[f"{split} labels"] = self.files_of(split)
        if self.class_names is not None:
            found["class_names"] = Path(self.class_names).expanduser()
        return found

    def has_val(self) -> bool:
        """Whether there is a val split."""
        return self.val_features is not None
