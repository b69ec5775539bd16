"""Settings that several heads share: their training, and the head that they start from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mem.config.base import Name, Section, Unkeyed

RequiredStart = Annotated[Name, Unkeyed("train_head")]
"""Name of the head that provides the initial classifier. The run of this head is an input of the run, so that the name
itself is not part of the key."""
OptionalStart = Annotated[Name | None, Unkeyed("train_head")]
"""As `RequiredStart`, or None for a new classifier. `mem.runs.dag` adds to the key whether there is a name."""


CosineScale = Annotated[
    PositiveFloat | None,
    Field(
        description="Scale s of a cosine classifier, with the logits s cos(w_k, z) of feature z and no bias. Default: "
        "a linear classifier."
    ),
]

PerExpert = Annotated[
    bool,
    Field(
        description="Whether one head is trained for each expert of the backbone, on the feature and with the "
        "classifier of this expert, and the logits of these heads are averaged. Requires `finetune.experts`. Default: "
        "one head on the concatenated features of all experts; if it starts from the finetuned classifier, from the "
        "mean of the experts."
    ),
]


class HeadSettings(Section):
    """Settings that all heads share."""

    requires_experts: ClassVar[bool] = False
    """Whether the head is defined only for a backbone with experts."""
    transductive: ClassVar[bool] = False
    """Whether the head is adapted to the test images, without their labels. Its results are marked."""

    finetuning: Annotated[Name | None, Unkeyed("train_head")] = None
    """Name of the variant of finetuning (`finetune_variants`) whose features and classifier the head uses. Default:
    `finetune`."""


class Blocks(Section):
    """Two-level shuffling for features that do not fit into memory: blocks of images, then images within windows."""

    images: PositiveInt
    """Number of consecutive images that are read at once. Reads of a megabyte or more are fast on any disk."""
    window: PositiveInt
    """Number of blocks whose images are shuffled together. About three times as many blocks are kept in memory."""


class HeadTraining(Section):
    """Training settings for a head on frozen features. The learning rate follows a cosine schedule from `lr` to 0."""

    epochs: PositiveFloat
    """Length of training as a multiple of the training set size."""
    global_batch: PositiveInt
    """Samples per optimizer step."""
    optimizer: Literal["sgd", "adamw"]
    """Optimizer. `sgd` uses momentum 0.9."""
    lr: PositiveFloat
    """Initial learning rate. It is not scaled by the batch size."""
    weight_decay: NonNegativeFloat
    sampler: Literal["instance", "class_balanced", "sqrt", "group_balanced"]
    """Sampling order. `instance` visits each image once per epoch. `class_balanced` visits the classes in turn, with
    four images per visit (Kang et al. 2020). `sqrt` samples classes in proportion to the square root of their image
    count (Mahajan et al. 2018). `group_balanced` visits the shot groups in turn and, within each group, the classes in
    turn, with four images per visit."""
    blocks: Blocks | None = None
    """Block-wise reading at full disk throughput, for features that do not fit into memory. Requires the sampler
    `instance`. Choose a window of at least twenty batches so that batches are well mixed. Within an epoch, all images
    of a block use the same view."""
    views: NonNegativeInt | None = None
    """Number of augmented views of `features` to train on, in addition to the plain view. Default: all."""

    @model_validator(mode="after")
    def _blocks_require_instance_sampler(self) -> HeadTraining:
        if self.blocks and self.sampler != "instance":
            raise ValueError(f"`blocks` requires sampler `instance`, not `{self.sampler}`")
        return self
