"""Feature sources of a job: stored features, or features that the frozen backbone computes on request."""

from __future__ import annotations

from collections.abc import Callable

from mem.data.features.stored import FeatureSource, is_online, open_split
from mem.jobs.job import Job


def feature_sources(job: Job) -> Callable[[str], FeatureSource]:
    """Return a function that returns the features of a split, given the name of the split.

    The function can raise `UserError`; see `mem.data.features.stored.open_split`.
    """
    folder = job.inputs["features"]
    if not is_online(folder):
        return lambda split: open_split(folder, split)
    from mem.jobs.online_features import OnlineBackbone  # imports FFCV, timm and torchvision, which take seconds

    return OnlineBackbone(job).split
