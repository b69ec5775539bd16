"""The images of a job that belongs to a branch with held-out training images."""

from __future__ import annotations

from typing import Any

from mem import config
from mem.data.loading.split_images import SplitImages, open_images
from mem.data.split_parts import describe_parts
from mem.jobs.job import Job
from mem.runs.keys import HOLDOUT


def holdout_of(job: Job) -> config.Holdout | None:
    """Return which training images a run holds out; None if it uses the splits of the dataset."""
    return job.run.section(HOLDOUT, config.Holdout) if HOLDOUT in job.run.settings else None


def images_of(job: Job, split: str) -> SplitImages:
    """Open the images that a run uses as a split.

    Raises:
        UserError: As in `mem.data.loading.split_images.open_images`.
    """
    return open_images(job.inputs["images"], split, holdout_of(job))


def held_out_record(job: Job) -> dict[str, Any]:
    """Return how many training images a run holds out, for run.json; empty if it holds out none."""
    if holdout_of(job) is None:
        return {}
    train, val = images_of(job, "train"), images_of(job, "val")
    return describe_parts(val.file.labels, {"train": train.positions, "val": val.positions})
