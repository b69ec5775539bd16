"""Settings for published datasets, one section per dataset. See `mem.config.custom_sources` for custom datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from mem.config.base import Unkeyed
from mem.config.custom_sources import Folder, Lists, Table
from mem.config.data import ImageData, LongTailCut, Root
from mem.config.feature_files import FeatureFiles
from mem.config.glyphs import Glyphs


class BalancedSource(ImageData):
    """Base class of balanced datasets that have a known number of classes and are cut to a long tail."""

    CLASSES: ClassVar[int]
    cut: LongTailCut

    @model_validator(mode="after")
    def _one_count_per_class(self) -> BalancedSource:
        if self.cut.counts is not None and len(self.cut.counts) != self.CLASSES:
            raise ValueError(
                f"cut.counts: expected one count for each of the {self.CLASSES} classes, got {len(self.cut.counts)}"
            )
        return self

    def has_val_without_holdout(self) -> bool:
        """Whether val is taken from the images that the cut discards."""
        return self.cut.val_per_class > 0


class Digits(BalancedSource):
    """scikit-learn's 1,797 handwritten digits with 8 x 8 pixels."""

    CLASSES = 10
    source: Literal["digits"]
    test_per_class: PositiveInt
    """Number of test images per class. They are set aside before the cut."""


class FashionMnist(BalancedSource):
    """Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images with 28 x 28 pixels."""

    CLASSES = 10
    source: Literal["fashion_mnist"]
    root: Annotated[str | None, Unkeyed()] = None
    """Folder that contains the four IDX files. Default: the folder of the Debian package `dataset-fashion-mnist` if it
    exists, otherwise torchvision's folder."""


class Cifar(BalancedSource):
    """Base class of CIFAR-10 and CIFAR-100 (Krizhevsky 2009), with 50,000 training and 10,000 test images (32 x 32)."""

    root: Root = "data"
    """The official archive (Python or binary version), its unpacked folder, or the folder that contains either."""


class Cifar10(Cifar):
    """CIFAR-10, cut to a long tail."""

    CLASSES = 10
    source: Literal["cifar10"]


class Cifar100(Cifar):
    """CIFAR-100 with its 100 fine classes, cut to a long tail."""

    CLASSES = 100
    source: Literal["cifar100"]


class PublishedLists(ImageData):
    """Base class of published datasets that are naturally long-tailed or are defined by long-tailed lists."""

    root: Root
    """Folder that all paths in the lists are relative to."""
    train_list: Root
    """List file for the training split."""
    test_list: Root
    """List file for the test split."""

    def list_files(self) -> dict[str, Path]:
        """Return the list files by split."""
        return {"train": Path(self.train_list).expanduser(), "test": Path(self.test_list).expanduser()}

    def index_files(self) -> dict[str, Path]:
        """Return the list files by split, and the file with the class names."""
        return self.list_files() | super().index_files()


class PublishedListsWithVal(PublishedLists):
    """Base class of published datasets with a val split."""

    val_list: Root
    """List file for the val split."""

    def list_files(self) -> dict[str, Path]:
        """Return the list files by split."""
        return super().list_files() | {"val": Path(self.val_list).expanduser()}

    def has_val_without_holdout(self) -> bool:
        """Return True: the val split is published."""
        return True


class ImageNetLt(PublishedListsWithVal):
    """ImageNet-LT (Liu et al. 2019): image lists for the folders `train/` and `val/` of ILSVRC 2012."""

    source: Literal["imagenet_lt"]


class PlacesLt(PublishedListsWithVal):
    """Places-LT (Liu et al. 2019): image lists for Places365-Standard, in either of its two folder layouts."""

    source: Literal["places_lt"]


class INaturalist2018(PublishedLists):
    """iNaturalist 2018: image lists, or the official `train2018.json` and `val2018.json`.

    The official val split is used as the test split. Labels are category ids.
    """

    source: Literal["inaturalist2018"]


ImageSource = (
    Digits
    | FashionMnist
    | Cifar10
    | Cifar100
    | ImageNetLt
    | PlacesLt
    | INaturalist2018
    | Glyphs
    | Folder
    | Lists
    | Table
)
Dataset = Annotated[ImageSource | FeatureFiles, Field(discriminator="source")]
