"""Dataset readers, which create an `ImageSet` from the files on disk. Each dataset has a separate module."""

from __future__ import annotations

from mem.config import (
    Cifar10,
    Cifar100,
    Dataset,
    Digits,
    FashionMnist,
    FeatureFiles,
    Folder,
    Glyphs,
    ImageNetLt,
    INaturalist2018,
    Lists,
    PlacesLt,
    Table,
)
from mem.data.datasets.base import ImageSet, ImageSplit
from mem.data.datasets.cifar import read_cifar
from mem.data.datasets.class_names import renamed
from mem.data.datasets.custom import read_lists, read_table_rows
from mem.data.datasets.digits import read_digits
from mem.data.datasets.fashion_mnist import read_fashion_mnist
from mem.data.datasets.folder import read_folder
from mem.data.datasets.glyphs.reader import read_glyphs
from mem.data.datasets.imagenet_lt import read_imagenet_lt
from mem.data.datasets.inaturalist import read_inaturalist
from mem.data.datasets.places_lt import read_places_lt
from mem.data.datasets.splits import cut_train, hold_out, set_aside
from mem.errors import UserError

__all__ = ["ImageSet", "ImageSplit", "read_dataset", "read_unchecked"]


def read_dataset(settings: Dataset, order: int) -> ImageSet:
    """Read the dataset specified by the settings.

    Image files are not opened. `mem data check` and the conversion detect missing and damaged images.

    Args:
        settings: The `dataset` section of a study.
        order: Class order, which specifies the frequent classes if the training split is reduced to a long tail.

    Raises:
        UserError: Files are missing or invalid, a class has too few images, or splits overlap.
    """
    images = read_unchecked(settings, order)
    images.require_disjoint()
    return images


def read_unchecked(settings: Dataset, order: int) -> ImageSet:
    """Read a dataset but do not require disjoint splits, so that `mem data check` can report duplicates.

    Raises:
        UserError: Files are missing or invalid, or a class has too few images.
    """
    match settings:
        case Digits():
            images = read_digits(settings, order)
        case FashionMnist():
            images = read_fashion_mnist(settings, order)
        case Cifar10() | Cifar100():
            images = read_cifar(settings, order)
        case ImageNetLt():
            images = read_imagenet_lt(settings)
        case PlacesLt():
            images = read_places_lt(settings)
        case INaturalist2018():
            images = read_inaturalist(settings)
        case Glyphs():
            images = read_glyphs(settings, order)
        case Folder():
            images = _split_and_cut(read_folder(settings), settings, order)
        case Lists():
            images = _split_and_cut(read_lists(settings), settings, order)
        case Table():
            images = _split_and_cut(read_table_rows(settings), settings, order)
        case FeatureFiles():
            raise UserError(f"{settings.name}: dataset.source is `features`, so the study has no images to read")
    images = renamed(images, settings)
    return images if settings.holdout is None else hold_out(images, settings, settings.holdout)


def _split_and_cut(images: ImageSet, settings: Folder | Lists | Table, order: int) -> ImageSet:
    """Set a test split aside and reduce train to a long tail, if the settings specify `test` and `cut`."""
    if settings.test is not None:
        images.require_disjoint()
        images = set_aside(images, settings.test)
    if settings.cut is not None:
        images = cut_train(images, settings.cut, order)
    return images
