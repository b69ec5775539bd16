"""A whole study, and what its stages may use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from mem.config.backbones import Backbone, TimmCnn
from mem.config.base import Name, Section, Unkeyed
from mem.config.data import Shots
from mem.config.heads import Ce, Crt, Head, Mem, Tau
from mem.config.initial import OFFICIAL, Initial
from mem.config.sources import Dataset
from mem.config.training import Features, Finetune, Pretrain


class Compute(Section):
    """What a stage may use. Nothing here changes a result."""

    threads: PositiveInt = 1
    """CPU cores of each process."""
    memory_gb: PositiveFloat = 4
    """Main memory of each node."""
    nodes: PositiveInt = 1
    """Machines, under the profile `slurm`."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs of each machine."""
    tasks_per_node: PositiveInt | None = None
    """Processes (ranks) on each machine; one per GPU where it is left out, and one without GPUs."""
    hours: PositiveFloat = 1
    """Time limit of the job."""
    micro_batch: PositiveInt | None = None
    """Largest batch that goes through a device at once; larger batches are accumulated. Where it is left out, a GPU
    takes as many images as fit into its memory."""
    checkpoint_minutes: NonNegativeFloat = 3
    """Time between checkpoints."""
    peak_tflops: PositiveFloat | None = None
    """Rate of one device's matrix products at the training's precision, in 10^12 operations a second. With it, the
    curves of pretraining and finetuning have `mfu`: the share of that rate that the model's arithmetic reached."""
    compile: bool = False
    """Whether training goes through torch.compile: like another number of ranks, it changes rounding only."""

    @property
    def ranks_per_node(self) -> int:
        """Processes on each machine."""
        return self.tasks_per_node or max(1, self.gpus_per_node)


MULTI_RANK_STAGES = ("pretrain", "finetune", "features")
"""Stages that several processes can work on together."""


class StageCompute(Section):
    """One `Compute` a stage."""

    convert: Compute = Compute()
    pretrain: Compute = Compute()
    finetune: Compute = Compute()
    features: Compute = Compute()
    train_head: Compute = Compute()
    evaluate: Compute = Compute()
    report: Compute = Compute()

    @model_validator(mode="after")
    def _single_where_it_must(self) -> StageCompute:
        for stage in type(self).model_fields:
            asked: Compute = getattr(self, stage)
            ranks = asked.nodes * asked.ranks_per_node
            if ranks > 1 and stage not in MULTI_RANK_STAGES:
                raise ValueError(
                    f"{stage} is one process, but nodes, gpus_per_node and tasks_per_node ask for {ranks}; "
                    f"only {', '.join(MULTI_RANK_STAGES)} run as several"
                )
        return self


class Study(Section):
    """One data set, one backbone, one recipe; seeds, class orders and heads to compare."""

    study: Name
    """Name of the study's folder under `results/`."""
    description: str = ""
    """What the study is for: command, duration, what to expect. Shown in the report."""
    dataset: Dataset
    orders: tuple[NonNegativeInt, ...] = (0,)
    """Orders of the classes along the long tail: 0 is the data set's own, any other seeds a permutation."""
    seeds: tuple[NonNegativeInt, ...]
    """Seeds of initialisation, sampling, augmentation and masks."""
    shots: Shots = Shots()
    backbone: Backbone
    initial: Initial | None = None
    """Weights of others to start from; without it the first training starts from scratch."""
    pretrain: Pretrain | None
    """`null` finetunes from `initial`, or from scratch."""
    finetune: Finetune
    features: Features
    heads: dict[Name, Head]
    """The heads to compare, by name. The name is the method's where `method` is left out."""
    compute: Annotated[StageCompute, Unkeyed()] = StageCompute()

    @field_validator("orders", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not values:
            raise ValueError("needs at least one")
        if len(set(values)) != len(values):
            raise ValueError(f"has a value twice: {list(values)}")
        return values

    @field_validator("heads", mode="before")
    @classmethod
    def _method_is_name(cls, heads: Any) -> Any:
        if not isinstance(heads, dict):
            return heads
        return {
            name: {"method": name} | (head or {}) if isinstance(head, dict | None) else head
            for name, head in heads.items()
        }

    @model_validator(mode="after")
    def _backbone_fits(self) -> Study:
        if not isinstance(self.backbone, TimmCnn):
            return self
        if self.pretrain is not None:
            raise ValueError(
                f"pretrain: a masked autoencoder needs a backbone of patches, and {self.backbone.model} is none (its "
                "kind is `timm`); set pretrain to null, or take a backbone of kind vit or convmae"
            )
        norm_batch = self.backbone.norm_batch
        if norm_batch is not None and self.finetune.global_batch % norm_batch:
            raise ValueError(
                f"finetune.global_batch ({self.finetune.global_batch}) must be a multiple of backbone.norm_batch "
                f"({norm_batch}): BatchNorm's statistics are those of so many consecutive images"
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
                    f"initial.weights: {self.initial.weights} is for a backbone whose {name} is {expected}; here it is "
                    f"{found}"
                )
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> Study:
        if not self.heads:
            raise ValueError("heads: needs at least one")
        for name, head in self.heads.items():
            if not isinstance(head, Mem):
                continue
            base = self.heads.get(head.classifier_from)
            if not isinstance(base, Ce | Crt):
                choices = [n for n, h in self.heads.items() if isinstance(h, Ce | Crt)]
                raise ValueError(
                    f"heads.{name}.classifier_from: `{head.classifier_from}` is no ce or crt head of this study; "
                    f"there are {choices}"
                )
            if head.input == "tokens" and not self.features.tokens:
                raise ValueError(f"heads.{name}.input is `tokens`, but features.tokens is false")
        return self

    @model_validator(mode="after")
    def _val_where_it_is_needed(self) -> Study:
        if self.dataset.has_val() is False:
            for name, head in self.heads.items():
                if isinstance(head, Tau) and len(head.taus) > 1:
                    raise ValueError(
                        f"heads.{name}.taus: has {len(head.taus)} values to choose from, but the data set has no val "
                        "split. Choose on a holdout (dataset.holdout) first, then give the chosen one here"
                    )
        return self

    @model_validator(mode="after")
    def _orders_need_a_cut(self) -> Study:
        if self.orders != (0,) and getattr(self.dataset, "cut", None) is None:
            raise ValueError(
                f"orders: {list(self.orders)}, but the data set is not cut (dataset.cut), and so has only its own "
                "order, [0]"
            )
        return self
