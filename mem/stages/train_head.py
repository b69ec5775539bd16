"""Stage `train_head`: fits one head to stored or online features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mem import config
from mem.data.features.stored import read_about
from mem.errors import UserError
from mem.heads.base import Linear
from mem.heads.build import HeadInputs, load_head, load_linear, save_head
from mem.heads.training import HeadFeatures, make_head
from mem.jobs.feature_sources import counts_before_holdout, feature_sources
from mem.jobs.job import Job
from mem.jobs.selected_settings import with_selected_tau
from mem.runs.keys import START


def train_head(job: Job) -> Mapping[str, Any]:
    """Fit the head to the training split, and write `head.safetensors` and `head.json`."""
    settings = _head_settings(job)
    shots = config.Shots(**job.run.settings.get("shots", {}))
    about = read_about(job.inputs["features"])
    counts = np.asarray(about["class_counts"], dtype=np.int64)
    splits = feature_sources(job)
    before_holdout = counts_before_holdout(job, counts, splits)
    inputs = HeadInputs(_initial_classifier(job, len(counts), about), counts, shots, job.seed, before_holdout)
    name = str(job.run.labels["variant"])
    features = HeadFeatures(splits("train"), splits("val"))
    head, results = make_head(with_selected_tau(settings, job), inputs, features, job.fit_context(name))
    save_head(job.folder.path, head, settings, inputs)
    job.checkpoints().clear()
    return results


def _head_settings(job: Job) -> config.Head:
    """Return the settings of the head.

    Raises:
        UserError: `site.yaml`, which contains the name of the initial head, is missing or was edited.
    """
    settings = job.run.union("head", config.Head)
    has_start = config.classifier_from(settings) is not None
    if config.starts_optionally(settings) and has_start != (START in job.run.settings):
        raise UserError(
            f"{job.run.path.with_name('site.yaml')}: the setting `classifier_from` of this head is missing or was "
            "added. `mem runs STUDY --write` writes the file again."
        )
    return settings


def _initial_classifier(job: Job, classes: int, about: Mapping[str, Any]) -> Linear:
    """Return the classifier of another head, the finetuned classifier, or zeros, of which only the shape is used."""
    if "head" in job.inputs:
        linear = load_head(job.inputs["head"]).as_linear()
        assert linear is not None, "the schema allows only linear heads"
        return linear
    path = job.inputs["features"] / "classifier.safetensors"
    if path.exists():
        return load_linear(path)
    return Linear(torch.zeros(classes, about["width"]), torch.zeros(classes))
