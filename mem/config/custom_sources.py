"""Anyone's own images: a folder per class, list files, or a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, model_validator

from mem.config.base import Section, Unkeyed
from mem.config.data import ImageData, LongTailCut, Root, SetAside


class OwnImages(ImageData, ABC):
    """Base of the three: naturally long-tailed, or cut to a long tail."""

    root: Root
    """Folder that all paths start from."""
    test: SetAside | None = None
    """How a test split is taken out, where there is none."""
    cut: LongTailCut | None = None
    """Cuts the training split to a long tail."""
    class_names: Annotated[str | None, Unkeyed()] = None
    """A file with the name of a class in each line, in the order of the labels, from 0."""

    @model_validator(mode="after")
    def _one_test(self) -> OwnImages:
        own = self.own_test()
        if own is not None and own == (self.test is not None):
            raise ValueError(
                "has a test split already; leave `test` out" if own else f"needs a test split: `test`, or {self.TESTS}"
            )
        return self

    @model_validator(mode="after")
    def _one_source_of_val(self) -> OwnImages:
        if self.listed_val() and self.cut is not None and self.cut.val_per_class:
            raise ValueError("has a val split already; set `cut.val_per_class` to 0")
        return self

    TESTS: ClassVar[str] = "one of its own"

    @abstractmethod
    def own_test(self) -> bool | None:
        """Whether there is a test split without `test`; none where only the data can tell."""

    @abstractmethod
    def listed_val(self) -> bool | None:
        """Whether there is a val split before cut and holdout; none where only the data can tell."""

    def own_val(self) -> bool | None:
        """Whether there is a val split without `holdout`."""
        return True if self.cut is not None and self.cut.val_per_class else self.listed_val()

    def index_files(self) -> dict[str, Path]:
        """The file of class names, where there is one."""
        return {} if self.class_names is None else {"class_names": Path(self.class_names).expanduser()}


class Folder(OwnImages):
    """A tree with a folder per class. Classes are in natural order (`class2` before `class10`) or as listed."""

    source: Literal["folder"]
    train_folder: str = "."
    """Folder of the training split's class folders, under `root`."""
    val_folder: str | None = None
    """The same of the val split."""
    test_folder: str | None = None
    """The same of the test split."""
    revision: NonNegativeInt = 0
    """Raise it when the tree has other images than before: a tree, unlike a list, is no part of a run's key."""
    TESTS: ClassVar[str] = "`test_folder`"

    @model_validator(mode="after")
    def _folders_apart(self) -> Folder:
        given = [name for name in (self.train_folder, self.val_folder, self.test_folder) if name is not None]
        paths = [PurePosixPath(name) for name in given]
        for name, path in zip(given, paths, strict=True):
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{name}: must be a folder inside `root`")
        for i, path in enumerate(paths):
            for other in paths[i + 1 :]:
                if path.is_relative_to(other) or other.is_relative_to(path):
                    raise ValueError(f"the folders of two splits, {path} and {other}, must not contain one another")
        return self

    def own_test(self) -> bool:
        """Whether the tree has a test split."""
        return self.test_folder is not None

    def listed_val(self) -> bool:
        """Whether the tree has a val split."""
        return self.val_folder is not None


class Labelled(OwnImages):
    """Base of lists and tables."""

    labels: Literal["numbers", "names"] = "numbers"
    """What stands for a class: its label, from 0, or its name. Names are in natural order, or in `class_names`'."""


class Lists(Labelled):
    """List files with an image a line: its path under `root`, a separator, its label. The label is the last field."""

    source: Literal["lists"]
    train_list: Root
    """List of the training split."""
    val_list: Annotated[str | None, Unkeyed()] = None
    """List of the val split."""
    test_list: Annotated[str | None, Unkeyed()] = None
    """List of the test split."""
    separator: Literal["space", "tab", "comma"] = "space"
    """What stands before the label."""
    TESTS: ClassVar[str] = "`test_list`"

    def own_test(self) -> bool:
        """Whether there is a list of the test split."""
        return self.test_list is not None

    def listed_val(self) -> bool:
        """Whether there is a list of the val split."""
        return self.val_list is not None

    def index_files(self) -> dict[str, Path]:
        """The lists, and the file of class names."""
        lists = {"train": self.train_list, "val": self.val_list, "test": self.test_list}
        return {k: Path(v).expanduser() for k, v in lists.items() if v is not None} | super().index_files()


class SplitValues(Section):
    """What a table calls the splits."""

    train: str = "train"
    val: str = "val"
    test: str = "test"

    @model_validator(mode="after")
    def _differ(self) -> SplitValues:
        if len({self.train, self.val, self.test}) < 3:
            raise ValueError("needs a value of its own for each split")
        return self


class Table(Labelled):
    """A CSV or Parquet table with an image a row."""

    source: Literal["table"]
    table: Root
    """The file: `.parquet`, `.tsv`, or anything else with commas."""
    path_column: Annotated[str, Field(min_length=1)] = "path"
    """Column of the path under `root`."""
    label_column: Annotated[str, Field(min_length=1)] = "label"
    """Column of the label."""
    split_column: str | None = None
    """Column of the split."""
    split_values: SplitValues = SplitValues()
    """What the split's column says for each split."""
    TESTS: ClassVar[str] = "`split_column`"

    def own_test(self) -> bool | None:
        """Whether there is a test split: only the table can tell, where it has a column for it."""
        return None if self.split_column is not None else False

    def listed_val(self) -> bool | None:
        """Whether there is a val split: only the table can tell, where it has a column for it."""
        return None if self.split_column is not None else False

    def index_files(self) -> dict[str, Path]:
        """The table, and the file of class names."""
        return {"table": Path(self.table).expanduser()} | super().index_files()
