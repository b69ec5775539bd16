"""Settings for the mutual exclusive modulator, which include the reading of the paper."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mem.config.base import Name, OpenFraction, Unkeyed
from mem.config.head_training import HeadSettings, HeadTraining, PerExpert


class Mem(HeadSettings):
    """Mutual exclusive modulator (section 3 of the paper).

    Settings with a default are readings of the paper. docs/explanation/mem.md quotes the sentences that they read.
    """

    method: Literal["mem"]
    partition: Literal["shot", "random_even", "cardinality_even"]
    """Assignment of classes to groups: by the thresholds in `shots`, randomly into groups of equal size, or into groups
    of equal size after sorting by the number of training images."""
    groups: PositiveInt = 3
    """Number of groups; always 3 for `shot`."""
    partition_seed: NonNegativeInt = 0
    """Seed for the partition `random_even`."""
    input: Literal["pooled", "tokens"]
    """Input of the sub-networks: the pooled feature, or the patch tokens, which require `features.tokens`."""
    pool: Literal["embedding", "norm"] = "embedding"
    """How a sub-network combines tokens: the norm of the mean embedding, or the mean of the norms of all embeddings."""
    width: PositiveInt
    """Embedding dimension of a sub-network."""
    depth: NonNegativeInt
    """Transformer blocks of a sub-network after its linear embedding."""
    xi: PositiveFloat
    """Margin in eq. 3: lower bound for a sub-network's norm on images of the sub-network's group."""
    mu: NonNegativeFloat
    """Margin in eq. 3: upper bound for a sub-network's norm on all other images."""
    top_k: PositiveInt
    """Number of largest logits per group that the fusion uses as input (eq. 7). Smaller groups use all their logits."""
    reo_weight: NonNegativeFloat
    """Weight of the regularisation objective in eq. 10; the paper uses 1."""
    reo_scale: Literal["none", "xi_squared"] = "none"
    """Whether the regularisation objective is divided by xi squared, so that its size does not depend on xi."""
    phases: Literal["joint", "regularisation_first"] = "joint"
    """Order of the objectives. `joint` minimises their sum (eq. 10). `regularisation_first` trains only the
    sub-networks, with the regularisation objective, and then only the fusion and, unless it is frozen, the classifier,
    with the classification loss. Each phase has its own cosine schedule of the learning rate."""
    first_phase: OpenFraction = 0.5
    """Share of the training steps in the first phase of `regularisation_first`."""
    fusion_width: PositiveInt
    """Hidden width of the fusion's two-layer perceptron."""
    fusion_init: Literal["identity", "default"] = "identity"
    """Initial weights of the fusion's last layer. `identity`: zero weights and a bias for which the group weights do
    not change the prediction. `default`: PyTorch's random initialisation of a linear layer."""
    norms: Literal["scaled", "raw"] = "scaled"
    """Norms that the fusion uses as input: divided by xi, so that their scale is similar to that of the logits, or
    unchanged as in eq. 7."""
    detach_norms: bool = False
    """Whether the classification loss does not train the sub-networks through the norms in the fusion."""
    weight: Literal["free", "softplus", "exp", "residual", "softmax", "sigmoid", "additive", "mixture"]
    """How the fusion output o acts on the logits of a group. The group weight is o (`free`), softplus(o), exp(o), 1 + o
    (`residual`), the softmax of o over the groups or sigmoid(o), and multiplies the logits (eq. 8). `additive` adds o
    to the logits instead. `mixture` predicts a class with the probability of its group, which is the softmax of o over
    the groups, times the softmax of the logits within the group. With `fusion_init: identity` and every variant except
    `mixture`, the initial head predicts the same class as the classifier that it modulates."""
    logits: Literal["plain", "centred", "log_softmax", "standardised"] = "plain"
    """Logits that the fusion and eq. 8 use: those of the classifier, or these minus their mean over the classes, their
    log-softmax, or minus their mean and divided by their standard deviation."""
    temperature: PositiveFloat | Literal["learned"] = 1.0
    """Number by which the data-aware logits are divided; `learned`: one trained parameter that is initially 1."""
    classifier: Literal["frozen", "trained", "fresh"]
    """Whether the linear classifier is frozen, trained jointly with the modulator, or a new classifier that is trained
    jointly with the modulator."""
    classifier_lr_scale: PositiveFloat = 1.0
    """Factor of the learning rate for the classifier. A new classifier may need a larger learning rate."""
    prior_in_loss: bool = False
    """Whether the log prior of the classes is added to the data-aware logits in the loss, as in `logit_adjusted_loss`
    with tau 1. Evaluation uses the logits without the prior. Requires the sampler `instance`."""
    classifier_from: Annotated[Name | None, Unkeyed("train_head")] = None
    """Name of the head that provides MEM's initial linear classifier: a head of this study that is a linear classifier
    when it predicts, which means any method except `ncm`, `logit_fusion`, `block_classifier` and `mem`. Required,
    except with `classifier: fresh`, which does not use it."""
    per_expert: PerExpert = False
    training: HeadTraining

    @property
    def start(self) -> str | None:
        """Name of the head that provides the initial classifier, or None for a new classifier."""
        return None if self.classifier == "fresh" else self.classifier_from

    def without_effect(self) -> frozenset[str]:
        """Return the settings that have no effect because of the partition, input, phases or classifier."""
        unused = {
            "partition_seed": self.partition != "random_even",
            "pool": self.input == "pooled",
            "first_phase": self.phases == "joint",
            "detach_norms": self.phases == "regularisation_first",
            "classifier_lr_scale": self.classifier == "frozen",
            "classifier_from": self.classifier == "fresh",
        }
        return frozenset(name for name, is_unused in unused.items() if is_unused)

    @model_validator(mode="after")
    def _consistent(self) -> Mem:
        if self.partition == "shot" and self.groups != 3:
            raise ValueError(f"partition `shot` has 3 groups, but groups is {self.groups}")
        if self.mu >= self.xi:
            raise ValueError(f"mu ({self.mu:g}) must be smaller than xi ({self.xi:g})")
        return self

    @model_validator(mode="after")
    def _has_a_classifier(self) -> Mem:
        if self.classifier_from is None and self.classifier != "fresh":
            raise ValueError(
                f"classifier_from: is required with `classifier: {self.classifier}`; name a head with a linear "
                "classifier, or set `classifier: fresh` for a new classifier"
            )
        return self

    @model_validator(mode="after")
    def _objectives_train_something(self) -> Mem:
        if self.phases == "regularisation_first" and not self.reo_weight:
            raise ValueError(
                "phases: `regularisation_first` requires a reo_weight above 0, because its first phase minimises only "
                "the regularisation objective"
            )
        if self.phases == "joint" and self.detach_norms and not self.reo_weight:
            raise ValueError(
                "detach_norms: requires a reo_weight above 0, because no objective trains the sub-networks otherwise"
            )
        if self.prior_in_loss and self.training.sampler != "instance":
            raise ValueError(
                f"prior_in_loss: requires the sampler `instance`, not `{self.training.sampler}`, because the prior is "
                "that of the training images"
            )
        return self
