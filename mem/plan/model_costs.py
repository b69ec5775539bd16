"""Cost of the model in each stage, counted on a model that is built from the study's settings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mem import config
from mem.config import Pretrain, Study
from mem.heads.base import Linear
from mem.heads.build import HeadInputs, build_head
from mem.models.backbones import BackboneClassifier, build, build_frozen
from mem.models.mae import build_autoencoder
from mem.plan.cost_counter import count_cost
from mem.plan.model_cost import ClassifierCost, ModelCost


def autoencoder_cost(study: Study, pretrain: Pretrain) -> tuple[ModelCost, int]:
    """Return the cost of a study's masked autoencoder and the number of parameters of its encoder."""
    backbone = study.backbone
    # The schema allows pretraining only for these backbones.
    assert isinstance(backbone, config.VisionTransformer | config.ConvMae)

    def inputs(samples: int) -> tuple[Tensor, ...]:
        return _zero_images(samples, backbone.image_size), torch.zeros(samples, backbone.tokens)

    def build_model() -> nn.Module:
        return build_autoencoder(backbone, pretrain)

    with torch.device("meta"):
        encoder_weights = sum(p.numel() for p in build_autoencoder(backbone, pretrain).encoder.parameters())
    return count_cost(build_model, inputs, bf16=pretrain.precision == "bf16"), encoder_weights


def classifier_cost(study: Study, classes: int) -> ClassifierCost:
    """Return the cost of a study's backbone with its linear classifier, finetuned or frozen."""
    backbone, finetune = study.backbone, study.finetune
    assert not isinstance(backbone, config.NoBackbone)
    if finetune is None:
        return _frozen_cost(backbone, classes)

    def build_model() -> BackboneClassifier:
        return build(backbone, classes, finetune.drop_path)

    with torch.device("meta"):
        model = build_model()

    def inputs(samples: int) -> tuple[Tensor, ...]:
        images = _zero_images(samples, backbone.image_size)
        return (images, torch.zeros(samples, model.branches)) if model.branches else (images,)

    cost = count_cost(build_model, inputs, bf16=finetune.precision == "bf16")
    return ClassifierCost(cost, model.width, model.tokens)


def _frozen_cost(backbone: config.ImageBackbone, classes: int) -> ClassifierCost:
    # A custom module is built on the CPU because the user's function may read weights from files.
    with torch.device("cpu" if isinstance(backbone, config.CustomModule) else "meta"):
        model = build_frozen(backbone, classes)

    def inputs(samples: int) -> tuple[Tensor, ...]:
        return (_zero_images(samples, backbone.image_size),)

    return ClassifierCost(count_cost(lambda: model, inputs, bf16=False, backward=False), model.width, model.tokens)


def head_cost(study: Study, settings: config.Head, classes: int, backbone: ClassifierCost) -> ModelCost:
    """Return the cost of a head on features."""
    tokens = config.uses_tokens(settings)
    classifier = Linear(torch.zeros(classes, backbone.width), torch.zeros(classes))
    model = build_head(settings, HeadInputs(classifier, _example_counts(study, classes), study.shots, 0))

    def inputs(samples: int) -> tuple[Tensor, ...]:
        shape = (samples, 1 + backbone.tokens, backbone.width) if tokens else (samples, backbone.width)
        return (torch.zeros(shape),)

    return count_cost(lambda: model, inputs, bf16=False, backward=is_trained(settings))


def is_trained(settings: config.Head) -> bool:
    """Return whether a head is trained. For example, CE without `training` is the unchanged finetuned classifier."""
    return getattr(settings, "training", None) is not None


def _zero_images(samples: int, side: int) -> Tensor:
    return torch.zeros(samples, 3, side, side)


def _example_counts(study: Study, classes: int) -> np.ndarray:
    """Return example class counts for building heads, with a third of the classes in each shot group."""
    shots = study.shots
    levels = [shots.many_above + 1, shots.many_above, max(shots.few_below - 1, 0)]
    return np.asarray([levels[3 * i // classes] for i in range(classes)])
