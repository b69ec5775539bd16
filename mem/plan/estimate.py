"""Each run of a study: its steps, images, FLOPs, memory, disk and hours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from mem import config
from mem.config import Compute, Study
from mem.data.datasets.reference_counts import BALANCED
from mem.plan import disk, model_costs
from mem.plan.arithmetic import Arithmetic
from mem.plan.disk import Disk
from mem.plan.hours import CONVERT_SECONDS, READ_GB_PER_S, START_SECONDS, Rates
from mem.plan.image_counts import Images
from mem.plan.memory import FLOAT, Memory, training_memory
from mem.runs.dag import Run
from mem.train.schedules import training_steps

FEATURES_BATCH = 256
"""As in `mem.stages.features`, whose import takes seconds."""


@dataclass(frozen=True)
class Estimate:
    """What one run takes."""

    run: Run
    compute: Compute
    hours: float
    disk: Disk
    steps: int | None = None
    """Optimizer steps."""
    images: float = 0.0
    """Images that pass through the model."""
    flops_per_image: float = 0.0
    memory: Memory | None = None
    """Of each process; none where it is small."""
    unstored: float = 0.0
    """Bytes that it would leave on disk if features were not `online`."""
    added_hours: float = 0.0
    """What `online` adds to its hours."""

    @property
    def flops(self) -> float:
        """Of the whole run."""
        return self.images * self.flops_per_image

    @property
    def gpus(self) -> int:
        """Over all nodes."""
        return self.compute.nodes * self.compute.gpus_per_node


class Estimator:
    """Estimates the runs of one study; every model is counted once.

    Args:
        study: Any study.
        images: How many there are.
        rates: How fast the devices are.
    """

    def __init__(self, study: Study, images: Images, rates: Rates) -> None:
        self.study = study
        self.images = images
        self.rates = rates
        self._heads: dict[str, Arithmetic] = {}

    @cached_property
    def classifier(self) -> model_costs.CountedClassifier:
        """The finetuned model."""
        return model_costs.classifier(self.study, self.images.classes)

    def estimate(self, run: Run) -> Estimate:
        """What a run takes."""
        stages: dict[str, Callable[[Run], Estimate]] = {
            "convert": self._convert,
            "pretrain": self._pretrain,
            "finetune": self._finetune,
            "features": self._features,
            "train_head": self._train_head,
            "evaluate": self._evaluate,
            "report": self._report,
        }
        return stages[run.stage](run)

    def _compute(self, run: Run) -> Compute:
        return getattr(self.study.compute, run.stage)

    def _hours(self, run: Run, flops: float, *, bf16: bool = False, read_bytes: float = 0.0) -> float:
        arithmetic = flops / self.rates.flops_per_second(self._compute(run), bf16=bf16)
        return (START_SECONDS + max(arithmetic, read_bytes / READ_GB_PER_S / 1e9)) / 3600

    def _convert(self, run: Run) -> Estimate:
        small = getattr(self.study.dataset, "source", "") in ("digits", *BALANCED)
        seconds = self.images.total * CONVERT_SECONDS["small" if small else "photo"] / self._compute(run).threads
        hours = (START_SECONDS + seconds) / 3600
        return Estimate(run, self._compute(run), hours, disk.convert(self.study, self.images), images=self.images.total)

    def _pretrain(self, run: Run) -> Estimate:
        pretrain = self.study.pretrain
        assert pretrain is not None
        model, encoder = model_costs.autoencoder(self.study, pretrain)
        return self._training(run, model, pretrain, encoder + model.parameters)

    def _finetune(self, run: Run) -> Estimate:
        model, finetune = self.classifier.arithmetic, self.study.finetune
        assert finetune is not None
        return self._training(run, model, finetune, model.parameters)

    def _training(self, run: Run, model: Arithmetic, settings: config.Training, weights: int) -> Estimate:
        steps = training_steps(settings.epochs, self.images.train, settings.global_batch)
        seen = steps * settings.global_batch
        optimizer, average = settings.optimizer, settings.ema_decay is not None
        flops = seen * model.training
        if isinstance(settings, config.Finetune):
            compute = self._compute(run)
            times = math.ceil(settings.epochs / settings.validate_every_epochs)
            # Every rank computes all of val.
            flops += times * self.images.val * model.forward * compute.nodes * compute.ranks_per_node
        return Estimate(
            run,
            self._compute(run),
            self._hours(run, flops, bf16=settings.precision == "bf16"),
            disk.training(model, weights, optimizer, steps, average=average),
            steps,
            seen,
            model.training,
            training_memory(
                model,
                optimizer,
                self._compute(run),
                settings.global_batch,
                average=average,
                device_bytes=1e9 * self.rates.device_gb,
            ),
        )

    @property
    def _online(self) -> bool:
        return self.study.features is not None and self.study.features.online

    def _features(self, run: Run) -> Estimate:
        model, width, tokens = self.classifier.arithmetic, self.classifier.width, self.classifier.tokens
        stored = disk.features(self.study, self.images, width, tokens, online=False)
        if self.study.features is None:
            return Estimate(run, self._compute(run), self._hours(run, 0.0, read_bytes=2 * stored.stays), stored)
        seen = self.images.total + self.study.features.views * self.images.train
        hours = self._hours(run, seen * model.forward, read_bytes=stored.stays)
        if self._online:
            kept, start = disk.features(self.study, self.images, width, tokens, online=True), START_SECONDS / 3600
            unstored = stored.stays - kept.stays
            return Estimate(run, self._compute(run), start, kept, unstored=unstored, added_hours=start - hours)
        # Nothing is kept for a backward pass: one of its many layers is there at a time.
        memory = Memory(FLOAT * model.parameters, 0.0, model.kept_bytes / 4, FEATURES_BATCH)
        return Estimate(run, self._compute(run), hours, stored, None, seen, model.forward, memory)

    def _head(self, run: Run) -> tuple[config.Head, Arithmetic]:
        name = str(run.labels["variant"])
        settings = self.study.heads[name]
        if name not in self._heads:
            self._heads[name] = model_costs.head(self.study, settings, self.images.classes, self.classifier)
        return settings, self._heads[name]

    def _bytes_read(self, settings: config.Head) -> float:
        """By a head, for an image, from stored features."""
        tokens = isinstance(settings, config.Mem) and settings.input == "tokens"
        each = disk.TOKEN_BYTES[self.study.features.dtype] if self.study.features else FLOAT
        return self.classifier.width * (FLOAT + each * self.classifier.tokens * tokens)

    def _head_hours(self, run: Run, flops: float, seen: float, settings: config.Head) -> tuple[float, float]:
        """Hours of a stage that sees the features of so many images, and what of them `online` adds."""
        stored = self._hours(run, flops, read_bytes=seen * self._bytes_read(settings))
        if not self._online:
            return stored, 0.0
        hours = self._hours(run, flops + seen * self._backbone_flops)
        return hours, hours - stored

    @property
    def _backbone_flops(self) -> float:
        """Of the backbone in the loop, for each image that a head sees."""
        return self.classifier.arithmetic.forward if self._online else 0.0

    def _train_head(self, run: Run) -> Estimate:
        settings, model = self._head(run)
        compute = self._compute(run)
        training: config.HeadTraining | None = getattr(settings, "training", None)
        if training is None:
            tries = len(settings.taus) if isinstance(settings, config.Tau | config.LogitAdjustment) else 0
            seen = self.images.val if tries else 0
            hours, added = self._head_hours(run, tries * self.images.val * model.forward, seen, settings)
            left = disk.head(model, self.images.classes, "sgd", 0, tries)
            return Estimate(run, compute, hours, left, added_hours=added)
        steps = training_steps(training.epochs, self.images.train, training.global_batch)
        seen = steps * training.global_batch
        validated = self.images.val * max(1, int(training.epochs))
        flops = seen * model.training + validated * model.forward
        hours, added = self._head_hours(run, flops, seen + validated, settings)
        return Estimate(
            run,
            compute,
            hours,
            disk.head(model, self.images.classes, training.optimizer, steps, kind=_curves(settings)),
            steps,
            seen,
            model.training + self._backbone_flops,
            training_memory(model, training.optimizer, compute, training.global_batch, average=False),
            added_hours=added,
        )

    def _evaluate(self, run: Run) -> Estimate:
        settings, model = self._head(run)
        seen = self.images.val + self.images.test
        hours, added = self._head_hours(run, seen * model.forward, seen, settings)
        flops = model.forward + self._backbone_flops
        groups = settings.groups if isinstance(settings, config.Mem) else 0
        left = disk.evaluate(self.images, groups)
        return Estimate(run, self._compute(run), hours, left, None, seen, flops, added_hours=added)

    def _report(self, run: Run) -> Estimate:
        return Estimate(run, self._compute(run), START_SECONDS / 3600, Disk(disk.REPORT))


def _curves(settings: config.Head) -> str:
    return "mem" if isinstance(settings, config.Mem) else "head"
