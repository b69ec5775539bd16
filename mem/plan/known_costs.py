"""The cost of a study's models, read from an earlier plan if the model is the same.

Counting a cost requires PyTorch and timm, whose import takes seconds, so `mem.plan.model_costs` is imported only for a
model that is not known. The cost of a custom module is always counted, because the user's code can depend on anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from mem import config
from mem.config import Pretrain, Study
from mem.data.features.array_reader import FeatureArrayReader
from mem.plan.answers import remembered
from mem.plan.model_cost import NO_MODEL, ClassifierCost, ModelCost
from mem.runs.backbone_settings import require_embeddings_files


def check_backbone(study: Study) -> str:
    """Check a study's backbone, initial weights and files of class embeddings, and return a note.

    Raises:
        UserError: As in `mem.models.weights.check.check_backbone`, or a file of class embeddings does not exist.
    """
    require_embeddings_files(study)
    if not study.has_model_to_check:
        return ""

    def check() -> dict[str, str]:
        from mem.models.weights.check import check_backbone

        return {"note": check_backbone(study)}

    if study.initial is not None or isinstance(study.backbone, config.CustomModule):
        return check()["note"]  # depends on files
    variants = {f"variant {name}": settings for name, settings in study.finetune_variants.items()}
    return remembered(_question("check", study, finetune=study.finetune, **variants), check)["note"]


def autoencoder_cost(study: Study, pretrain: Pretrain) -> tuple[ModelCost, int]:
    """Return the cost of a study's masked autoencoder and the number of parameters of its encoder."""

    def count() -> dict[str, Any]:
        cost, encoder_weights = _model_costs().autoencoder_cost(study, pretrain)
        return {"cost": asdict(cost), "encoder_weights": encoder_weights}

    network = _selected(pretrain, "precision", "decoder", "mask_ratio", "norm_pix_loss")
    answer = remembered(_question("autoencoder", study) | {"pretrain": network}, count)
    return ModelCost(**answer["cost"]), answer["encoder_weights"]


def classifier_cost(study: Study, finetune: config.Finetune | None, classes: int) -> ClassifierCost:
    """Return the cost of a study's backbone with its classifier, finetuned or, without `finetune`, frozen.

    If the dataset consists of precomputed features, the cost is zero and only the feature shape is returned.
    """
    if isinstance(study.dataset, config.FeatureFiles):
        _, *sequence, width = FeatureArrayReader(study.dataset.files_of("train")[0], "features").shape
        return ClassifierCost(NO_MODEL, width, sequence[0] - 1 if sequence else 0)

    def count() -> dict[str, Any]:
        return asdict(_model_costs().classifier_cost(study, finetune, classes))

    question = _question("classifier", study) | {"finetune": _network_of(finetune), "classes": classes}
    answer = count() if isinstance(study.backbone, config.CustomModule) else remembered(question, count)
    return ClassifierCost(**{**answer, "cost": ModelCost(**answer["cost"])})


def contrastive_cost(study: Study, finetune: config.Finetune, classes: int) -> ModelCost:
    """Return the cost of training with a contrastive objective; see `mem.plan.model_costs.contrastive_cost`."""

    def count() -> dict[str, Any]:
        return asdict(_model_costs().contrastive_cost(study, finetune, classes))

    contrast = {"contrast": _as_json(finetune.contrast), "global_batch": finetune.global_batch, "classes": classes}
    question = _question("contrast", study) | {"finetune": _network_of(finetune), **contrast}
    return ModelCost(**remembered(question, count))


def head_cost(study: Study, settings: config.Head, classes: int, backbone: ClassifierCost) -> ModelCost:
    """Return the cost of a head on features."""
    finetune = study.finetuning(settings)
    question = {
        "kind": "head",
        "head": _as_json(settings),
        "shots": _as_json(study.shots),
        "classes": classes,
        "width": backbone.width,
        "tokens": backbone.tokens,
        "experts": backbone.experts,
        "cosine_scale": finetune and finetune.cosine_scale,
    }

    def count() -> dict[str, Any]:
        return asdict(_model_costs().head_cost(study, settings, classes, backbone))

    return ModelCost(**remembered(question, count))


def _question(kind: str, study: Study, **settings: BaseModel | None) -> dict[str, Any]:
    """Return the settings that determine the cost of a study's backbone, as JSON data."""
    return {"kind": kind, "backbone": _as_json(study.backbone), **{name: _as_json(v) for name, v in settings.items()}}


def _network_of(finetune: config.Finetune | None) -> dict[str, Any] | None:
    """Return the settings of a finetuning that determine the network and the cost of a sample."""
    if finetune is None:
        return None
    network = _selected(finetune, "precision", "cosine_scale", "experts", "tuner")
    return network | {"drops_paths": finetune.drop_path > 0}


def _selected(settings: BaseModel, *names: str) -> dict[str, Any]:
    """Return some of the settings as JSON data."""
    return settings.model_dump(mode="json", include=set(names))


def _as_json(settings: BaseModel | None) -> Mapping[str, Any] | None:
    return None if settings is None else settings.model_dump(mode="json")


def _model_costs() -> ModuleType:
    from mem.plan import model_costs

    return model_costs
