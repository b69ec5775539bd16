"""Features of several crops of each image of val and test: the stage `features` for `evaluate.crops`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from mem import config, files
from mem.data.features import stored as store
from mem.data.loading.split_images import SplitImages
from mem.jobs.backbone_training import pixels_of
from mem.jobs.feature_storage import ViewsToStore, store_features
from mem.jobs.frozen_features import feature_function
from mem.jobs.held_out import images_of
from mem.jobs.job import Job
from mem.jobs.online_features import OnlineBackbone
from mem.jobs.precision import precision_of, precision_record
from mem.runs.keys import CROPS
from mem.runs.outputs import BATCH_NORM_STATISTICS, CLASSIFIER

_COPIED = (CLASSIFIER, BATCH_NORM_STATISTICS)


def crop_features(job: Job) -> Mapping[str, Any]:
    """Write the features of all crops of val and test. The training split of this run is empty.

    The backbone, its precision and its BatchNorm statistics are those of the input `features`, a run that computes the
    features of all splits. The classifier and the statistics are copied, because every features run has them. If
    `online` is set, only the labels are written.
    """
    crops, train = job.run.section(CROPS, config.Crops), images_of(job, "train")
    backbone = OnlineBackbone(job, crops)
    splits = {split: images_of(job, split) for split in ("val", "test")}
    splits = {"train": SplitImages(train.file, train.positions[:0]), **splits}
    if job.world.is_main:
        for split, images in splits.items():
            files.write_array(store.feature_file(job.folder.path, split, "labels"), images.labels)
        store.write_about(job.folder.path, store.read_about(backbone.folder))
        for name in _COPIED:
            if (backbone.folder / name).is_file():
                shutil.copyfile(backbone.folder / name, job.folder.path / name)
    record: dict[str, Any] = {CROPS: crops.model_dump(), **_enlarged(job, crops, splits)}
    precision = precision_of(job, backbone.settings.precision)
    record |= precision_record(job, backbone.settings.precision, precision)
    if backbone.settings.online:
        job.say("Only labels are stored (features.online). The backbone computes the crops when heads are evaluated.")
        return {"images": 0, **record}
    model = backbone.model
    compute = feature_function(model, pixels_of(backbone.job), precision, compiled=job.run.compute.compile)
    views = {split: ViewsToStore(images, backbone.views(images), crops.number) for split, images in splits.items()}
    return {**store_features(job, backbone.settings, model, compute, views), **record}


def _enlarged(job: Job, crops: config.Crops, splits: Mapping[str, SplitImages]) -> dict[str, int]:
    """Say how many stored images are smaller than the resized ones, and return their number for run.json."""
    shorter = np.concatenate(
        [np.minimum(images.file.heights, images.file.widths)[images.positions] for images in splits.values()]
    )
    enlarged = int((shorter < crops.resize).sum())
    if enlarged:
        job.say(
            f"evaluate.crops: {enlarged:,} of {len(shorter):,} stored images are enlarged to a shorter side of "
            f"{crops.resize} pixels (the smallest has {shorter.min()}). If the original images are larger, set "
            f"dataset.short_side to at least {crops.resize}."
        )
    return {"enlarged_images": enlarged}
