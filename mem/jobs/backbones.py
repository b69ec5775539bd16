"""Backbones of a job: where their weights come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from mem import config
from mem.errors import UserError
from mem.jobs.job import Job
from mem.models.backbones import Classifier, Frozen, build, build_frozen, seed_torch
from mem.models.weights import LoadReport, load_into, load_weights
from mem.models.weights.foreign import read_checkpoint, start_frozen
from mem.models.weights.official import local_file
from mem.runs.dag import INITIAL_DIGEST, MODULE_DIGEST, file_digest
from mem.runs.folder import read_config

FEATURE_BATCH = 256
"""Images per forward pass of a frozen backbone."""


def backbone_of(job: Job, classes: int) -> tuple[config.ImageBackbone, Classifier | Frozen, dict[str, Any]]:
    """Build the backbone that computes a run's features, on the job's device: finetuned, or frozen as it is.

    Returns:
        Its settings, the module, and what to record in run.json about its weights.
    """
    if "classifier" in job.inputs:
        backbone = read_finetuned_backbone(job)
        model, record = build(backbone, classes), dict[str, Any]()
        load_into(model.backbone, load_weights(job.inputs["classifier"] / "model.safetensors"))
    else:
        backbone, model, record = frozen_backbone(job, classes)
    return backbone, model.to(job.world.device).eval(), record


def read_finetuned_backbone(job: Job) -> config.ImageBackbone:
    """Return the backbone's settings of the finetuning run that the job reads."""
    return read_config(job.inputs["classifier"], "finetune").union("backbone", config.ImageBackbone)


def frozen_backbone(job: Job, classes: int) -> tuple[config.ImageBackbone, Classifier | Frozen, dict[str, Any]]:
    """Build a backbone that is not finetuned.

    Returns:
        Its settings, the module, and what to record in run.json about its weights.

    Raises:
        UserError: Weights or a user-provided module are missing, changed after the run was planned, or do not fit.
    """
    backbone = job.run.union("backbone", config.ImageBackbone)
    if isinstance(backbone, config.CustomModule):
        require_unchanged(job, backbone.module, MODULE_DIGEST, file_digest(backbone.file))
    seed_torch(job.seed)
    model = build_frozen(backbone, classes)
    record = load_initial_weights(job, lambda tensors, origin: start_frozen(model, tensors, origin))
    if "encoder" in job.inputs:
        assert isinstance(model, Classifier)
        record = load_encoder(job, model)
    return backbone, model, record


def load_encoder(job: Job, model: Classifier) -> dict[str, Any]:
    """Load the encoder that the job's pretraining run saved; return what to record in run.json."""
    weights = load_weights(job.inputs["encoder"] / "encoder.safetensors")
    fresh = (*model.encoder_fresh, model.head_prefix)
    report = load_into(model.backbone, weights, fresh=fresh, unused=model.encoder_unused)
    job.say(f"Loaded {job.inputs['encoder']}: {report}.")
    return {"encoder": report.document()}


def load_initial_weights(job: Job, load: Callable[[Mapping[str, Tensor], str], LoadReport]) -> dict[str, Any]:
    """Pass the weights that the run's section `initial` names to `load`; return what to record in run.json.

    Raises:
        UserError: The weights are missing, changed after the run was planned, or do not fit.
    """
    if "initial" not in job.run.settings:
        return {}
    initial = job.run.section("initial", config.Initial)
    path = local_file(initial)
    if initial.weights is None:
        digest, planned = file_digest(path), job.run.settings.get(INITIAL_DIGEST)
        if digest != planned:
            raise UserError(changed_since_planning(str(path), digest, planned))
    report = load(read_checkpoint(path), initial.weights or str(path))
    job.say(f"Loaded {initial.weights or path}: {report}.")
    return {"initial": {"file": str(path), **report.document()}}


def require_unchanged(job: Job, what: str, setting: str, digest: str | None) -> None:
    """Check that a file still has the content that it had when the run was planned.

    Raises:
        UserError: The file changed.
    """
    planned = job.run.settings.get(setting)
    if planned is not None and digest != planned:
        raise UserError(changed_since_planning(what, digest, planned))


def changed_since_planning(what: str, digest: str | None, planned: object) -> str:
    """Return the message about a file that changed after the run was planned."""
    return (
        f"{what}: changed after this run was planned (digest {digest}, was {planned}). Run the study again to plan a "
        "new run for the new content."
    )
