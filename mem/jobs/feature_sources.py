"""Feature sources of a job: stored features, or features that the frozen backbone computes on request.

This module also counts the images that define the shot groups of a job.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mem import config, longtail
from mem.data.features.stored import FeatureSource, is_online, open_split
from mem.jobs.job import Job
from mem.runs.keys import CROPS, SHOT_COUNTS
from mem.runs.run_config import read_config


def feature_sources(job: Job) -> Callable[[str], FeatureSource]:
    """Return a function that returns the features of a split, given the name of the split.

    The function can raise `UserError`; see `mem.data.features.stored.open_split`.
    """
    return _sources(job, job.inputs["features"], None)


def evaluated_sources(job: Job) -> Callable[[str], FeatureSource]:
    """Return the function of `feature_sources` for the features that predictions on val and test are computed from.

    With `evaluate.crops`, each image has one view per crop. Otherwise, it has only the plain view.
    """
    crops = crops_of(job)
    return feature_sources(job) if crops is None else _sources(job, job.inputs[CROPS], crops)


def _sources(job: Job, folder: Path, crops: config.Crops | None) -> Callable[[str], FeatureSource]:
    """Return a function that returns the features of a split, which are in a folder unless they are online."""
    if not is_online(folder):
        return lambda split: open_split(folder, split)
    from mem.jobs.online_features import OnlineBackbone  # imports FFCV, timm and torchvision, which take seconds

    return OnlineBackbone(job, crops).split


def crops_of(job: Job) -> config.Crops | None:
    """Return the crops of a job that predicts the classes of images; None if it uses one central crop."""
    if CROPS not in job.inputs:
        return None
    return read_config(job.inputs[CROPS], "features").section(CROPS, config.Crops)


def counts_before_holdout(
    job: Job, counts: Int64[np.ndarray, " classes"], split_of: Callable[[str], FeatureSource]
) -> Int64[np.ndarray, " classes"] | None:
    """Return the number of training images of each class before the holdout; None if the study has no holdout.

    Args:
        job: The job. Its setting `shot counts` says whether the val split is a holdout of the training images.
        counts: Number of remaining training images of each class.
        split_of: Function of `feature_sources`.
    """
    if SHOT_COUNTS not in job.run.settings:
        return None
    return counts + longtail.class_counts(np.asarray(split_of("val").labels), len(counts))
