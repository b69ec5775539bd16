"""Build, save and load heads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import TypeAdapter
from torch import Tensor

from mem import config, files, longtail, rng
from mem.errors import UserError
from mem.heads.aggregation import SadeAggregationHead
from mem.heads.base import Head, Linear, fresh_linear
from mem.heads.block_classifier import BlockClassifierHead
from mem.heads.cosine import CosineHead, fresh_cosine
from mem.heads.ensemble import ExpertEnsemble
from mem.heads.group_constants import GroupConstantsHead
from mem.heads.logit_fusion import LogitFusionHead
from mem.heads.lws import LwsHead
from mem.heads.mem.head import MemHead
from mem.heads.mislas import MislasHead, label_aware_smoothing
from mem.heads.ncm import NcmHead
from mem.heads.per_expert import MemOnExperts, PerExpertHead
from mem.heads.prior import PriorLinear, log_prior, logit_adjusted
from mem.heads.ride_router import RideRouterHead
from mem.heads.tau import tau_normalised
from mem.heads.zero_shot import ZeroShotHead
from mem.models.class_embeddings.vectors import ClassVectors
from mem.models.weights.tensors import load_weights, save_weights

Classifier = Linear | CosineHead | ExpertEnsemble
"""A finetuned classifier, or the linear classifier of another head, from which heads start."""


@dataclass(frozen=True)
class HeadInputs:
    """Inputs that `build_head` needs in addition to the settings of the head."""

    classifier: Classifier
    """The classifier to start from: the finetuned classifier, or the linear classifier of another head. For a backbone
    with experts, the finetuned classifier is an ensemble."""
    class_counts: np.ndarray
    """Number of training images of each class, before any resampling by the sampler of the head."""
    shots: config.Shots
    """Thresholds of the shot groups."""
    seed: int
    """Seed of the initial weights."""
    counts_before_holdout: np.ndarray | None = None
    """Number of training images of each class before a holdout, if there is one. They define the groups of classes, so
    that a holdout moves no class to another group."""
    expert_weights: Float[Tensor, " experts"] | None = None
    """Weight of each expert, which the stage `adapt` learned; required for SADE's aggregation."""
    class_vectors: ClassVectors | None = None
    """The class embeddings with their projection; required for the zero-shot classifier."""

    @property
    def group_counts(self) -> np.ndarray:
        """Number of images of each class by which classes are divided into groups."""
        return self.class_counts if self.counts_before_holdout is None else self.counts_before_holdout

    @property
    def experts(self) -> int:
        """Number of experts of the backbone."""
        return self.classifier.experts if isinstance(self.classifier, ExpertEnsemble) else 1

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.classifier.weight.shape[-2]

    @property
    def width(self) -> int:
        """Width of the head's input, which is that of all experts together."""
        return self.experts * self.classifier.weight.shape[-1]

    @property
    def linear(self) -> Linear:
        """The classifier to start from, for methods that require a linear one.

        The ensemble of linear experts is one linear classifier of their concatenated features.

        Raises:
            UserError: It is a cosine classifier.
        """
        linear = self.classifier.as_linear() if isinstance(self.classifier, ExpertEnsemble) else self.classifier
        if linear is None or isinstance(linear, CosineHead):
            raise UserError(
                "the head starts from the finetuned classifier, which is a cosine classifier (finetune.cosine_scale) "
                "and not linear. Choose a method that trains a new classifier, or set cosine_scale to null."
            )
        return linear

    @property
    def ensemble(self) -> ExpertEnsemble:
        """The classifiers of the experts, for methods that require experts.

        Raises:
            UserError: The backbone has no experts.
        """
        if not isinstance(self.classifier, ExpertEnsemble):
            raise UserError(
                "the head requires the experts of a finetuned backbone, but this backbone has one classifier. Set "
                "finetune.experts, or choose another method."
            )
        return self.classifier


