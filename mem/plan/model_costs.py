"""Which model each stage runs, and what that model computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mem import config
from mem.config import Pretrain, Study
from mem.data.features.user_files import FeatureArrayReader
from mem.heads.base import Linear
from mem.heads.build import HeadInputs, build_head
from mem.models.backbones import Classifier, build, build_frozen
from mem.models.mae import build_autoencoder
from mem.plan.arithmetic import NOTHING, Arithmetic, count


def autoencoder(study: Study, pretrain: Pretrain) -> tuple[Arithmetic, int]:
    """The masked autoencoder of a study, and how many weights its encoder has."""
    backbone = study.backbone
    # The schema allows no masked autoencoder around others.
    assert isinstance(backbone, config.VisionTransformer | config.ConvMae)

    def inputs(samples: int) -> tuple[Tensor, ...]:
        return _images(samples, backbone.image_size), torch.zeros(samples, backbone.tokens)

    def made() -> nn.Module:
        return build_autoencoder(backbone, pretrain)

    with torch.device("meta"):
        encoder = sum(p.numel() for p in build_autoencoder(backbone, pretrain).encoder.parameters())
    return count(made, inputs, bf16=pretrain.precision == "bf16"), encoder


@dataclass(frozen=True)
class CountedClassifier:
    """A backbone with its linear classifier."""

    arithmetic: Arithmetic
    width: int
    """Dimension of its pooled feature."""
    tokens: int
    """Tokens of an image."""


def classifier(study: Study, classes: int) -> CountedClassifier:
    """The backbone of a study with its linear classifier, or as it comes; of features in files only their shape."""
    if isinstance(study.dataset, config.FeatureFiles):
        _, *sequence, width = FeatureArrayReader(study.dataset.files_of("train")[0], "features").shape
        return CountedClassifier(NOTHING, width, sequence[0] - 1 if sequence else 0)
    backbone, finetune = study.backbone, study.finetune
    assert not isinstance(backbone, config.NoBackbone)
    if finetune is None:
        return _frozen(backbone, classes)

    def made() -> Classifier:
        return build(backbone, classes, finetune.drop_path)

    with torch.device("meta"):
        model = made()

    def inputs(samples: int) -> tuple[Tensor, ...]:
        images = _images(samples, backbone.image_size)
        return (images, torch.zeros(samples, model.branches)) if model.branches else (images,)

    return CountedClassifier(count(made, inputs, bf16=finetune.precision == "bf16"), model.width, model.tokens)


def _frozen(backbone: config.ImageBackbone, classes: int) -> CountedClassifier:
    # One's own module is made for real: its function may read weights from files.
    with torch.device("cpu" if isinstance(backbone, config.OwnModule) else "meta"):
        model = build_frozen(backbone, classes)

    def inputs(samples: int) -> tuple[Tensor, ...]:
        return (_images(samples, backbone.image_size),)

    return CountedClassifier(count(lambda: model, inputs, bf16=False, backward=False), model.width, model.tokens)


def head(study: Study, settings: config.Head, classes: int, backbone: CountedClassifier) -> Arithmetic:
    """A head on features; some learn nothing."""
    tokens = isinstance(settings, config.Mem) and settings.input == "tokens"
    blank = Linear(torch.zeros(classes, backbone.width), torch.zeros(classes))
    made = build_head(settings, HeadInputs(blank, _some_counts(study, classes), study.shots, 0))

    def inputs(samples: int) -> tuple[Tensor, ...]:
        shape = (samples, 1 + backbone.tokens, backbone.width) if tokens else (samples, backbone.width)
        return (torch.zeros(shape),)

    return count(lambda: made, inputs, bf16=False, backward=learns(settings))


def learns(settings: config.Head) -> bool:
    """Whether a head is trained: CE without `training` is the finetuned classifier, others are chosen or computed."""
    return getattr(settings, "training", None) is not None


def _images(samples: int, side: int) -> Tensor:
    return torch.zeros(samples, 3, side, side)


def _some_counts(study: Study, classes: int) -> np.ndarray:
    """Training images per class such that a third of the classes is many-shot, a third medium- and a third few-shot."""
    shots = study.shots
    levels = [shots.many_above + 1, shots.many_above, max(shots.few_below - 1, 0)]
    return np.asarray([levels[3 * i // classes] for i in range(classes)])
