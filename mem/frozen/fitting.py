"""Heads on anyone's features, from Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mem import config, longtail
from mem.data.features.arrays import Array, as_features, in_memory_split, require_every_class, require_known_labels
from mem.data.features.files import FeatureSplit
from mem.distributed import World
from mem.errors import UserError
from mem.frozen.defaults import head_settings
from mem.heads.base import Head, Linear
from mem.heads.build import HeadInputs, load_head_and_inputs, save_head
from mem.heads.mem.head import MemHead
from mem.heads.training import EVALUATION_BATCH, HeadFeatures, make_head, wants_tokens
from mem.train.context import FitContext

InitialClassifier: TypeAlias = "FittedHead | nn.Linear | Linear | tuple[Array, Array]"
"""A linear classifier to start from: a fitted head, torch's layer, or weight (classes, width) and bias (classes,)."""


class GroupSignals(NamedTuple):
    """What MEM finds of an image, beside its logits."""

    weights: Float[Tensor, "images groups"]
    """The fusion's w (eq. 7)."""
    norms: Float[Tensor, "images groups"]
    """The sub-networks' Q (section 3.1); the largest names the group."""


class FittedHead(nn.Module):
    """A head that was fitted, with what it was fitted by. Its methods take numpy arrays or tensors, of any number.

    As a torch module it maps a batch of features to logits.
    """

    def __init__(self, head: Head, settings: config.Head, basis: HeadInputs, results: Mapping[str, Any]) -> None:
        super().__init__()
        self.head = head.eval()
        self.settings = settings
        self.basis = basis
        self.results = dict(results)
        """What the fitting found: tau and the accuracies it was chosen by, steps, parameters."""

    def forward(self, features: Float[Tensor, "images *sequence width"]) -> Float[Tensor, "images classes"]:
        """Logits of a batch."""
        return self.head(features)

    @torch.no_grad()
    def logits(self, features: Array) -> Float[Tensor, "images classes"]:
        """Logits, on the CPU."""
        return torch.cat([self.head(part).cpu() for part in self._batches(features)])

    def probabilities(self, features: Array) -> Float[Tensor, "images classes"]:
        """The logits' softmax."""
        return self.logits(features).softmax(dim=1)

    def predict(self, features: Array) -> Int64[Tensor, " images"]:
        """The class with the largest logit."""
        return self.logits(features).argmax(dim=1)

    @torch.no_grad()
    def groups(self, features: Array) -> GroupSignals:
        """MEM's group weights and group norms.

        Raises:
            UserError: The head is no MEM.
        """
        head = self.head
        if not isinstance(head, MemHead):
            raise UserError(f"Only `mem` has group weights and norms; this head is `{self.settings.method}`")
        parts = [head.modulate(part)[1:] for part in self._batches(features)]
        weights, norms = (torch.cat(columns).cpu() for columns in zip(*parts, strict=True))
        return GroupSignals(weights, norms)

    @property
    def group_of_class(self) -> Int64[Tensor, " classes"] | None:
        """MEM's partition."""
        return self.head.get_buffer("group_of_class") if isinstance(self.head, MemHead) else None

    def save(self, folder: str | Path) -> None:
        """Write `head.json` and `head.safetensors`, as the stage `train_head` does."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_head(Path(folder), self.head, self.settings, self.basis)

    def _batches(self, features: Array) -> Iterator[Tensor]:
        found = as_features(features, "features")
        width = self.basis.classifier.weight.shape[1]
        if found.shape[-1] != width:
            raise UserError(f"features: have a width of {found.shape[-1]}, the head was fitted on {width}")
        if wants_tokens(self.settings) and found.ndim == 2:
            raise UserError("features: are pooled only; this head sees tokens: (images, 1 + tokens, width)")
        device = next(chain(self.head.parameters(), self.head.buffers())).device
        for start in range(0, len(found), EVALUATION_BATCH):
            yield torch.from_numpy(found[start : start + EVALUATION_BATCH]).to(device)


def fit_head(
    method: str | Mapping[str, Any] | config.Head,
    features: Array,
    labels: Array,
    *,
    val: tuple[Array, Array] | None = None,
    classifier: InitialClassifier | None = None,
    shots: config.Shots | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    quiet: bool = False,
) -> FittedHead:
    """Fit a head on features of a frozen backbone.

    Args:
        method: A name (`"ce"`, `"crt"`, `"tau"`, `"mem"`, ...), with the settings of `mem.frozen.defaults`; a mapping
            laid over them, as `{"method": "mem", "xi": 50}`; or whole settings, as `mem.config.Mem(...)`.
        features: (images, width), or (images, 1 + tokens, width) with the pooled feature first.
        labels: (images,), from 0 without gaps: each class has a training image.
        val: Features and labels to choose tau with.
        classifier: The linear classifier that tau, LWS and MEM start from. Without it they start from a head that is
            fitted first: a linear probe (`ce`), or what MEM's `classifier_from` names.
        shots: Thresholds of many- and few-shot classes.
        seed: Of initialisation and sampling; the same seed gives the same head.
        device: Where it is trained.
        quiet: Show no progress.

    Raises:
        UserError: Features and labels do not fit each other, hold what is not finite, leave a class without an image;
            or settings that do not fit them.
    """
    settings = head_settings(method)
    train = in_memory_split(features, labels, "train")
    counts = longtail.class_counts(train.labels, int(train.labels.max()) + 1)
    require_every_class(counts)
    held_out = None
    if val is not None:
        held_out = in_memory_split(*val, "val", like=train)
        require_known_labels(held_out.labels, len(counts), "val")
    fitting = _Fitting(train, held_out, counts, shots or config.Shots(), seed, torch.device(device), quiet)
    return fitting.head(settings, None if classifier is None else fitting.linear(classifier))


def load_fitted(folder: str | Path) -> FittedHead:
    """Read what `FittedHead.save`, or the stage `train_head`, wrote."""
    head, settings, inputs = load_head_and_inputs(Path(folder))
    return FittedHead(head, settings, inputs, {})


STARTS = ("ce", "crt", "balanced_softmax", "logit_adjusted_loss")
"""Methods that MEM can start from."""


class _Fitting(NamedTuple):
    train: FeatureSplit
    val: FeatureSplit | None
    counts: np.ndarray
    shots: config.Shots
    seed: int
    device: torch.device
    quiet: bool

    def head(self, settings: config.Head, start: Linear | None) -> FittedHead:
        start = start or self.start_of(settings)
        inputs = HeadInputs(start, self.counts, self.shots, self.seed)
        context = FitContext(
            f"fit {settings.method}", World(device=self.device), quiet=self.quiet, name=settings.method
        )
        head, results = make_head(settings, inputs, HeadFeatures(self.train, self.val), context)
        return FittedHead(head.to(self.device), settings, inputs, results)

    def start_of(self, settings: config.Head) -> Linear:
        """The classifier that a head starts from, where none is given: of a head that is fitted first, if need be."""
        if isinstance(settings, config.Ce) and settings.training is None:
            raise UserError("ce: there is no finetuned classifier here. Give one (classifier=...), or `training`")
        if isinstance(settings, (config.Ce, config.Ncm, *config.TRAINED_LINEAR)):
            width = self.train.pooled.shape[2]
            return Linear(torch.zeros(len(self.counts), width), torch.zeros(len(self.counts)))
        first = settings.classifier_from if isinstance(settings, config.Mem) else "ce"
        if first not in STARTS:
            raise UserError(
                f"mem: classifier_from is `{first}`; from Python it is one of {', '.join(STARTS)}, "
                "or give classifier=..."
            )
        return self.linear(self.head(head_settings(first), None))

    def linear(self, given: InitialClassifier) -> Linear:
        """A given classifier as ours, checked."""
        if isinstance(given, FittedHead):
            if not isinstance(given.head, Linear):
                raise UserError(f"classifier: a head `{given.settings.method}` is no linear classifier; give ce or crt")
            given = given.head
        weight, bias = given if isinstance(given, tuple) else (given.weight, given.bias)
        expected = (len(self.counts), self.train.pooled.shape[2])
        weight = torch.as_tensor(weight).detach().float().cpu()
        bias = torch.zeros(len(weight)) if bias is None else torch.as_tensor(bias).detach().float().cpu()
        if tuple(weight.shape) != expected or tuple(bias.shape) != expected[:1]:
            raise UserError(
                f"classifier: its weight has shape {tuple(weight.shape)} and its bias {tuple(bias.shape)}; expected "
                f"(classes, width), {expected}, and {expected[:1]}"
            )
        return Linear(weight, bias)
