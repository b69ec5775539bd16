"""Settings for custom datasets, defined by one folder per class, by list files, or by a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, model_validator

from mem.config.base import Section, Unkeyed
from mem.config.data import ImageData, LongTailCut, Root, SetAside


class CustomImages(ImageData, ABC):
    """Base class of custom datasets, which are already long-tailed or are cut to a long tail."""

    root: Root
    """Folder that all image paths are relative to."""
    test: SetAside | None = None
    """Test split taken from the training images, for a dataset without a test split."""
    cut: LongTailCut | None = None
    """Cut of the training split to a long tail."""
    class_names: Annotated[str | None, Unkeyed()] = None
    """Text file with one class name per line, in label order, starting with label 0; or a file with a name for each
    class id, as JSON or as CSV with the columns `id` and `name`, which renames the classes and keeps their order."""
    TEST_SETTING: ClassVar[str]
    """Name of the setting that specifies an existing test split, for error messages."""

    @model_validator(mode="after")
    def _has_one_test_split(self) -> CustomImages:
        has_test = self.has_test_without_set_aside()
        if has_test is True and self.test is not None:
            raise ValueError(f"the dataset already has a test split ({self.TEST_SETTING}); remove `test`")
        if has_test is False and self.test is None:
            raise ValueError(f"the dataset has no test split; set {self.TEST_SETTING}, or split one off with `test`")
        return self

    @model_validator(mode="after")
    def _has_one_val_source(self) -> CustomImages:
        if self.has_listed_val() and self.cut is not None and self.cut.val_per_class:
            raise ValueError("the dataset already has a val split; set `cut.val_per_class` to 0")
        return self

    @abstractmethod
    def has_test_without_set_aside(self) -> bool | None:
        """Whether there is a test split without the setting `test`; None if this depends on the data."""

    @abstractmethod
    def has_listed_val(self) -> bool | None:
        """Whether there is a val split before cut and holdout; None if this depends on the data."""

    def has_val_without_holdout(self) -> bool | None:
        """Whether there is a val split without the setting `holdout`; None if this depends on the data."""
        return True if self.cut is not None and self.cut.val_per_class else self.has_listed_val()


class Folder(CustomImages):
    """Folder tree with one folder per class.

    Classes are in natural order (`class2` before `class10`), or in the order of `class_names`.
    """

    source: Literal["folder"]
    train_folder: str = "."
    """Folder with the class folders of the training split, relative to `root`."""
    val_folder: str | None = None
    """Folder with the class folders of the val split, relative to `root`."""
    test_folder: str | None = None
    """Folder with the class folders of the test split, relative to `root`."""
    revision: NonNegativeInt = 0
    """Version of the images. Increase this number after you change images in the tree: unlike lists, a folder tree is
    not part of a run's key."""
    TEST_SETTING: ClassVar[str] = "`test_folder`"

    @model_validator(mode="after")
    def _folders_are_disjoint(self) -> Folder:
        names = [name for name in (self.train_folder, self.val_folder, self.test_folder) if name is not None]
        paths = [PurePosixPath(name) for name in names]
        for name, path in zip(names, paths, strict=True):
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{name}: must be a folder inside `root`")
        for i, path in enumerate(paths):
            for other in paths[i + 1 :]:
                if path.is_relative_to(other) or other.is_relative_to(path):
                    raise ValueError(f"the folders of two splits, {path} and {other}, must not contain one another")
        return self

    def has_test_without_set_aside(self) -> bool:
        """Whether `test_folder` is set."""
        return self.test_folder is not None

    def has_listed_val(self) -> bool:
        """Whether `val_folder` is set."""
        return self.val_folder is not None


class Labelled(CustomImages):
    """Base class of datasets defined by lists or tables."""

    labels: Literal["numbers", "names"] = "numbers"
    """Content of the label field: class numbers starting at 0, or class names. Names are numbered in natural order, or
    in the order of `class_names`."""


class Lists(Labelled):
    """List files with one image per line: the path relative to `root`, a separator, and the label as the last field."""

    source: Literal["lists"]
    train_list: Root
    """List file for the training split."""
    val_list: Annotated[str | None, Unkeyed()] = None
    """List file for the val split."""
    test_list: Annotated[str | None, Unkeyed()] = None
    """List file for the test split."""
    separator: Literal["space", "tab", "comma"] = "space"
    """Separator between the path and the label."""
    TEST_SETTING: ClassVar[str] = "`test_list`"

    def has_test_without_set_aside(self) -> bool:
        """Whether `test_list` is set."""
        return self.test_list is not None

    def has_listed_val(self) -> bool:
        """Whether `val_list` is set."""
        return self.val_list is not None

    def index_files(self) -> dict[str, Path]:
        """Return the list files by split, and the class-name file."""
        lists = {"train": self.train_list, "val": self.val_list, "test": self.test_list}
        return {k: Path(v).expanduser() for k, v in lists.items() if v is not None} | super().index_files()


class SplitValues(Section):
    """Values in a table's split column."""

    train: str = "train"
    val: str = "val"
    test: str = "test"

    @model_validator(mode="after")
    def _are_distinct(self) -> SplitValues:
        if len({self.train, self.val, self.test}) < 3:
            raise ValueError("the values of the three splits must differ")
        return self


class Table(Labelled):
    """CSV or Parquet table with one image per row."""

    source: Literal["table"]
    table: Root
    """Path of the table: `.parquet`, `.tsv` (tab-separated), or any other suffix (comma-separated)."""
    path_column: Annotated[str, Field(min_length=1)] = "path"
    """Name of the column that contains the image path, relative to `root`."""
    label_column: Annotated[str, Field(min_length=1)] = "label"
    """Name of the column that contains the label."""
    split_column: str | None = None
    """Name of the column that contains the split."""
    split_values: SplitValues = SplitValues()
    """Value of the split column for each split."""
    TEST_SETTING: ClassVar[str] = "`split_column`"

    def check_group_column(self, column: str) -> None:
        """Accept every column. The reader reports a column that the table does not have."""

    def has_test_without_set_aside(self) -> bool | None:
        """False without a split column; None with one, because the table decides."""
        return None if self.split_column is not None else False

    def has_listed_val(self) -> bool | None:
        """False without a split column; None with one, because the table decides."""
        return None if self.split_column is not None else False

    def index_files(self) -> dict[str, Path]:
        """Return the table and the class-name file."""
        return {"table": Path(self.table).expanduser()} | super().index_files()
