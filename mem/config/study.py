"""A whole study, and what its stages may use."""

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

from mem.config.backbones import Backbone, NoBackbone, OwnModule, TimmNetwork
from mem.config.base import Name, Section, Unkeyed
from mem.config.data import Shots
from mem.config.feature_files import FeatureFiles
from mem.config.heads import TRAINED_LINEAR, Ce, Head, LogitAdjustment, Lws, Mem, Tau
from mem.config.initial import OFFICIAL, Initial
from mem.config.sources import Dataset
from mem.config.sweeps import Sweep, with_variants
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
    finetune: Finetune | None
    """`null` takes the backbone as it comes: from pretraining, `initial`, or its own file."""
    features: Features | None
    """`null` where the data set is features already."""
    heads: dict[Name, Head]
    """The heads to compare, by name. The name is the method's where `method` is left out."""
    sweeps: dict[Name, Sweep] = Field(default={})
    """Variants of heads, by the sweep's name; they stand among `heads` as soon as the study is read."""
    compute: Annotated[StageCompute, Unkeyed()] = StageCompute()

    @field_validator("orders", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not values:
            raise ValueError("needs at least one")
        if len(set(values)) != len(values):
            raise ValueError(f"has a value twice: {list(values)}")
        return values

    @model_validator(mode="before")
    @classmethod
    def _methods_and_sweeps(cls, values: Any) -> Any:
        """Heads whose method is their name, and the variants of sweeps as heads."""
        if not isinstance(values, dict) or not isinstance(values.get("heads"), dict):
            return values
        heads = {
            name: {"method": name} | (head or {}) if isinstance(head, dict | None) else head
            for name, head in values["heads"].items()
        }
        return {**values, "heads": with_variants(heads, values.get("sweeps"))}

    @model_validator(mode="after")
    def _backbone_fits(self) -> Study:
        if isinstance(self.backbone, OwnModule) and (self.pretrain or self.finetune):
            raise ValueError("backbone.kind `module` is used as it comes: set pretrain and finetune to null")
        if not isinstance(self.backbone, TimmNetwork):
            return self
        if self.pretrain is not None:
            raise ValueError(
                f"pretrain: {self.backbone.model} is a network of timm, and the masked autoencoder needs a backbone of "
                "kind vit or convmae; set pretrain to null, or take one of these"
            )
        norm_batch = self.backbone.norm_batch
        if self.finetune is None and norm_batch is not None:
            raise ValueError("backbone.norm_batch: set it to null, since nothing is finetuned (finetune: null)")
        if norm_batch is not None and self.finetune is not None and self.finetune.global_batch % norm_batch:
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
    def _features_come_from_somewhere(self) -> Study:
        if isinstance(self.dataset, FeatureFiles) != isinstance(self.backbone, NoBackbone):
            raise ValueError("dataset.source `features` and backbone.kind `none` go together: features have no images")
        if isinstance(self.dataset, FeatureFiles):
            for name in ("pretrain", "finetune", "features", "initial"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: set it to null, since the data set is features already")
        elif self.features is None:
            raise ValueError("features: is needed where the data set is images")
        return self

    @model_validator(mode="after")
    def _probe_where_nothing_is_finetuned(self) -> Study:
        if self.finetune is not None:
            return self
        for name, head in self.heads.items():
            if isinstance(head, Ce) and head.training is None:
                raise ValueError(
                    f"heads.{name}.training: is needed, since nothing is finetuned (finetune: null): `ce` is then a "
                    "linear probe on the features"
                )
            if isinstance(head, Tau | Lws | LogitAdjustment) and self.probe is None:
                raise ValueError(
                    f"heads.{name}: starts from a classifier, and nothing is finetuned (finetune: null): add one head "
                    "of method `ce` with `training`, or call one of several `ce`"
                )
        return self

    @property
    def probe(self) -> str | None:
        """Name of the head whose classifier the others start from where nothing is finetuned: `ce`, or the only one."""
        probes = [name for name, head in self.heads.items() if isinstance(head, Ce)]
        return "ce" if "ce" in probes else probes[0] if len(probes) == 1 else None

    @property
    def may_have_tokens(self) -> bool:
        """Whether heads may see tokens; of features in files only the files can tell."""
        return self.features is None or self.features.tokens

    @model_validator(mode="after")
    def _heads_fit(self) -> Study:
        if not self.heads:
            raise ValueError("heads: needs at least one")
        for name, head in self.heads.items():
            if not isinstance(head, Mem):
                continue
            base = self.heads.get(head.classifier_from)
            if not isinstance(base, (Ce, *TRAINED_LINEAR)):
                choices = [n for n, h in self.heads.items() if isinstance(h, (Ce, *TRAINED_LINEAR))]
                raise ValueError(
                    f"heads.{name}.classifier_from: `{head.classifier_from}` is no head of this study with a linear "
                    f"classifier to start from; there are {choices}"
                )
            if head.input == "tokens" and not self.may_have_tokens:
                raise ValueError(f"heads.{name}.input is `tokens`, but features.tokens is false")
        return self

    @model_validator(mode="after")
    def _views_are_there(self) -> Study:
        for name, head in self.heads.items():
            views = getattr(getattr(head, "training", None), "views", None)
            if views is not None and views > (self.features.views if self.features else 0):
                raise ValueError(
                    f"heads.{name}.training.views: {views} augmented views, but features.views writes "
                    f"{(self.features.views if self.features else 0)}"
                )
        return self

    @model_validator(mode="after")
    def _val_where_it_is_needed(self) -> Study:
        if self.dataset.has_val() is False:
            for name, head in self.heads.items():
                if isinstance(head, Tau | LogitAdjustment) and len(head.taus) > 1:
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
