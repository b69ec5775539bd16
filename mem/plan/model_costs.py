"""Cost of the model in each stage, counted on a model that is built from the study's settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from mem import config
from mem.config import Pretrain, Study
from mem.heads.build import HeadInputs, blank_classifier, build_head
from mem.heads.ride_router import RideRouterHead
from mem.models.backbones import build, build_frozen
from mem.models.class_embeddings.vectors import ClassVectors
from mem.models.contrastive_classifier import ContrastiveClassifier
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

    with torch.device("meta"):
        model = build_autoencoder(backbone, pretrain)
    encoder_weights = sum(p.numel() for p in model.encoder.parameters())
    return count_cost(model, inputs, bf16=pretrain.precision == "bf16"), encoder_weights


def classifier_cost(study: Study, finetune: config.Finetune | None, classes: int) -> ClassifierCost:
    """Return the cost of a study's backbone with its classifier, finetuned or, without `finetune`, frozen."""
    backbone = study.backbone
    assert not isinstance(backbone, config.NoBackbone)
    if finetune is None:
        return _frozen_cost(backbone, classes)

    with torch.device("meta"):
        model = build(backbone, classes, finetune.drop_path, finetune.cosine_scale, finetune.experts, finetune.tuner)

    def inputs(samples: int) -> tuple[Tensor, ...]:
        images = _zero_images(samples, backbone.image_size)
        return (images, torch.zeros(samples, model.branches)) if model.branches else (images,)

    cost = count_cost(model, inputs, bf16=finetune.precision == "bf16")
    cost = replace(cost, is_tuned=not isinstance(finetune.tuner, config.AllParameters))
    return ClassifierCost(cost, model.experts * model.width, model.tokens, model.experts)


def contrastive_cost(study: Study, finetune: config.Finetune, classes: int) -> ModelCost:
    """Return the cost of training with a contrastive objective: two views, projector, key encoder and queue.

    The entries of the queue are counted as parameters that are not trained.
    """
    backbone, contrast = study.backbone, finetune.contrast
    assert contrast is not None and not isinstance(backbone, config.NoBackbone)

    with torch.device("meta"):
        classifier = build(backbone, classes, finetune.drop_path, finetune.cosine_scale, finetune.experts)
        norm_batch = getattr(backbone, "norm_batch", None) or finetune.global_batch
        model = ContrastiveClassifier(classifier, contrast, norm_batch)

    def inputs(samples: int) -> tuple[Tensor, ...]:
        views = (_zero_images(samples, backbone.image_size),) * 2
        return (*views, *(torch.zeros(samples, model.branches),) * 2) if model.branches else views

    cost = count_cost(model, inputs, bf16=finetune.precision == "bf16")
    return replace(cost, parameters=cost.parameters + model.get_buffer("queue").numel())


def _frozen_cost(backbone: config.ImageBackbone, classes: int) -> ClassifierCost:
    # A custom module is built on the CPU because the user's function may read weights from files.
    with torch.device("cpu" if isinstance(backbone, config.CustomModule) else "meta"):
        model = build_frozen(backbone, classes)

    def inputs(samples: int) -> tuple[Tensor, ...]:
        return (_zero_images(samples, backbone.image_size),)

    return ClassifierCost(count_cost(model, inputs, bf16=False, backward=False), model.width, model.tokens)


def head_cost(study: Study, settings: config.Head, classes: int, backbone: ClassifierCost) -> ModelCost:
    """Return the cost of a head on features."""
    tokens = config.uses_tokens(settings)
    finetune = study.finetuning(settings)
    # A head that starts from another head starts from a linear classifier, also if the finetuned one is not linear.
    cosine_scale = finetune.cosine_scale if finetune and config.classifier_from(settings) is None else None
    classifier = blank_classifier(classes, backbone.width, cosine_scale, backbone.experts)
    # The width of class embeddings is unknown before they are computed. That of the features is at least as large.
    width = backbone.width
    vectors = ClassVectors(torch.zeros(classes, width), "", torch.zeros(width, width))
    counts = _example_counts(study, classes)
    model = build_head(settings, HeadInputs(classifier, counts, study.shots, 0, class_vectors=vectors))

    def inputs(samples: int) -> tuple[Tensor, ...]:
        shape = (samples, 1 + backbone.tokens, backbone.width) if tokens else (samples, backbone.width)
        return (torch.zeros(shape),)

    counted = _Decisions(model) if isinstance(model, RideRouterHead) else model
    return count_cost(counted, inputs, bf16=False, backward=is_trained(settings))


class _Decisions(nn.Module):
    """The part of RIDE's router that is trained. Its predictions are logits of the experts, which are not trained."""

    def __init__(self, router: RideRouterHead) -> None:
        super().__init__()
        self.router = router

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the experts and those of the decisions."""
        return self.router.decide(features)


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