def build_head(settings: config.Head, inputs: HeadInputs) -> Head:
    """Build an untrained head.

    Raises:
        UserError: A group of the head's partition would be empty, or the head requires a linear classifier to start
            from and a cosine classifier is given, or it requires experts and there are none.
    """
    if config.is_per_expert(settings):
        return _per_expert(settings, inputs)
    classes, width = inputs.classes, inputs.width
    match settings:
        case config.Ce() if settings.training is None:
            return inputs.classifier
        case config.Finetuned():
            return inputs.classifier
        case config.Ensemble():
            return inputs.ensemble.of_experts(settings.experts, settings.average)
        case config.RideRouter():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(inputs.seed)
                return RideRouterHead(settings, inputs.ensemble)
        case config.SadeAggregation():
            ensemble, weights = inputs.ensemble, inputs.expert_weights
            return SadeAggregationHead(ensemble, torch.zeros(ensemble.experts) if weights is None else weights)
        case config.Tau():
            return tau_normalised(inputs.linear.weight.detach(), 0.0)
        case config.LogitAdjustment():
            return logit_adjusted(inputs.linear, log_prior(inputs.class_counts), 0.0)
        case config.Ncm():
            return NcmHead(torch.zeros(width), torch.zeros(classes, width), torch.from_numpy(inputs.class_counts > 0))
        case config.ZeroShot():
            assert inputs.class_vectors is not None, "`fit_head` and the stage `train_head` provide them"
            vectors = inputs.class_vectors
            return ZeroShotHead(vectors.embeddings, vectors.projection, settings.scale)
        case config.Ce() | config.Crt():
            return _start(settings, inputs)
        case config.LogitAdjustedLoss():
            return _start(settings, inputs, settings.tau * log_prior(inputs.class_counts))
        case config.BalancedSoftmax():
            offset = torch.from_numpy(np.log(longtail.positive_counts(inputs.class_counts))).float()
            return _start(settings, inputs, offset)
        case config.Lws():
            assert inputs.linear.bias is not None
            return LwsHead(inputs.linear.weight.detach(), inputs.linear.bias.detach())
        case config.Mislas():
            smoothing = label_aware_smoothing(inputs.class_counts, settings.smoothing_head, settings.smoothing_tail)
            return MislasHead(inputs.linear, smoothing, settings.classifier_lr_factor)
        case config.GroupConstants():
            return GroupConstantsHead(inputs.linear, _partition(settings, inputs), settings.groups, settings.constants)
        case config.LogitFusion():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(inputs.seed)
                return LogitFusionHead(
                    settings, inputs.linear, _partition(settings, inputs), log_prior(inputs.class_counts)
                )
        case config.BlockClassifier():
            base = None if settings.classifier_from is None else inputs.linear
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(inputs.seed)
                return BlockClassifierHead(settings, (classes, width), base, log_prior(inputs.class_counts))
        case config.Mem():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(inputs.seed)
                start = fresh_linear(width, classes, inputs.seed) if settings.classifier == "fresh" else inputs.linear
                return MemHead(settings, start, _partition(settings, inputs), log_prior(inputs.class_counts))


def _per_expert(settings: config.Head, inputs: HeadInputs) -> PerExpertHead:
    """Return one head for each expert. It starts from the classifier of the expert, with a seed of its own."""
    ensemble = inputs.ensemble
    single = settings.model_copy(update={"per_expert": False})
    heads: list[Head] = []
    for expert in range(ensemble.experts):
        classifier = ensemble.classifier_of(expert)
        seed = int(rng.generator(inputs.seed, f"expert {expert}").integers(2**31))
        heads.append(build_head(single, replace(inputs, classifier=classifier, seed=seed)))
    modulators = [head for head in heads if isinstance(head, MemHead)]
    return MemOnExperts(modulators) if modulators else PerExpertHead(heads)


def _partition(
    settings: config.Mem | config.GroupConstants | config.LogitFusion, inputs: HeadInputs
) -> Int64[Tensor, " classes"]:
    """Return the group of each class.

    Raises:
        UserError: A group would be empty.
    """
    groups = longtail.partition(
        settings.partition, inputs.group_counts, settings.groups, inputs.shots, settings.partition_seed
    )
    return torch.from_numpy(groups)


def _start(
    settings: config.Ce | config.Crt | config.LogitAdjustedLoss | config.BalancedSoftmax,
    inputs: HeadInputs,
    offset: Float[Tensor, " classes"] | None = None,
) -> Linear | CosineHead:
    """Return a copy of the given classifier if the settings name it, or a new linear or cosine classifier.

    Args:
        settings: Settings of the head.
        inputs: Inputs of the head.
        offset: One offset per class that the loss adds to the logits.
    """
    classes, width = inputs.classes, inputs.width
    if settings.cosine_scale is not None:
        return fresh_cosine(width, classes, settings.cosine_scale, inputs.seed, offset)
    named = config.classifier_from(settings) is not None
    start = inputs.linear.as_linear() if named else fresh_linear(width, classes, inputs.seed)
    return start if offset is None else PriorLinear(start, offset)


