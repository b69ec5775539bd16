"""User-provided features in files: the stage `features` for a dataset without images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mem import config
from mem.data.features.user_files import import_user_features
from mem.jobs.job import Job
from mem.jobs.unchanged import require_unchanged
from mem.runs.keys import index_digests


def precomputed_features(job: Job) -> Mapping[str, Any]:
    """Copy the features from the user's files, on rank 0.

    Raises:
        UserError: The files are inconsistent, or changed after the run was planned.
    """
    settings = job.run.section("dataset", config.FeatureFiles)
    for name, digest in index_digests(settings).items():
        require_unchanged(job, f"dataset, {name.removesuffix(' list')}", name, digest)
    if not job.world.is_main:
        return {}
    summary = import_user_features(settings, job.folder.path)
    splits = " / ".join(f"{summary['splits'][s]['images']:,}" for s in ("train", "val", "test"))
    job.say(f"{settings.name}: {len(summary['classes'])} classes, features of {splits} images (train / val / test)")
    return summary
