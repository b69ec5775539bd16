"""Build, save and load heads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import TypeAdapter
from torch import Tensor

from mem import config, files, longtail
from mem.errors import UserError
from mem.heads.base import Head, Linear, fresh_linear
from mem.heads.block_classifier import BlockClassifierHead
from mem.heads.group_constants import GroupConstantsHead
from mem.heads.logit_fusion import LogitFusionHead
from mem.heads.lws import LwsHead
from mem.heads.mem.head import MemHead
from mem.heads.ncm import NcmHead
from mem.heads.prior import PriorLinear, log_prior, logit_adjusted
from mem.heads.tau import tau_normalised
from mem.models.weights.tensors import load_weights, save_weights


@dataclass(frozen=True)
class HeadInputs:
    """Inputs that `build_head` needs in addition to the settings of the head."""

    classifier: Linear
    """The linear classifier to start from: the finetuned classifier, or the classifier of another head."""
    class_counts: np.ndarray
    """Number of training images of each class. They are the prior of the images that a head is trained on."""
    shots: config.Shots
    """Thresholds of the shot groups."""
    seed: int
    """Seed of the initial weights."""
    counts_before_holdout: np.ndarray | None = None
    """Number of training images of each class before a holdout, if there is one. They define the groups of classes, so
    that a holdout moves no class to another group."""

    @property
    def group_counts(self) -> np.ndarray:
        """Number of images of each class by which classes are divided into groups."""
        return self.class_counts if self.counts_before_holdout is None else self.counts_before_holdout


def build_head(settings: config.Head, inputs: HeadInputs) -> Head:
    """Build an untrained head.

    Raises:
        UserError: A group of the head's partition would be empty.
    """
    classifier = inputs.classifier
    classes, width = classifier.weight.shape
    assert classifier.bias is not None
    match settings:
        case config.Ce() if settings.training is None:
            return classifier
        case config.Tau():
            return tau_normalised(classifier.weight.detach(), 0.0)
        case config.LogitAdjustment():
            return logit_adjusted(classifier, log_prior(inputs.class_counts), 0.0)
        case config.Ncm():
            return NcmHead(torch.zeros(width), torch.zeros(classes, width), torch.from_numpy(inputs.class_counts > 0))
        case config.Ce() | config.Crt():
            return _start(settings, inputs)
        case config.LogitAdjustedLoss():
            return PriorLinear(_start(settings, inputs), settings.tau * log_prior(inputs.class_counts))
        case config.BalancedSoftmax():
            offset = torch.from_numpy(np.log(np.maximum(inputs.class_counts, 1))).float()
            return PriorLinear(_start(settings, inputs), offset)
        case config.Lws():
            return LwsHead(classifier.weight.detach(), classifier.bias.detach())
        case config.GroupConstants():
            return GroupConstantsHead(classifier, _partition(settings, inputs), settings.groups, settings.constants)
        case config.LogitFusion():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(inputs.seed)
                return LogitFusionHead(
                    settings, classifier, _partition(settings, inputs), log_prior(inputs.class_counts)
                )
        case config.BlockClassifier():
            base = None if settings.classifier_from is None else classifier
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(inputs.seed)
                return BlockClassifierHead(settings, (classes, width), base, log_prior(inputs.class_counts))
        case config.Mem():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(inputs.seed)
                start = fresh_linear(width, classes, inputs.seed) if settings.classifier == "fresh" else classifier
                return MemHead(settings, start, _partition(settings, inputs), log_prior(inputs.class_counts))


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


def _start(settings: config.Head, inputs: HeadInputs) -> Linear:
    """Return a copy of the given classifier if the settings name it, or a new classifier."""
    if config.classifier_from(settings) is not None:
        return inputs.classifier.as_linear()
    classes, width = inputs.classifier.weight.shape
    return fresh_linear(width, classes, inputs.seed)


def save_head(folder: Path, head: Head, settings: config.Head, inputs: HeadInputs) -> None:
    """Write `head.json` (settings and class counts) and `head.safetensors` (weights)."""
    weight = inputs.classifier.weight
    about = {
        "settings": settings.model_dump(mode="json"),
        "shots": inputs.shots.model_dump(mode="json"),
        "classes": weight.shape[0],
        "width": weight.shape[1],
        "class_counts": inputs.class_counts.tolist(),
    }
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
    blank = Linear(torch.zeros(about["classes"], about["width"]), torch.zeros(about["classes"]))
    before = about.get("counts_before_holdout")
    inputs = HeadInputs(
        blank,
        np.asarray(about["class_counts"]),
        config.Shots(**about["shots"]),
        seed=0,
        counts_before_holdout=None if before is None else np.asarray(before),
    )
    head = build_head(settings, inputs)
    tensors = load_weights(folder / "head.safetensors")
    head.load_state_dict(tensors)
    return head.eval(), settings, inputs


def load_linear(path: Path) -> Linear:
    """Load a linear classifier from a safetensors file with the tensors `weight` and `bias`."""
    tensors = load_weights(path)
    return Linear(tensors["weight"], tensors["bias"])
