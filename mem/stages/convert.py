"""Stage `convert`: a data set's files to one .beton file per split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mem import config, provenance
from mem.data.convert import convert as write_splits
from mem.data.datasets import read_dataset
from mem.progress import Progress
from mem.stages.job import Job


def convert(job: Job) -> Mapping[str, Any]:
    """Read, cut, check and write the data set."""
    settings = job.run.union("dataset", config.Dataset)
    images = read_dataset(settings, job.run.settings["order"])
    total = sum(len(split) for split in images.splits.values())
    with Progress(f"convert {settings.name}", total) as progress:
        manifest = write_splits(images, settings, job.folder.path, provenance.cpus(), progress.advance)
    counts = manifest["splits"]["train"]["counts"]
    job.say(
        f"{settings.name}: {len(counts)} classes, {manifest['splits']['train']['images']:,} training images, "
        f"{max(counts)} to {min(counts)} a class (imbalance {manifest['imbalance']:.0f}); "
        + " / ".join(f"{number} {name}" for name, number in manifest["groups"].items())
    )
    return manifest