def save_head(folder: Path, head: Head, settings: config.Head, inputs: HeadInputs) -> None:
    """Write `head.json` (settings and class counts) and `head.safetensors` (weights)."""
    about = {
        "settings": settings.model_dump(mode="json"),
        "shots": inputs.shots.model_dump(mode="json"),
        "classes": inputs.classes,
        "width": inputs.width,
        "class_counts": inputs.class_counts.tolist(),
    }
    if inputs.experts > 1:
        about["experts"] = inputs.experts
    if not isinstance(inputs.classifier, Linear) and inputs.classifier.scale is not None:
        about["cosine_scale"] = inputs.classifier.scale
    if inputs.class_vectors is not None:
        vectors = inputs.class_vectors
        about["embeddings"] = {"width": vectors.embeddings.shape[1], "projected": vectors.projection is not None}
    if inputs.counts_before_holdout is not None:
        about["counts_before_holdout"] = inputs.counts_before_holdout.tolist()
    files.write_text(folder / "head.json", json.dumps(about, indent=2) + "\n")
    save_weights(folder / "head.safetensors", head.state_dict(), {"method": settings.method})


def load_head(folder: Path) -> Head:
    """Load a head that was saved by `save_head`.

    Raises:
        UserError: A file is missing or damaged.
    """
    return load_head_and_inputs(folder)[0]


def load_head_and_inputs(folder: Path) -> tuple[Head, config.Head, HeadInputs]:
    """Load a head with its settings and inputs. `inputs.classifier` has the saved shape, but its weights are zero.

    Raises:
        UserError: A file is missing or damaged.
    """
    try:
        about = json.loads((folder / "head.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}/head.json: no such file. Run `mem train_head` to write it.") from None
    settings = TypeAdapter(config.Head).validate_python(about["settings"])
    blank = blank_classifier(about["classes"], about["width"], about.get("cosine_scale"), about.get("experts", 1))
    before = about.get("counts_before_holdout")
    inputs = HeadInputs(
        blank,
        np.asarray(about["class_counts"]),
        config.Shots(**about["shots"]),
        seed=0,
        counts_before_holdout=None if before is None else np.asarray(before),
        class_vectors=_blank_vectors(about),
    )
    head = build_head(settings, inputs)
    tensors = load_weights(folder / "head.safetensors")
    head.load_state_dict(tensors)
    return head.eval(), settings, inputs


def _blank_vectors(about: Mapping[str, Any]) -> ClassVectors | None:
    """Return class embeddings of zeros with the saved shapes, or None if the head has none."""
    if (shape := about.get("embeddings")) is None:
        return None
    projection = torch.zeros(shape["width"], about["width"]) if shape["projected"] else None
    return ClassVectors(torch.zeros(about["classes"], shape["width"]), "", projection)


def load_classifier(path: Path) -> Classifier:
    """Load a classifier from a safetensors file with its `weight`, and its `bias` or `cosine_scale`.

    The tensors of several experts have an additional first dimension. `owned_classes` names the classes that each
    expert owns, if it does not own all of them.
    """
    tensors = load_weights(path)
    weight, scale = tensors["weight"], tensors.get("cosine_scale")
    if weight.ndim == 3:
        scale = None if scale is None else float(scale)
        return ExpertEnsemble(weight, bias=tensors.get("bias"), scale=scale, owned=tensors.get("owned_classes"))
    return Linear(weight, tensors["bias"]) if scale is None else CosineHead(weight, float(scale))


def blank_classifier(classes: int, width: int, cosine_scale: float | None = None, experts: int = 1) -> Classifier:
    """Return a classifier of zeros.

    Args:
        classes: Number of classes.
        width: Width of the head's input, which is that of all experts together.
        cosine_scale: Scale of a cosine classifier, or None for a linear one.
        experts: Number of experts.
    """
    if experts > 1:
        bias = torch.zeros(experts, classes) if cosine_scale is None else None
        return ExpertEnsemble(torch.zeros(experts, classes, width // experts), bias=bias, scale=cosine_scale)
    weight = torch.zeros(classes, width)
    return Linear(weight, torch.zeros(classes)) if cosine_scale is None else CosineHead(weight, cosine_scale)
