"""Where images come from: published data sets, one section each; `mem.config.custom_sources` has anyone's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from mem.config.base import Unkeyed
from mem.config.custom_sources import Folder, Lists, Table
from mem.config.data import ImageData, LongTailCut, Root
from mem.config.feature_files import FeatureFiles


class KnownClasses(ImageData):
    """Base of balanced data sets whose number of classes is known, and which are cut to a long tail."""

    CLASSES: ClassVar[int]
    cut: LongTailCut

    @model_validator(mode="after")
    def _one_count_a_class(self) -> KnownClasses:
        if self.cut.counts is not None and len(self.cut.counts) != self.CLASSES:
            raise ValueError(
                f"cut.counts: needs one count for each of the {self.CLASSES} classes, got {len(self.cut.counts)}"
            )
        return self

    def own_val(self) -> bool:
        """Whether val is taken from what the cut discards."""
        return self.cut.val_per_class > 0


class Digits(KnownClasses):
    """The 1,797 handwritten digits (8 x 8) that ship with scikit-learn."""

    CLASSES = 10
    source: Literal["digits"]
    test_per_class: PositiveInt
    """Images per class of the test split, set aside before the cut."""


class FashionMnist(KnownClasses):
    """Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images, 28 x 28."""

    CLASSES = 10
    source: Literal["fashion_mnist"]
    root: Annotated[str | None, Unkeyed()] = None
    """Folder of the four IDX files. Without it: Debian's `dataset-fashion-mnist`, then torchvision's folder."""


class Cifar(KnownClasses):
    """Base of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images, 32 x 32."""

    root: Root = "data"
    """The official archive, Python or binary version, as it is or unpacked; or the folder that holds it."""


class Cifar10(Cifar):
    """CIFAR-10, cut to a long tail."""

    CLASSES = 10
    source: Literal["cifar10"]


class Cifar100(Cifar):
    """CIFAR-100 with its 100 fine classes, cut to a long tail."""

    CLASSES = 100
    source: Literal["cifar100"]


class Published(ImageData):
    """Base of data sets that are long-tailed by nature or by published lists."""

    root: Root
    """Folder that the paths in the lists start from."""
    train_list: Root
    """List of the training split."""
    test_list: Root
    """List of the test split."""

    def index_files(self) -> dict[str, Path]:
        """The lists."""
        return {"train": Path(self.train_list).expanduser(), "test": Path(self.test_list).expanduser()}


class ListedVal(Published):
    """Base of published data sets with a val split."""

    val_list: Root
    """List of the val split."""

    def index_files(self) -> dict[str, Path]:
        """The lists."""
        return super().index_files() | {"val": Path(self.val_list).expanduser()}

    def own_val(self) -> bool:
        """The published val split."""
        return True


class ImageNetLt(ListedVal):
    """ImageNet-LT (Liu et al. 2019): lists over ILSVRC 2012's `train/` and `val/`."""

    source: Literal["imagenet_lt"]


class PlacesLt(ListedVal):
    """Places-LT (Liu et al. 2019): lists over Places365-Standard, in either of its two layouts."""

    source: Literal["places_lt"]


class INaturalist2018(Published):
    """iNaturalist 2018: lists, or the official `train2018.json` and `val2018.json`. The official val is the test split.

    A class's label is its category id.
    """

    source: Literal["inaturalist2018"]


ImageSource = (
    Digits | FashionMnist | Cifar10 | Cifar100 | ImageNetLt | PlacesLt | INaturalist2018 | Folder | Lists | Table
)
Dataset = Annotated[ImageSource | FeatureFiles, Field(discriminator="source")]
