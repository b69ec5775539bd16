"""Stage `train_head`: fits one head to stored or online features."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mem import config
from mem.data.features.stored import read_about
from mem.errors import UserError
from mem.heads.build import Classifier, HeadInputs, blank_classifier, load_classifier, load_head, save_head
from mem.heads.per_expert import PerExpertHead
from mem.heads.training import HeadFeatures, make_head
from mem.jobs.feature_sources import counts_before_holdout, evaluated_sources, feature_sources
from mem.jobs.job import Job
from mem.jobs.selected_settings import with_selected_tau
from mem.models.class_embeddings.vectors import ClassVectors
from mem.runs.keys import CROPS, START
from mem.runs.outputs import WEIGHTS_FILE


def train_head(job: Job) -> Mapping[str, Any]:
    """Fit the head to the training split, and write `head.safetensors` and `head.json`."""
    settings = _head_settings(job)
    shots = config.Shots(**job.run.settings.get("shots", {}))
    about = read_about(job.inputs["features"])
    counts = np.asarray(about["class_counts"], dtype=np.int64)
    splits = feature_sources(job)
    before_holdout = counts_before_holdout(job, counts, splits)
    classifier = _initial_classifier(job, len(counts), about, per_expert=config.is_per_expert(settings))
    vectors = _class_vectors(job, settings)
    inputs = HeadInputs(classifier, counts, shots, job.seed, before_holdout, _expert_weights(job), vectors)
    name = str(job.run.labels["variant"])
    val_crops = evaluated_sources(job)("val") if CROPS in job.inputs else None
    features = HeadFeatures(splits("train"), splits("val"), val_crops)
    head, results = make_head(with_selected_tau(settings, job), inputs, features, job.fit_context(name))
    save_head(job.folder.path, head, settings, inputs)
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


def _class_vectors(job: Job, settings: config.Head) -> ClassVectors | None:
    """Return the class embeddings of a head that has them."""
    if not isinstance(settings, config.ZeroShot):
        return None
    from mem.jobs.class_vectors import head_vectors  # imports timm and torchvision, which take seconds

    return head_vectors(job, settings)


def _expert_weights(job: Job) -> torch.Tensor | None:
    """Return the weights of the experts that the run's input `adapt` learned, or None without this input."""
    if "adapt" not in job.inputs:
        return None
    return torch.tensor(json.loads((job.inputs["adapt"] / WEIGHTS_FILE).read_text())["weights"])


def _initial_classifier(job: Job, classes: int, about: Mapping[str, Any], *, per_expert: bool) -> Classifier:
    """Return the classifier of another head, the finetuned classifier, or zeros, of which only the shape is used.

    With `per_expert`, the other head has a classifier for each expert.
    """
    if "head" in job.inputs:
        head = load_head(job.inputs["head"])
        if per_expert:
            experts = head.as_experts() if isinstance(head, PerExpertHead) else None
            assert experts is not None, "the schema allows only heads with a linear classifier per expert"
            return experts
        linear = head.as_start()
        assert linear is not None, "the schema allows only linear heads"
        return linear
    path = job.inputs["features"] / "classifier.safetensors"
    if path.exists():
        return load_classifier(path)
    return blank_classifier(classes, about["width"])
