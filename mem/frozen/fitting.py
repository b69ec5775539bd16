"""Fit heads on features in memory."""

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
from mem.data.features.stored import FeatureSplit
from mem.distributed import World
from mem.errors import UserError
from mem.frozen.defaults import head_settings, methods
from mem.heads.base import Head, Linear
from mem.heads.build import HeadInputs, load_head_and_inputs, save_head
from mem.heads.mem.modulated import ModulatedHead
from mem.heads.training import EVALUATION_BATCH, HeadFeatures, make_head
from mem.models.class_embeddings.files import read_embeddings
from mem.models.class_embeddings.vectors import ClassVectors, fitting_vectors
from mem.train.context import FitContext

InitialClassifier: TypeAlias = "FittedHead | nn.Linear | Linear | tuple[Array, Array]"
"""Initial linear classifier: a fitted linear head, a torch layer, or weight (classes, width) and bias (classes,)."""


class GroupSignals(NamedTuple):
    """MEM outputs in addition to the logits."""

    weights: Float[Tensor, "images groups"]
    """Group weights w from the fusion (eq. 7). With `weight: mixture`, the log-probabilities of the groups."""
    norms: Float[Tensor, "images groups"]
    """Norms Q of the sub-networks (section 3.1). The group with the largest norm is the predicted group."""


class FittedHead(nn.Module):
    """A fitted head with its settings.

    The methods accept NumPy arrays or tensors with any number of images. As a torch module, the head maps a batch of
    features to logits.

    With `crops`, each image has this number of consecutive rows, for example those of torchvision's `FiveCrop`, and
    results are those of the mean logits of its rows.
    """

    def __init__(self, head: Head, settings: config.Head, inputs: HeadInputs, results: Mapping[str, Any]) -> None:
        super().__init__()
        self.head = head.eval()
        self.settings = settings
        self.inputs = inputs
        """Inputs from which the head was built: initial classifier, class counts, shot thresholds and seed."""
        self.results = dict(results)
        """Results of the fit: tau and the accuracies used to choose it, the steps, and the number of parameters."""

    def forward(self, features: Float[Tensor, "images *sequence width"]) -> Float[Tensor, "images classes"]:
        """Return the logits of a batch."""
        return self.head(features)

    @torch.no_grad()
    def logits(self, features: Array, crops: int = 1) -> Float[Tensor, "images classes"]:
        """Return the logits on the CPU.

        Raises:
            UserError: The features do not fit the head, or their number is not a multiple of `crops`.
        """
        return _mean_over_crops(torch.cat([self.head(part).cpu() for part in self._batches(features)]), crops)

    def probabilities(self, features: Array, crops: int = 1) -> Float[Tensor, "images classes"]:
        """Return the softmax of the logits."""
        return self.logits(features, crops).softmax(dim=1)

    def predict(self, features: Array, crops: int = 1) -> Int64[Tensor, " images"]:
        """Return the class with the largest logit."""
        return self.logits(features, crops).argmax(dim=1)

    @torch.no_grad()
    def groups(self, features: Array, crops: int = 1) -> GroupSignals:
        """Return MEM's group weights and group norms, with `crops` their means over the crops of each image.

        Raises:
            UserError: The head is not MEM, or as in `logits`.
        """
        head = self.head
        if not isinstance(head, ModulatedHead):
            raise UserError(
                f"Only a `mem` head has group weights and norms, but this head is `{self.settings.method}`."
            )
        parts = [head.modulate(part)[1:] for part in self._batches(features)]
        weights, norms = (_mean_over_crops(torch.cat(columns).cpu(), crops) for columns in zip(*parts, strict=True))
        return GroupSignals(weights, norms)

    @property
    def group_of_class(self) -> Int64[Tensor, " classes"] | None:
        """Group of each class in MEM's partition, or None for other heads."""
        return self.head.get_buffer("group_of_class") if isinstance(self.head, ModulatedHead) else None

    def save(self, folder: str | Path) -> None:
        """Write `head.json` and `head.safetensors` in the format of the stage `train_head`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_head(Path(folder), self.head, self.settings, self.inputs)

    def _batches(self, features: Array) -> Iterator[Tensor]:
        array = as_features(features, "features")
        width = self.inputs.width
        if array.shape[-1] != width:
            raise UserError(
                f"features: got width {array.shape[-1]}, but the head was fitted on features of width {width}."
            )
        if self.head.uses_tokens and array.ndim == 2:
            raise UserError(
                "features: got pooled features only, but this head requires tokens; expected "
                "(images, 1 + tokens, width)"
            )
        device = next(chain(self.head.parameters(), self.head.buffers())).device
        for start in range(0, len(array), EVALUATION_BATCH):
            yield torch.from_numpy(array[start : start + EVALUATION_BATCH]).to(device)


def _mean_over_crops(values: Float[Tensor, "rows columns"], crops: int) -> Float[Tensor, "images columns"]:
    """Return the mean of each image's consecutive rows."""
    if crops < 1 or len(values) % crops:
        raise UserError(
            f"crops: {len(values):,} features are not the crops of a whole number of images, with {crops} of each. "
            "Pass the features of all crops of an image one after another."
        )
    return values if crops == 1 else values.unflatten(0, (-1, crops)).mean(dim=1)


