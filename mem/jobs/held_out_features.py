"""Features of a branch with held-out images, if both branches use the same features: the stage `features`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mem.data.features.rows import copy_parts
from mem.jobs.held_out import holdout_of
from mem.jobs.job import Job


def held_out_features(job: Job) -> Mapping[str, Any]:
    """Copy the features of the branch's images from the features of all images, on rank 0.

    Raises:
        UserError: As in `copy_parts`.
    """
    holdout = holdout_of(job)
    assert holdout is not None
    if not job.world.is_main:
        return {}
    summary = copy_parts(job.inputs["features"], job.folder.path, holdout)
    job.say(f"{summary['held_out_images']:,} held-out images, {summary['training_images']:,} training images")
    return summary
