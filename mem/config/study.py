"""Settings for a complete study."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from mem.config.adapt import Adapt
from mem.config.backbones import Backbone, CustomModule, NoBackbone, TimmNetwork
from mem.config.base import Name, Section, Unkeyed
from mem.config.class_embeddings import TextEmbeddings, ZeroShot
from mem.config.compute import StageCompute
from mem.config.data import Selection, Shots
from mem.config.duplicates import check_distinct
from mem.config.evaluation import Evaluate, check_evaluate
from mem.config.expert_checks import check_adapt, check_different_experts, check_expert_heads
from mem.config.experts import check_experts
from mem.config.feature_files import FeatureFiles
from mem.config.finetune_variants import check_finetunings, check_whole_batch, path_of, with_complete_variants
from mem.config.glyphs import Glyphs
from mem.config.heads import Ce, Finetuned, Head, LogitAdjustment, Lws, Mislas, Tau, uses_tokens
from mem.config.initial import OFFICIAL, Initial
from mem.config.sources import Dataset
from mem.config.starts import check_starts, classifier_from
from mem.config.sweeps import Sweep, with_variants
from mem.config.training import Features, Finetune, Pretrain
from mem.config.tuners import AllParameters, check_tuner
from mem.config.weights_names import architecture_of_tag


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
    finetune_variants: dict[Name, Finetune] = Field(default={})
    """Further finetunings by name, for heads with the setting `finetuning`. Each one specifies the settings that differ
    from `finetune`, for example its `objective`. All start from the same pretrained encoder."""
    features: Features | None
    """Settings for the features of the frozen backbone; `null` if the dataset consists of features."""
    adapt: Adapt | None = None
    """Test-time aggregation of experts, for heads with the method `sade_aggregation`. It reads the test images without
    their labels, so that the scores of these heads are transductive. Default: no test-time aggregation."""
    evaluate: Evaluate | None = None
    """Protocol of the evaluation on val and test: several crops per image. Default: one central crop
    (`backbone.center_crop`)."""
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

    @model_validator(mode="before")
    @classmethod
    def _complete_finetune_variants(cls, values: Any) -> Any:
        """Complete the settings of each variant of finetuning with those of `finetune`."""
        return with_complete_variants(values)

    @property
    def finetunings(self) -> dict[str | None, Finetune]:
        """Settings of `finetune`, with the name None, and of each variant. Empty if nothing is finetuned."""
        return {} if self.finetune is None else {None: self.finetune, **self.finetune_variants}

    def finetuning(self, head: Head) -> Finetune | None:
        """Return the finetuning whose features and classifier a head uses; None if nothing is finetuned."""
        return self.finetunings.get(head.finetuning)

    def method_of(self, head: Head) -> str:
        """Return the name of a head's method in tables. For a finetuned classifier, it contains the objective."""
        finetune = self.finetuning(head)
        return f"finetuned_{finetune.objective.name}" if isinstance(head, Finetuned) and finetune else head.method

    def _has_cosine_finetuning(self, head: Head) -> bool:
        finetune = self.finetuning(head)
        return finetune is not None and finetune.cosine_scale is not None

    @model_validator(mode="after")
    def _finetunings_fit(self) -> Study:
        check_finetunings(self.finetunings, self.heads)
        return self

    @model_validator(mode="after")
    def _batches_are_whole(self) -> Study:
        compute, used = self.compute.finetune, {head.finetuning for head in self.heads.values()}
        for name, finetune in self.finetunings.items():
            if name in used:
                ranks = compute.nodes * compute.ranks_per_node
                check_whole_batch(path_of(name), finetune, ranks, compute.micro_batch)
        return self

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
        for name, finetune in self.finetunings.items():
            if norm_batch is not None and finetune.global_batch % norm_batch:
                raise ValueError(
                    f"{path_of(name)}.global_batch ({finetune.global_batch}) must be a multiple of backbone.norm_batch "
                    f"({norm_batch}), the number of consecutive images over which BatchNorm computes its statistics"
                )
        return self

    def check_classes(self, number: int) -> None:
        """Check that all objectives are defined for the number of classes of the dataset.

        Raises:
            ValueError: One is not.
        """
        for name, finetune in self.finetunings.items():
            try:
                finetune.objective.check_classes(number)
            except ValueError as error:
                raise ValueError(f"{path_of(name)}.{error}") from None

    @model_validator(mode="after")
    def _classes_fit(self) -> Study:
        if isinstance(self.dataset, Glyphs) and self.dataset.classes is not None:
            self.check_classes(self.dataset.classes)
        return self

    @model_validator(mode="after")
    def _experts_fit(self) -> Study:
        for name, finetune in self.finetunings.items():
            if finetune.experts is None:
                continue
            check_experts(path_of(name), finetune.experts, self.backbone, loads_weights=self.initial is not None)
            check_different_experts(path_of(name), finetune, self.backbone, pretrained=self.has_pretrained_weights)
            if self.features is not None and self.features.tokens:
                raise ValueError(
                    f"features.tokens: must be false, because each expert has its own tokens and {path_of(name)} "
                    "trains experts; set features.tokens to false"
                )
        return self

    @model_validator(mode="after")
    def _initial_classifier_fits(self) -> Study:
        for name, finetune in self.finetunings.items():
            if isinstance(finetune.initial_classifier, TextEmbeddings):
                self._require_clip_features(f"{path_of(name)}.initial_classifier")
        for name, head in self.heads.items():
            if isinstance(head, ZeroShot) and self.finetune is not None:
                raise ValueError(
                    f"heads.{name}.method: `zero_shot` compares class embeddings with the features of the unchanged "
                    "backbone, but this study finetunes it; set finetune to null, or use finetune.initial_classifier"
                )
            if isinstance(head, ZeroShot) and isinstance(head.embeddings, TextEmbeddings):
                self._require_clip_features(f"heads.{name}.embeddings")
        return self

    def _require_clip_features(self, path: str) -> None:
        """Check that the features can be those of a CLIP model, which stored features and custom modules always can.

        Raises:
            ValueError: The backbone has random weights, or the study pretrains it without texts.
        """
        if isinstance(self.backbone, NoBackbone | CustomModule):
            return
        if self.initial is None or self.pretrain is not None:
            raise ValueError(
                f"{path}: text features are comparable only with the features of a backbone that was trained with "
                "texts; set `initial` to the weights of a CLIP model"
                + ("" if self.pretrain is None else ", and pretrain to null")
            )

    @model_validator(mode="after")
    def _initial_fits(self) -> Study:
        if self.initial is None or self.initial.weights is None:
            return self
        architecture = architecture_of_tag(self.initial.weights)
        if architecture is not None and isinstance(self.backbone, TimmNetwork) and self.backbone.model != architecture:
            raise ValueError(
                f"initial.weights: {self.initial.weights} has the architecture {architecture}, but backbone.model is "
                f"{self.backbone.model}; set backbone.model to {architecture}"
            )
        official = OFFICIAL.get(self.initial.weights)
        for name, expected in (official.backbone if official is not None else {}).items():
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
    def _tuners_fit(self) -> Study:
        for name, finetune in self.finetunings.items():
            check_tuner(path_of(name), finetune.tuner, self.backbone, pretrained=self.has_pretrained_weights)
        return self

    @model_validator(mode="after")
    def _crops_fit(self) -> Study:
        check_evaluate(self.evaluate, self.backbone)
        return self

    @model_validator(mode="after")
    def _batch_norm_update_fits(self) -> Study:
        update = None if self.features is None else self.features.batch_norm
        if update is None:
            return self
        norm_batch = self.backbone.norm_batch if isinstance(self.backbone, TimmNetwork) else None
        if self.finetune is None or norm_batch is None:
            raise ValueError(
                "features.batch_norm: updates the statistics of a finetuned backbone with BatchNorm layers, but "
                + ("nothing is finetuned (finetune: null)" if self.finetune is None else "this backbone has none")
                + "; remove batch_norm"
            )
        if update.batch % norm_batch:
            raise ValueError(
                f"features.batch_norm.batch ({update.batch}) must be a multiple of backbone.norm_batch ({norm_batch}), "
                "the number of consecutive images over which BatchNorm computes its statistics"
            )
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
            starts_from_probe = isinstance(head, Tau | Lws | Mislas | LogitAdjustment) and classifier_from(head) is None
            if starts_from_probe and self.probe is None:
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
        """Whether a model must be built to check backbone, tuner and initial weights, which requires PyTorch."""
        return self.initial is not None or self.has_tuner or isinstance(self.backbone, TimmNetwork | CustomModule)

    @property
    def has_pretrained_weights(self) -> bool:
        """Whether training starts from given weights, or from those that this study pretrains."""
        return self.initial is not None or self.pretrain is not None

    @property
    def has_tuner(self) -> bool:
        """Whether a finetuning trains only a part of the parameters."""
        return any(not isinstance(finetune.tuner, AllParameters) for finetune in self.finetunings.values())

    @property
    def may_have_tokens(self) -> bool:
        """Whether heads may use tokens. For precomputed features, this depends on the files."""
        return self.features is None or self.features.tokens

    @model_validator(mode="after")
    def _heads_fit(self) -> Study:
        if not self.heads:
            raise ValueError("heads: expected at least one head")
        check_starts(self.heads, self.probe if self.finetune is None else None, self._has_cosine_finetuning)
        check_distinct(self.heads)
        for name, head in self.heads.items():
            if uses_tokens(head) and not self.may_have_tokens:
                raise ValueError(f"heads.{name}.input: `tokens` requires `features.tokens: true`")
        return self

    @model_validator(mode="after")
    def _expert_heads_fit(self) -> Study:
        check_expert_heads(self.heads, self.finetunings, self.dataset.source)
        check_adapt(self.adapt, self.heads, self.finetunings, self.dataset.source)
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
        if self.selection.holdout.group_by is not None:
            raise ValueError(
                "selection.holdout.group_by: is not supported, because the images are held out by their positions in "
                "the converted files, which contain no paths. Use dataset.holdout with group_by instead of selection"
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
