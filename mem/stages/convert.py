"""Stage `convert`: converts the files of a dataset to one .beton file per split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mem import config
from mem.data.convert.convert import convert as convert_images
from mem.data.datasets import read_dataset
from mem.data.datasets.splits import describe_holdout
from mem.data.show import write_figures
from mem.jobs.job import Job
from mem.jobs.unchanged import require_unchanged
from mem.runs.font_files import font_settings


def convert(job: Job) -> Mapping[str, Any]:
    """Read, subsample, check and convert the dataset of the run."""
    settings = job.run.union("dataset", config.Dataset)
    if isinstance(settings, config.Glyphs):
        for name, found in font_settings(settings.root).items():
            require_unchanged(job, f"dataset, {name}", name, found)
    images = read_dataset(settings, job.run.settings["order"])
    for note in (*images.notes, describe_holdout(images, config.Shots())):
        if note:
            job.say(note)
    manifest = convert_images(images, settings, job.folder.path, job.threads, job.say)
    for figure in write_figures(job.folder.path):
        job.log.event("artifact", path=str(figure), to="data")
    counts = manifest["splits"]["train"]["counts"]
    job.say(
        f"{settings.name}: {len(counts)} classes, {manifest['splits']['train']['images']:,} training images, "
        f"{min(counts)} to {max(counts)} per class (imbalance factor {manifest['imbalance']:.0f}); "
        + " / ".join(f"{number} {name}" for name, number in manifest["groups"].items())
    )
    return manifest