def fit_head(
    method: str | Mapping[str, Any] | config.Head,
    features: Array,
    labels: Array,
    *,
    val: tuple[Array, Array] | None = None,
    val_held_out: bool = False,
    classifier: InitialClassifier | None = None,
    shots: config.Shots | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    quiet: bool = False,
) -> FittedHead:
    """Fit a head on the features of a frozen backbone.

    Args:
        method: The name of a method (`"ce"`, `"crt"`, `"tau"`, `"mem"`, ...), which selects its settings from
            `mem.frozen.defaults`; a mapping that is merged over these settings, for example
            `{"method": "mem", "xi": 50}`; or complete settings, for example `mem.config.Mem(...)`.
        features: (images, width), or (images, 1 + tokens, width) with the pooled feature first.
        labels: (images,), numbered from 0. Every class must have a training image.
        val: Features and labels for the selection of tau by the mean per-class accuracy; required if a method selects
            tau from several values.
        val_held_out: Whether val was held out from the training images. Its images then count for the shot groups.
        classifier: The linear classifier that tau, LWS, logit adjustment and every head with `classifier_from` start
            from. By default, another head is fitted first: the method specified by `classifier_from` with its default
            settings, or a linear probe (`ce`).
        shots: Thresholds of the shot groups.
        seed: Seed for initialisation and sampling. The same seed produces the same head.
        device: Device to train on.
        quiet: Whether to suppress the progress output.

    Raises:
        UserError: Features and labels do not match, contain values that are not finite, or leave a class without
            images; or the settings are invalid or do not match the features.
    """
    settings = head_settings(method)
    if val is None and isinstance(settings, config.Tau | config.LogitAdjustment) and len(settings.taus) > 1:
        raise UserError(
            f"val: is required, because `{settings.method}` selects tau from {len(settings.taus)} values on it. Pass "
            f'val=(features, labels), or a single value: {{"method": "{settings.method}", "taus": [1.0]}}.'
        )
    train = in_memory_split(features, labels, "train")
    counts = longtail.class_counts(train.labels, int(train.labels.max()) + 1)
    require_every_class(counts)
    val_split = before_holdout = None
    if val is not None:
        val_split = in_memory_split(*val, "val", like=train)
        require_known_labels(val_split.labels, len(counts), "val")
        before_holdout = counts + longtail.class_counts(val_split.labels, len(counts)) if val_held_out else None
    elif val_held_out:
        raise UserError("val_held_out: requires val. Pass val=(features, labels), or remove val_held_out.")
    fit = _Fit(train, val_split, counts, before_holdout, shots or config.Shots(), seed, torch.device(device), quiet)
    return fit.head(settings, None if classifier is None else fit.linear(classifier))


def load_fitted(folder: str | Path) -> FittedHead:
    """Load a head written by `FittedHead.save` or by the stage `train_head`."""
    head, settings, inputs = load_head_and_inputs(Path(folder))
    return FittedHead(head, settings, inputs, {})


INITIAL_METHODS = tuple(
    method for method, section in methods().items() if issubclass(section, config.LINEAR) and method != "zero_shot"
)
"""Methods whose linear classifier another head can start from, with their default settings. `zero_shot` has none."""


class _Fit(NamedTuple):
    """Data and options of a `fit_head` call."""

    train: FeatureSplit
    val: FeatureSplit | None
    counts: np.ndarray
    counts_before_holdout: np.ndarray | None
    shots: config.Shots
    seed: int
    device: torch.device
    quiet: bool

    def head(self, settings: config.Head, start: Linear | None) -> FittedHead:
        """Fit a head that starts from a given classifier or, with `None`, from its default initial classifier."""
        start = start or self.initial_classifier(settings)
        inputs = HeadInputs(
            start, self.counts, self.shots, self.seed, self.counts_before_holdout, class_vectors=self._vectors(settings)
        )
        context = FitContext(
            f"fit {settings.method}", World(device=self.device), quiet=self.quiet, name=settings.method
        )
        head, results = make_head(settings, inputs, HeadFeatures(self.train, self.val), context)
        return FittedHead(head.to(self.device), settings, inputs, results)

    def _vectors(self, settings: config.Head) -> ClassVectors | None:
        """Return the class embeddings of a zero-shot classifier, whose file must have one row per class."""
        if not isinstance(settings, config.ZeroShot):
            return None
        if not isinstance(settings.embeddings, config.EmbeddingsFile):
            raise UserError(
                "zero_shot: text features require the class names of a study. Compute a file with `mem classes embed`, "
                'and use {"source": "file", "file": FILE}.'
            )
        vectors = read_embeddings(settings.embeddings.path, len(self.counts))
        return fitting_vectors(vectors, self.train.pooled.shape[2], None)

    def initial_classifier(self, settings: config.Head) -> Linear:
        """Return the default initial classifier of a head. If another head provides it, fit that head first."""
        if settings.requires_experts:
            raise UserError(
                f"{settings.method}: requires the experts of a backbone that a study finetuned (finetune.experts). Run "
                "a study, or choose another method."
            )
        if isinstance(settings, config.Finetuned):
            raise UserError("finetuned: requires the finetuned classifier. Pass classifier=...")
        if isinstance(settings, config.Ce) and settings.training is None:
            raise UserError(
                "ce: requires `training` or a finetuned classifier. Pass classifier=..., or set `training`."
            )
        first = config.start_of(settings, "ce")
        if first is None:
            width = self.train.pooled.shape[2]
            return Linear(torch.zeros(len(self.counts), width), torch.zeros(len(self.counts)))
        if first not in INITIAL_METHODS:
            raise UserError(
                f"{settings.method}: classifier_from is `{first}`; expected one of {', '.join(INITIAL_METHODS)}. "
                "Change it, or pass classifier=..."
            )
        return self.linear(self.head(head_settings(first), None))

    def linear(self, given: InitialClassifier) -> Linear:
        """Check a user-provided classifier and convert it to a `Linear` head."""
        if isinstance(given, FittedHead):
            linear = given.head.as_start()
            if linear is None:
                raise UserError(
                    f"classifier: a `{given.settings.method}` head is not a linear classifier. "
                    "Pass one that is, for example ce or crt without `cosine_scale`."
                )
            given = linear
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
