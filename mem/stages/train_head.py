"""Stage `train_head`: fits one head to stored or online features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mem import config
from mem.data.features.stored import read_about
from mem.heads.base import Linear
from mem.heads.build import HeadInputs, load_linear, save_head
from mem.heads.training import HeadFeatures, make_head
from mem.jobs.feature_sources import counts_before_holdout, feature_sources
from mem.jobs.job import Job


def train_head(job: Job) -> Mapping[str, Any]:
    """Fit the head to the training split, and write `head.safetensors` and `head.json`."""
    settings = job.run.union("head", config.Head)
    shots = config.Shots(**job.run.settings.get("shots", {}))
    about = read_about(job.inputs["features"])
    counts = np.asarray(about["class_counts"], dtype=np.int64)
    splits = feature_sources(job)
    before_holdout = counts_before_holdout(job, counts, splits)
    inputs = HeadInputs(_initial_classifier(job, len(counts), about), counts, shots, job.seed, before_holdout)
    name = str(job.run.labels["variant"])
    features = HeadFeatures(splits("train"), splits("val"))
    head, results = make_head(settings, inputs, features, job.fit_context(name))
    save_head(job.folder.path, head, settings, inputs)
    job.checkpoints().clear()
    return results


def _initial_classifier(job: Job, classes: int, about: Mapping[str, Any]) -> Linear:
    """Return the classifier of another head, the finetuned classifier, or zeros, of which only the shape is used."""
    if "head" in job.inputs:
        return load_linear(job.inputs["head"] / "head.safetensors")
    path = job.inputs["features"] / "classifier.safetensors"
    if path.exists():
        return load_linear(path)
    return Linear(torch.zeros(classes, about["width"]), torch.zeros(classes))
