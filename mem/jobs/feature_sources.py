"""Feature sources of a job: stored features, or features that the frozen backbone computes on request.

This module also counts the images that define the shot groups of a job.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

from mem import longtail
from mem.data.features.stored import FeatureSource, is_online, open_split
from mem.jobs.job import Job
from mem.runs.keys import SHOT_COUNTS


def feature_sources(job: Job) -> Callable[[str], FeatureSource]:
    """Return a function that returns the features of a split, given the name of the split.

    The function can raise `UserError`; see `mem.data.features.stored.open_split`.
    """
    folder = job.inputs["features"]
    if not is_online(folder):
        return lambda split: open_split(folder, split)
    from mem.jobs.online_features import OnlineBackbone  # imports FFCV, timm and torchvision, which take seconds

    return OnlineBackbone(job).split


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
