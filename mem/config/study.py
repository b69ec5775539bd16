"""Settings for a complete study and for the resources of its stages."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from mem.config.backbones import Backbone, CustomModule, NoBackbone, TimmNetwork
from mem.config.base import Name, Section, Unkeyed
from mem.config.data import Selection, Shots
from mem.config.duplicates import check_distinct
from mem.config.feature_files import FeatureFiles
from mem.config.glyphs import Glyphs
from mem.config.heads import Ce, Head, LogitAdjustment, Lws, Tau, uses_tokens
from mem.config.initial import OFFICIAL, Initial
from mem.config.sources import Dataset
from mem.config.starts import check_starts
from mem.config.sweeps import Sweep, with_variants
from mem.config.training import Features, Finetune, Pretrain


class Compute(Section):
    """Resources of a stage. These settings affect results by rounding at most."""

    threads: PositiveInt = 1
    """Threads, and therefore CPU cores, per process. `snakemake --cores` limits them."""
    memory_gb: PositiveFloat = 4
    """Main memory per node in gigabytes."""
    nodes: PositiveInt = 1
    """Number of nodes for the profile `slurm`."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs per node."""
    tasks_per_node: PositiveInt | None = None
    """Processes (ranks) per node. Default: one per GPU, or one if there are no GPUs."""
    hours: PositiveFloat = 1
    """Time limit of the job in hours."""
    micro_batch: PositiveInt | None = None
    """Maximum number of images per forward pass on one device. Larger batches use gradient accumulation. Default on a
    GPU: the largest micro-batch that fits into its memory."""
    checkpoint_minutes: NonNegativeFloat = 3
    """Minutes between checkpoints."""
    peak_tflops: PositiveFloat | None = None
    """Peak matrix-product rate of one device at the training precision, in TFLOP/s. If set, pretraining and finetuning
    log `mfu` (model FLOPs utilisation): the share of this rate that the model's arithmetic reaches."""
    compile: bool = False
    """Whether the backbone is compiled with `torch.compile` in training and in the stage `features`. Like the number of
    ranks, this changes only rounding."""
    channels_last: bool | None = None
    """Whether the weights of convolutions are stored with the channels last. This changes only rounding. Default: on a
    GPU, for networks that consist mostly of convolutions."""
    recompute_activations: bool = False
    """Whether the backward pass computes the activations of each block again instead of keeping them (activation
    checkpointing, Chen et al. 2016). Training then needs less memory and more time; the results are the same."""

    @property
    def ranks_per_node(self) -> int:
        """Processes per node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)


MULTI_RANK_STAGES = ("pretrain", "finetune", "features")
"""Stages that can run as several processes."""


class StageCompute(Section):
    """Resources of each stage."""

    convert: Compute = Compute()
    pretrain: Compute = Compute()
    finetune: Compute = Compute()
    features: Compute = Compute()
    train_head: Compute = Compute()
    evaluate: Compute = Compute()
    report: Compute = Compute()

    @model_validator(mode="after")
    def _single_process_stages(self) -> StageCompute:
        for stage in type(self).model_fields:
            requested: Compute = getattr(self, stage)
            ranks = requested.nodes * requested.ranks_per_node
            if ranks > 1 and stage not in MULTI_RANK_STAGES:
                raise ValueError(
                    f"{stage} runs as one process, but nodes, gpus_per_node and tasks_per_node request {ranks}; "
                    f"only {', '.join(MULTI_RANK_STAGES)} can run as several processes"
                )
        return self


class Study(Section):
    """A study: a dataset, a backbone and a recipe, with the seeds, class orders and heads to compare."""

    study: Name
    """Name of the study and of its folder under `results/`."""
    description: str = ""
    """Description for the report: for example the purpose of the study, its command, duration and expected results."""
    dataset: Dataset
    orders: tuple[NonNegativeInt, ...] = (0,)
    """Class orders along the long tail: 0 is the dataset's order; any other number is the seed of a permutation. For
    `source: glyphs`, each class order, including 0, is an independent cut of the fonts and characters."""
    seeds: tuple[NonNegativeInt, ...]
    """Seeds for initialisation, sampling, augmentation and masks."""
    shots: Shots = Shots()
    selection: Selection | None = None
    """Choice of settings on held-out training images, followed by a refit on all training images, for a dataset without
    a val split. Default: settings are chosen on val, if there is a val split."""
    backbone: Backbone
    initial: Initial | None = None
    """Published or custom initial weights. Default: the first training stage starts from random weights."""
    pretrain: Pretrain | None
    """Pretraining settings. With `null`, finetuning starts from `initial` or from random weights."""
    finetune: Finetune | None
    """Finetuning settings. With `null`, the backbone from pretraining, `initial` or a custom module is not changed."""
    features: Features | None
    """Settings for the features of the frozen backbone; `null` if the dataset consists of features."""
    heads: dict[Name, Head]
    """Heads to compare, by name. If `method` is omitted, the name is used as the method."""
    sweeps: dict[Name, Sweep] = Field(default={})
    """Sweeps by name. The variants of all sweeps are added to `heads` when the study is loaded."""
    compute: Annotated[StageCompute, Unkeyed()] = StageCompute()

    @field_validator("orders", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not values:
            raise ValueError("expected at least one value")
        if len(set(values)) != len(values):
            raise ValueError(f"expected distinct values, got {list(values)}")
        return values

    @model_validator(mode="before")
    @classmethod
    def _complete_heads(cls, values: Any) -> Any:
        """Fill in methods from the names of heads, and add the variants of sweeps."""
        if not isinstance(values, dict) or not isinstance(values.get("heads"), dict):
            return values
        heads = {
            name: {"method": name} | (head or {}) if isinstance(head, dict | None) else head
            for name, head in values["heads"].items()
        }
        return {**values, "heads": with_variants(heads, values.get("sweeps"))}

    @model_validator(mode="after")
    def _backbone_fits(self) -> Study:
        if isinstance(self.backbone, CustomModule) and (self.pretrain or self.finetune):
            raise ValueError("backbone.kind `module` cannot be trained; set pretrain and finetune to null")
        if not isinstance(self.backbone, TimmNetwork):
            return self
        if self.pretrain is not None:
            raise ValueError(
                f"pretrain: the masked autoencoder requires a backbone of kind vit or convmae, but "
                f"{self.backbone.model} is a network of timm; set pretrain to null, or use another backbone"
            )
        if not self.backbone.zero_init_last and (self.finetune is None or self.initial is not None):
            raise ValueError(
                "backbone.zero_init_last: has no effect, because nothing is trained from scratch; remove it"
            )
        if self.backbone.neck_width is not None and self.finetune is None:
            raise ValueError("backbone.neck_width: requires finetuning, but finetune is null; remove it")
        norm_batch = self.backbone.norm_batch
        if self.finetune is None and norm_batch is not None:
            raise ValueError("backbone.norm_batch: must be null, because nothing is finetuned (finetune: null)")
        if norm_batch is not None and self.finetune is not None and self.finetune.global_batch % norm_batch:
            raise ValueError(
                f"finetune.global_batch ({self.finetune.global_batch}) must be a multiple of backbone.norm_batch "
                f"({norm_batch}), the number of consecutive images over which BatchNorm computes its statistics"
            )
        return self

    @model_validator(mode="after")
    def _initial_fits(self) -> Study:
        if self.initial is None or self.initial.weights is None:
            return self
        for name, expected in OFFICIAL[self.initial.weights].backbone.items():
            found = getattr(self.backbone, name, None)
            if found != expected:
                raise ValueError(
                    f"initial.weights: {self.initial.weights} requires a backbone with {name} {expected}, "
                    f"but backbone.{name} is {found}"
                )
        return self

    @model_validator(mode="after")
    def _features_have_a_source(self) -> Study:
        if isinstance(self.dataset, FeatureFiles) != isinstance(self.backbone, NoBackbone):
            raise ValueError("dataset.source `features` requires backbone.kind `none`, and the other way round")
        if isinstance(self.dataset, FeatureFiles):
            for name in ("pretrain", "finetune", "features", "initial"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: must be null, because the dataset consists of features")
        elif self.features is None:
            raise ValueError("features: is required, because the dataset consists of images")
        return self

    @model_validator(mode="after")
    def _probe_without_finetuning(self) -> Study:
        if self.finetune is not None:
            return self
        for name, head in self.heads.items():
            if isinstance(head, Ce) and head.training is None:
                raise ValueError(
                    f"heads.{name}.training: is required, because nothing is finetuned (finetune: null) and `ce` is a "
                    "linear probe on the features"
                )
            if isinstance(head, Tau | Lws | LogitAdjustment) and self.probe is None:
                raise ValueError(
                    f"heads.{name}: starts from a classifier, but nothing is finetuned (finetune: null); add one head "
                    "with method `ce` and `training`, or name one of several such heads `ce`"
                )
        return self

    @property
    def probe(self) -> str | None:
        """Name of the linear probe that heads start from without finetuning: `ce`, or the only head of that method."""
        probes = [name for name, head in self.heads.items() if isinstance(head, Ce)]
        return "ce" if "ce" in probes else probes[0] if len(probes) == 1 else None

    @property
    def has_model_to_check(self) -> bool:
        """Whether a model must be built to check the backbone and the initial weights, which requires PyTorch."""
        return self.initial is not None or isinstance(self.backbone, TimmNetwork | CustomModule)

    @property
    def may_have_tokens(self) -> bool:
        """Whether heads may use tokens. For precomputed features, this depends on the files."""
        return self.features is None or self.features.tokens

    @model_validator(mode="after")
    def _heads_fit(self) -> Study:
        if not self.heads:
            raise ValueError("heads: expected at least one head")
        check_starts(self.heads)
        check_distinct(self.heads)
        for name, head in self.heads.items():
            if uses_tokens(head) and not self.may_have_tokens:
                raise ValueError(f"heads.{name}.input: `tokens` requires `features.tokens: true`")
        return self

    @model_validator(mode="after")
    def _views_exist(self) -> Study:
        for name, head in self.heads.items():
            views = getattr(getattr(head, "training", None), "views", None)
            available = self.features.views if self.features else 0
            if views is not None and views > available:
                raise ValueError(
                    f"heads.{name}.training.views: requests {views} augmented views, but features.views is {available}"
                )
        return self

    @model_validator(mode="after")
    def _one_val(self) -> Study:
        if self.selection is None:
            return self
        if getattr(self.dataset, "holdout", None) is not None:
            raise ValueError(
                "selection: cannot be combined with dataset.holdout, because both hold out training images. Remove "
                "dataset.holdout to train the final heads on all training images, or remove selection"
            )
        if self.dataset.has_val():
            raise ValueError(
                "selection: is for datasets without a val split, but this one has a val split, on which settings are "
                "chosen; remove selection"
            )
        return self

    @model_validator(mode="after")
    def _selection_has_val(self) -> Study:
        if self.selection is None and self.dataset.has_val() is False:
            for name, head in self.heads.items():
                if isinstance(head, Tau | LogitAdjustment) and len(head.taus) > 1:
                    raise ValueError(
                        f"heads.{name}.taus: selection from {len(head.taus)} values requires a val split, which the "
                        "dataset does not have. Add `selection: {holdout: {share: 0.1, seed: 0}}`, which selects tau "
                        "on held-out training images and then trains on all of them"
                    )
        return self

    @model_validator(mode="after")
    def _orders_require_a_cut(self) -> Study:
        if isinstance(self.dataset, Glyphs):
            return self
        if self.orders != (0,) and getattr(self.dataset, "cut", None) is None:
            raise ValueError(
                f"orders: {list(self.orders)} requires a cut (dataset.cut); without a cut, the only class order is [0]"
            )
        return self
