"""Operations on train: set aside a test split, reduce train to a long tail, or hold out a val split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mem import longtail
from mem.config import Holdout, LongTailCut, Shots
from mem.config.data import ImageData, SetAside
from mem.data.datasets.base import ImageSet
from mem.data.datasets.groups import describe_groups, groups_of, hold_out_groups
from mem.errors import UserError


def set_aside(images: ImageSet, settings: SetAside) -> ImageSet:
    """Move images from train to a new test split.

    Raises:
        UserError: The dataset already has a test split, or a class has too few images.
    """
    if len(images.test):
        raise UserError(f"The dataset already has a test split of {len(images.test):,} images. Remove dataset.test.")
    labels, classes = images.train.labels, len(images.classes)
    if settings.share is not None:
        parts = longtail.hold_out_share(labels, classes, settings.share, settings.seed, "test")
        train, test = parts.train, parts.rest
        if not len(test):
            raise UserError(
                f"dataset.test.share: {settings.share:g} selects less than one image per class. Increase it."
            )
    else:
        assert settings.per_class is not None
        short = np.flatnonzero(longtail.class_counts(labels, classes) <= settings.per_class)
        if len(short):
            raise UserError(
                f"dataset.test.per_class: {settings.per_class} leaves no training images in {len(short):,} classes, "
                f"such as {', '.join(images.classes[k] for k in short[:5])}. Decrease it, or use `share`."
            )
        test = longtail.cut(labels, np.full(classes, settings.per_class), 0, settings.seed).train
        train = np.setdiff1d(np.arange(len(labels)), test)
    return replace(images, train=images.train.take(train), test=images.train.take(test))


def cut_train(images: ImageSet, cut: LongTailCut, order: int) -> ImageSet:
    """Reduce train to a long tail. If `cut.val_per_class` is set, val is taken from the discarded images.

    Raises:
        UserError: The dataset already has a val split, or a class has too few images.
    """
    if len(images.val) and cut.val_per_class:
        raise UserError(
            f"The dataset already has a val split of {len(images.val):,} images. Set dataset.cut.val_per_class to 0."
        )
    kept = longtail.cut_to_tail(images.train.labels, len(images.classes), cut, order)
    val = images.train.take(kept.rest) if cut.val_per_class else images.val
    return replace(images, train=images.train.take(kept.train), val=val)


def hold_out(images: ImageSet, dataset: ImageData, settings: Holdout) -> ImageSet:
    """Move images from train to a new val split. Every class keeps at least one training image.

    Raises:
        UserError: The dataset already has a val split, val would be empty, or an image has no group.
    """
    if len(images.val):
        raise UserError(f"The dataset already has a val split of {len(images.val):,} images. Remove dataset.holdout.")
    labels, classes, notes = images.train.labels, len(images.classes), images.notes
    if settings.group_by is None:
        parts = longtail.hold_out_share(labels, classes, settings.share, settings.seed, "holdout")
    else:
        groups = groups_of(images.train.names, dataset, settings.group_by)
        parts = hold_out_groups(labels, classes, groups, settings.share, settings.seed)
        notes = (*notes, describe_groups(labels, images.classes, groups, parts, settings.share))
    if not len(parts.rest):
        if settings.group_by is not None:
            raise UserError(
                f"dataset.holdout: no group of images can be held out at a share of {settings.share:g}, because every "
                "group would move too many images of a class to val. Increase the share, or choose smaller groups with "
                "group_by."
            )
        raise UserError(
            f"dataset.holdout.share: {settings.share:g} selects less than one image per class. Increase it."
        )
    train, val = images.train.take(parts.train), images.train.take(parts.rest)
    return replace(images, train=train, val=val, held_out=True, notes=notes)


def describe_holdout(images: ImageSet, shots: Shots, action: str = "`holdout` moved") -> str:
    """Describe the val split that a holdout created, which `action` names; "" for a dataset without a holdout."""
    if not images.held_out:
        return ""
    classes = len(images.classes)
    val, total = longtail.class_counts(images.val.labels, classes), images.counts_before_holdout
    few = longtail.shot_groups(total, shots) == longtail.SHOT_NAMES.index("few")
    return (
        f"{action} {val.sum():,} of {total.sum():,} training images to val. Val has the long tail of train: "
        f"{val.max():,} to {val.min():,} images per class. {(val == 0).sum():,} of {classes:,} classes have no val "
        f"images, and the {few.sum():,} few-shot classes have {val[few].sum():,} val images together. Shot groups are "
        f"defined by the training images before the holdout ({shots})"
    )
