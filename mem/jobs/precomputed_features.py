"""Stage `features` where the data set is features already, or where the backbone is used as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mem import config
from mem.data.features.user_files import import_user_features
from mem.errors import UserError
from mem.jobs.backbone_training import load_initial_weights
from mem.jobs.job import Job
from mem.models.backbones import Classifier, Frozen, build_frozen, seed_torch
from mem.models.weights import load_into, load_weights
from mem.models.weights.foreign import start_frozen
from mem.runs.dag import MODULE_DIGEST, file_digest, index_digests


def precomputed_features(job: Job) -> Mapping[str, Any]:
    """Copy the features of one's own files; rank 0 alone does it.

    Raises:
        UserError: They do not fit each other, or are others than when the run was planned.
    """
    settings = job.run.section("dataset", config.FeatureFiles)
    for name, digest in index_digests(settings).items():
        _require_as_planned(job, f"dataset, {name.removesuffix(' list')}", name, digest)
    if not job.world.is_main:
        return {}
    found = import_user_features(settings, job.folder.path)
    splits = " / ".join(f"{found['splits'][s]['images']:,}" for s in ("train", "val", "test"))
    job.say(f"{settings.name}: {len(found['classes'])} classes, features of {splits} images (train / val / test)")
    return found


def frozen_backbone(job: Job, classes: int) -> tuple[config.ImageBackbone, Classifier | Frozen, dict[str, Any]]:
    """A backbone that nobody finetuned: its settings, its module, and what run.json says of its weights.

    Raises:
        UserError: Weights or one's own module are not here, are others than when the run was planned, or do not fit.
    """
    backbone = job.run.union("backbone", config.ImageBackbone)
    if isinstance(backbone, config.OwnModule):
        _require_as_planned(job, backbone.module, MODULE_DIGEST, file_digest(backbone.file))
    seed_torch(job.seed)
    model = build_frozen(backbone, classes)
    began = load_initial_weights(job, lambda tensors, origin: start_frozen(model, tensors, origin))
    if "encoder" in job.inputs:
        assert isinstance(model, Classifier)
        weights = load_weights(job.inputs["encoder"] / "encoder.safetensors")
        fresh = (*model.encoder_fresh, model.head_prefix)
        report = load_into(model.backbone, weights, fresh=fresh, unused=model.encoder_unused)
        job.say(f"From {job.inputs['encoder']}: {report}.")
        began = {"encoder": report.document()}
    return backbone, model, began


def _require_as_planned(job: Job, what: str, name: str, digest: str | None) -> None:
    planned = job.run.settings.get(name)
    if planned is not None and digest != planned:
        raise UserError(
            f"{what}: has another content than when this run was planned ({digest}, then {planned}). Run the study "
            "again: it makes a new run beside this one"
        )
