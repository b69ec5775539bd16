"""Stage `features`: computes the frozen backbone's features of every image, once per view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mem import config, files
from mem.data.convert.convert import SPLITS, train_counts_before_holdout
from mem.data.features import stored as store
from mem.errors import UserError
from mem.jobs.backbone_training import pixels_of
from mem.jobs.backbones import backbone_of
from mem.jobs.batch_norm import finish_batch_norm, update_batch_norm
from mem.jobs.crop_features import crop_features
from mem.jobs.feature_storage import ViewsToStore, store_features
from mem.jobs.frozen_features import feature_function, views_of
from mem.jobs.held_out import held_out_record, images_of
from mem.jobs.held_out_features import held_out_features
from mem.jobs.job import Job
from mem.jobs.precision import precision_of, precision_record
from mem.jobs.precomputed_features import precomputed_features
from mem.longtail import class_counts
from mem.models.backbones import BackboneClassifier
from mem.models.cosine import CosineLinear
from mem.models.weights.tensors import save_weights
from mem.objectives.ace import owned_classes
from mem.runs.keys import CROPS
from mem.runs.run_config import read_config


def features(job: Job) -> Mapping[str, Any]:
    """Write the pooled features of all splits, optionally their tokens, and the finetuned classifier if there is one.

    If `batch_norm` is set, the running statistics of BatchNorm are updated first.

    If `online` is set, only the labels and the classifier are written.
    """
    if "dataset" in job.run.settings:
        return precomputed_features(job)
    if CROPS in job.run.settings:
        return crop_features(job)
    if "features" in job.inputs:
        return held_out_features(job)
    settings = job.run.section("features", config.Features)
    before_holdout = train_counts_before_holdout(job.inputs["images"])
    classes = len(before_holdout)
    backbone, model, record = backbone_of(job, classes)
    if settings.tokens and not model.tokens:
        raise UserError(f"features.tokens: {backbone.name} has no tokens. Set features.tokens to false.")
    splits = {split: images_of(job, split) for split in SPLITS}
    precision = precision_of(job, settings.precision)
    record |= held_out_record(job) | precision_record(job, settings.precision, precision)
    out = job.folder.path
    if job.world.is_main:
        for split, images in splits.items():
            files.write_array(store.feature_file(out, split, "labels"), images.labels)
        online = {"online": True} if settings.online else {}
        trained = class_counts(splits["train"].labels, classes)
        width, experts = model.experts * model.width, {"experts": model.experts} if model.experts > 1 else {}
        store.write_about(out, {"class_counts": trained.tolist(), "width": width, **experts, **online})
        if "classifier" in job.inputs:
            assert isinstance(model, BackboneClassifier)
            tensors = _classifier_tensors(model.classifiers) | _owned_classes(job, before_holdout)
            save_weights(out / "classifier.safetensors", tensors, {"key": job.run.key})
    if settings.batch_norm is not None:
        assert isinstance(model, BackboneClassifier)
        update_batch_norm(job, model, backbone, settings, splits["train"])
    if settings.online:
        job.say("Only labels are stored (features.online). The backbone computes features when heads need them.")
        results: dict[str, Any] = {"images": 0}
    else:
        compute = feature_function(model, pixels_of(job), precision, compiled=job.run.compute.compile)
        views = {
            split: ViewsToStore(
                images, views_of(job, images, backbone, settings), 1 + (settings.views if split == "train" else 0)
            )
            for split, images in splits.items()
        }
        results = store_features(job, settings, model, compute, views)
    if settings.batch_norm is not None:
        finish_batch_norm(job)
    return results | record


def _classifier_tensors(layers: Sequence[nn.Linear]) -> dict[str, Tensor]:
    """Return the tensors of the finetuned classifier of each expert, as `mem.heads.build.load_classifier` reads them.

    If there are several experts, they are the first dimension.
    """

    def stacked(tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0] if len(tensors) == 1 else torch.stack(list(tensors))

    weight, first = stacked([layer.weight for layer in layers]), layers[0]
    if isinstance(first, CosineLinear):
        return {"weight": weight, "cosine_scale": torch.tensor(first.scale, dtype=torch.float64)}
    return {"weight": weight, "bias": stacked([layer.bias for layer in layers])}


def _owned_classes(job: Job, before_holdout: np.ndarray) -> dict[str, Tensor]:
    """Return which expert (row) owns which class (column), if experts do not own all classes (ACE).

    Args:
        job: The job.
        before_holdout: Number of training images of each class before a holdout, as in finetuning.
    """
    objective = read_config(job.inputs["classifier"], "finetune").section("finetune", config.Finetune).objective
    if not isinstance(objective, config.AceObjective):
        return {}
    return {"owned_classes": torch.from_numpy(owned_classes(before_holdout, objective.largest_counts)).float()}
