"""From settings to a head, and from a head to files and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter

from mem import config, files, longtail
from mem.errors import UserError
from mem.heads.base import Head, Linear, fresh_linear
from mem.heads.lws import Lws
from mem.heads.mem.head import MemHead
from mem.heads.ncm import Ncm
from mem.heads.prior import PriorLinear, log_prior, logit_adjusted
from mem.heads.tau import tau_normalised
from mem.models.weights import load_weights, save_weights


@dataclass(frozen=True)
class HeadInputs:
    """What a head is built on."""

    classifier: Linear
    """The linear classifier to start from: the finetuned one, or another head's."""
    class_counts: np.ndarray
    """Training images per class."""
    shots: config.Shots
    seed: int


def build_head(settings: config.Head, basis: HeadInputs) -> Head:
    """A head before its training.

    Raises:
        UserError: A group of MEM's partition would be empty.
    """
    classifier = basis.classifier
    classes, width = classifier.weight.shape
    assert classifier.bias is not None
    match settings:
        case config.Ce() if settings.training is None:
            return classifier
        case config.Tau():
            return tau_normalised(classifier.weight.detach(), 0.0)
        case config.LogitAdjustment():
            return logit_adjusted(classifier, log_prior(basis.class_counts), 0.0)
        case config.Ncm():
            return Ncm(torch.zeros(width), torch.zeros(classes, width), torch.from_numpy(basis.class_counts > 0))
        case config.Ce() | config.Crt():
            return fresh_linear(width, classes, basis.seed)
        case config.LogitAdjustedLoss():
            offset = settings.tau * log_prior(basis.class_counts)
            return PriorLinear(fresh_linear(width, classes, basis.seed), offset)
        case config.BalancedSoftmax():
            offset = torch.from_numpy(np.log(np.maximum(basis.class_counts, 1))).float()
            return PriorLinear(fresh_linear(width, classes, basis.seed), offset)
        case config.Lws():
            return Lws(classifier.weight.detach(), classifier.bias.detach())
        case config.Mem():
            groups = longtail.partition(
                settings.partition, basis.class_counts, settings.groups, basis.shots, settings.partition_seed
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(basis.seed)
                return MemHead(settings, classifier, torch.from_numpy(groups))


def save_head(folder: Path, head: Head, settings: config.Head, basis: HeadInputs) -> None:
    """Write `head.json` and `head.safetensors`."""
    weight = basis.classifier.weight
    about = {
        "settings": settings.model_dump(mode="json"),
        "shots": basis.shots.model_dump(mode="json"),
        "classes": weight.shape[0],
        "width": weight.shape[1],
        "class_counts": basis.class_counts.tolist(),
    }
    files.write_text(folder / "head.json", json.dumps(about, indent=2) + "\n")
    save_weights(folder / "head.safetensors", head.state_dict(), {"method": settings.method})


def load_head(folder: Path) -> Head:
    """Read what `save_head` wrote.

    Raises:
        UserError: A file is missing or damaged.
    """
    return load_head_and_inputs(folder)[0]


def load_head_and_inputs(folder: Path) -> tuple[Head, config.Head, HeadInputs]:
    """Read what `save_head` wrote; of the classifier that the head started from, only the shape is known.

    Raises:
        UserError: As in `load_head`.
    """
    try:
        about = json.loads((folder / "head.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}/head.json: no such file. `mem train_head` writes it.") from None
    settings = TypeAdapter(config.Head).validate_python(about["settings"])
    blank = Linear(torch.zeros(about["classes"], about["width"]), torch.zeros(about["classes"]))
    basis = HeadInputs(blank, np.asarray(about["class_counts"]), config.Shots(**about["shots"]), seed=0)
    head = build_head(settings, basis)
    tensors = load_weights(folder / "head.safetensors")
    head.load_state_dict(tensors)
    return head.eval(), settings, basis


def load_linear(path: Path) -> Linear:
    """A linear classifier from a safetensors file with `weight` and `bias`."""
    tensors = load_weights(path)
    return Linear(tensors["weight"], tensors["bias"])
