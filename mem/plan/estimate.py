"""Estimates for each run of a study: steps, images, FLOPs, memory, disk space and hours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from mem import config
from mem.config import Compute, Study
from mem.data.datasets.reference_counts import BALANCED
from mem.plan import disk, known_costs
from mem.plan.disk import DiskUse
from mem.plan.gpu_benchmark import MeasuredRate
from mem.plan.hours import CONVERT_SECONDS, JOB_OVERHEAD_SECONDS, READ_GB_PER_S, Rates
from mem.plan.image_counts import ImageCounts
from mem.plan.memory import FLOAT_BYTES, Memory, training_memory
from mem.plan.model_cost import ClassifierCost, ModelCost
from mem.runs.dag import SELECT, Run
from mem.runs.keys import CROPS
from mem.train.schedules import training_steps
from mem.train.sizes import FEATURE_BATCH


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of one run."""

    run: Run
    compute: Compute
    hours: float
    disk: DiskUse
    steps: int | None = None
    """Optimizer steps."""
    images: float = 0.0
    """Number of images that pass through the model. An image counts once per pass."""
    flops_per_image: float = 0.0
    memory: Memory | None = None
    """Memory of each process; `None` if it is negligible."""
    saved_bytes: float = 0.0
    """Disk space that `features.online` saves."""
    added_hours: float = 0.0
    """Hours that `features.online` adds."""
    undivided: bool = False
    """Whether a rank must process its part of a global batch at once."""
    tuned_parameters: tuple[int, int] | None = None
    """Number of parameters that a tuner trains, and of all parameters; None if all train."""
    measured: str = ""
    """Measurement of a GPU that the hours are from; empty if they are from assumed rates."""

    @property
    def flops(self) -> float:
        """Total number of FLOPs of the run."""
        return self.images * self.flops_per_image

    @property
    def gpus(self) -> int:
        """Number of GPUs over all nodes."""
        return self.compute.nodes * self.compute.gpus_per_node

    @property
    def cores(self) -> int:
        """Number of CPU cores over all nodes."""
        return self.compute.nodes * self.compute.ranks_per_node * self.compute.threads


def _finetuning(run: Run) -> str | None:
    """Return the name of the variant of finetuning to which a run belongs; None for `finetune`."""
    name = run.labels.get("finetuning")
    return None if name is None else str(name)


def _is_undivided(settings: config.Training) -> bool:
    """Return whether a rank must process its part of a global batch at once, because of the objective."""
    return isinstance(settings, config.Finetune) and settings.whole_batch


class Estimator:
    """Estimate the runs of one study. The cost of each model is counted once.

    Args:
        study: The study.
        images: Number of images per split.
        rates: Rates of the devices.
    """

    def __init__(self, study: Study, images: ImageCounts, rates: Rates) -> None:
        self.study = study
        self.images = images
        self.rates = rates
        self._head_costs: dict[str, ModelCost] = {}
        self._classifiers: dict[str | None, ClassifierCost] = {}

    def _classifier(self, run: Run) -> ClassifierCost:
        """Return the cost of a run's backbone with its classifier."""
        name = _finetuning(run)
        if name not in self._classifiers:
            settings = self.study.finetunings.get(name)
            self._classifiers[name] = known_costs.classifier_cost(self.study, settings, self.images.classes)
        return self._classifiers[name]

    def estimate(self, run: Run) -> Estimate:
        """Estimate one run."""
        stages: dict[str, Callable[[Run], Estimate]] = {
            "convert": self._convert,
            "pretrain": self._pretrain,
            "finetune": self._finetune,
            "features": self._features,
            "adapt": self._adapt,
            "train_head": self._train_head,
            "evaluate": self._evaluate,
            "report": self._report,
        }
        return stages[run.stage](run)

    def images_of(self, run: Run) -> ImageCounts:
        """Return the number of images that a run uses as train, val and test."""
        if self.study.selection is None or run.labels.get("branch") != SELECT:
            return self.images
        return self.images.without_held_out(self.study.selection.holdout.share)

    def _compute(self, run: Run) -> Compute:
        return getattr(self.study.compute, run.stage)

    def _measured(self, run: Run, stage: str, flops_per_image: float, *, bf16: bool) -> MeasuredRate | None:
        """Return the measured rate of a GPU in a stage, or None if the run uses no GPU or there is no such rate."""
        if self.rates.gpu is None or not bf16 or not self._compute(run).gpus_per_node:
            return None
        return self.rates.gpu.rate(stage, self.study, flops_per_image)

    def _seconds(self, run: Run, flops: float, *, bf16: bool = False, measured: MeasuredRate | None = None) -> float:
        """Return the duration of computations on all devices of a run, at the measured or the assumed rate."""
        compute = self._compute(run)
        if measured is not None:
            return flops / (measured.flops_per_second * compute.nodes * compute.gpus_per_node)
        return flops / self.rates.flops_per_second(compute, bf16=bf16)

    def _hours(self, compute_seconds: float, *, read_bytes: float = 0.0) -> float:
        read_seconds = read_bytes / READ_GB_PER_S / 1e9
        return (JOB_OVERHEAD_SECONDS + max(compute_seconds, read_seconds)) / 3600

    def _convert(self, run: Run) -> Estimate:
        small = getattr(self.study.dataset, "source", "") in ("digits", *BALANCED)
        seconds = self.images.total * CONVERT_SECONDS["small" if small else "photo"] / self._compute(run).threads
        hours = (JOB_OVERHEAD_SECONDS + seconds) / 3600
        return Estimate(run, self._compute(run), hours, disk.convert(self.study, self.images), images=self.images.total)

    def _pretrain(self, run: Run) -> Estimate:
        pretrain = self.study.pretrain
        assert pretrain is not None
        model, encoder_weights = known_costs.autoencoder_cost(self.study, pretrain)
        # The final files contain the encoder alone and the complete autoencoder.
        return self._training(run, model, pretrain, encoder_weights + model.parameters, model.parameters)

    def _finetune(self, run: Run) -> Estimate:
        classifier, finetune = self._classifier(run).cost, self.study.finetunings.get(_finetuning(run))
        assert finetune is not None
        model = classifier
        if finetune.contrast is not None:
            model = known_costs.contrastive_cost(self.study, finetune, self.images.classes)
            # Validation needs only the classifier.
            model = replace(model, forward_flops=classifier.forward_flops)
        estimate = self._training(run, model, finetune, classifier.parameters, classifier.changing_parameters)
        counts = (classifier.trained_parameters, classifier.parameters)
        return replace(estimate, tuned_parameters=counts if classifier.is_tuned else None)

    def _training(
        self, run: Run, model: ModelCost, settings: config.Training, saved_weights: int, evaluated: int
    ) -> Estimate:
        """Estimate a training.

        Args:
            run: The run.
            model: All that is trained, including a key encoder.
            settings: Settings of the training.
            saved_weights: Number of parameters in the final files.
            evaluated: Number of parameters that are averaged: those that training changes, of the part that is
                evaluated.
        """
        compute, counts = self._compute(run), self.images_of(run)
        steps = training_steps(settings.epochs, counts.train, settings.global_batch)
        images = steps * settings.global_batch
        optimizer, averaged = settings.optimizer, evaluated if settings.ema_decay is not None else 0
        flops = images * model.training_flops
        if isinstance(settings, config.Finetune):
            validations = min(steps, math.ceil(settings.epochs / settings.validate_every_epochs))
            # Every rank evaluates the complete val split.
            ranks = compute.nodes * compute.ranks_per_node
            flops += validations * counts.val * model.forward_flops * ranks
            if isinstance(settings.initial_classifier, config.ClassMeans):
                flops += counts.train * model.forward_flops
        bf16 = settings.precision == "bf16"
        measured = self._measured(run, run.stage, model.training_flops, bf16=bf16)
        return Estimate(
            run,
            compute,
            hours=self._hours(self._seconds(run, flops, bf16=bf16, measured=measured)),
            measured=measured.source if measured else "",
            disk=disk.training(model, saved_weights, optimizer, steps, averaged=averaged),
            steps=steps,
            images=images,
            flops_per_image=model.training_flops,
            undivided=_is_undivided(settings),
            memory=training_memory(
                model,
                optimizer,
                compute,
                settings.global_batch,
                averaged=averaged,
                undivided=_is_undivided(settings),
                device_bytes=1e9 * self.rates.device_gb,
            ),
        )

    @property
    def _online(self) -> bool:
        return self.study.features is not None and self.study.features.online

    def _features(self, run: Run) -> Estimate:
        if CROPS in run.settings:
            return self._crops(run)
        classifier = self._classifier(run)
        width, tokens = classifier.width, classifier.tokens
        compute, counts = self._compute(run), self.images_of(run)
        stored = disk.features(self.study, counts, width, tokens, online=False)
        if self.study.features is None or "features" in run.inputs:
            # Features are copied from files or from another run.
            return Estimate(run, compute, self._hours(0.0, read_bytes=2 * stored.final_bytes), stored)
        updating, update_batch = self._batch_norm_images(run)
        images = counts.total + self.study.features.views * counts.train + updating
        backbone = self._forward_passes(run, images, stored, max(FEATURE_BATCH, update_batch))
        if not self._online:
            return backbone
        online = disk.features(self.study, counts, width, tokens, online=True)
        online_hours = self._hours(self._backbone_seconds(run, updating)[0])
        return replace(
            backbone if updating else Estimate(run, compute, online_hours, online),
            hours=online_hours,
            disk=online,
            images=updating,
            saved_bytes=stored.final_bytes - online.final_bytes,
            added_hours=online_hours - backbone.hours,
        )

    def _forward_passes(self, run: Run, images: int, space: DiskUse, batch: int) -> Estimate:
        """Estimate a run that stores the features of images, of which `batch` are processed at once."""
        model = self._classifier(run).cost
        seconds, measured = self._backbone_seconds(run, images)
        return Estimate(
            run,
            self._compute(run),
            self._hours(seconds, read_bytes=space.final_bytes),
            space,
            images=images,
            flops_per_image=model.forward_flops,
            # Without a backward pass, only the activations of one layer at a time are in memory.
            memory=Memory(FLOAT_BYTES * model.parameters, 0.0, model.activation_bytes / 4, batch),
            measured=measured,
        )

    def _crops(self, run: Run) -> Estimate:
        """Estimate a run that stores the features of the crops of val and test."""
        classifier, counts, number = self._classifier(run), self.images_of(run), self._crops_per_image
        stored, online = (
            disk.crops(self.study, counts, classifier.width, classifier.tokens, per_image) for per_image in (number, 0)
        )
        backbone = self._forward_passes(run, number * (counts.val + counts.test), stored, FEATURE_BATCH)
        if not self._online:
            return backbone
        saved, hours = stored.final_bytes - online.final_bytes, self._hours(0.0)
        return Estimate(run, backbone.compute, hours, online, saved_bytes=saved, added_hours=hours - backbone.hours)

    @property
    def _crops_per_image(self) -> int:
        """Number of crops of each image of val and test."""
        return 1 if self.study.evaluate is None else self.study.evaluate.crops.number

    def _batch_norm_images(self, run: Run) -> tuple[int, int]:
        """Return how many images update the BatchNorm statistics, and how many of them a rank processes at once."""
        update = None if self.study.features is None else self.study.features.batch_norm
        if update is None:
            return 0, 0
        compute = self._compute(run)
        steps = training_steps(update.epochs, self.images_of(run).train, update.batch)
        return steps * update.batch, -(-update.batch // (compute.nodes * compute.ranks_per_node))

    def _backbone_seconds(self, run: Run, images: float) -> tuple[float, str]:
        """Return how long the frozen backbone takes for images, and the measurement that this is from."""
        flops = self._classifier(run).cost.forward_flops
        # The matrix units of GPUs have the same rate in bfloat16 and float16.
        bf16 = self.study.features is not None and self.study.features.precision != "fp32"
        measured = self._measured(run, "features", flops, bf16=bf16)
        seconds = self._seconds(run, images * flops, bf16=bf16, measured=measured)
        return seconds, measured.source if measured else ""

    def _adapt(self, run: Run) -> Estimate:
        settings, model = self.study.adapt, self._classifier(run).cost
        assert settings is not None
        compute = self._compute(run)
        steps = training_steps(settings.epochs, self.images.test, settings.global_batch)
        images = 2 * steps * settings.global_batch
        seconds, measured = self._backbone_seconds(run, images)
        return Estimate(
            run,
            compute,
            self._hours(seconds),
            disk.adapt(steps),
            steps=steps,
            images=images,
            flops_per_image=model.forward_flops,
            # Without a backward pass through the backbone, only the activations of one layer at a time are in memory.
            memory=Memory(FLOAT_BYTES * model.parameters, 0.0, model.activation_bytes / 4, settings.global_batch),
            measured=measured,
        )

    def _head(self, run: Run) -> tuple[config.Head, ModelCost]:
        name = str(run.labels["variant"])
        settings = self.study.heads[name]
        if name not in self._head_costs:
            classifier = self._classifier(run)
            self._head_costs[name] = known_costs.head_cost(self.study, settings, self.images.classes, classifier)
        return settings, self._head_costs[name]

    def _feature_bytes(self, run: Run, settings: config.Head) -> float:
        """Return the number of bytes of stored features that a head reads per image."""
        tokens = config.uses_tokens(settings)
        pooled_bytes, token_bytes = disk.feature_bytes(self.study.features)
        classifier = self._classifier(run)
        return classifier.width * (pooled_bytes + token_bytes * classifier.tokens * tokens)

    def _head_hours(self, run: Run, flops: float, images: float, settings: config.Head) -> tuple[float, float]:
        """Return the hours of a stage that reads features, and how many of these hours `features.online` adds."""
        seconds = self._seconds(run, flops)
        stored_hours = self._hours(seconds, read_bytes=images * self._feature_bytes(run, settings))
        if not self._online:
            return stored_hours, 0.0
        hours = self._hours(seconds + self._backbone_seconds(run, images)[0])
        return hours, hours - stored_hours

    def _online_flops(self, run: Run) -> float:
        """Backbone FLOPs for each image that a head processes; 0 if features are stored."""
        return self._classifier(run).cost.forward_flops if self._online else 0.0

    def _train_head(self, run: Run) -> Estimate:
        settings, model = self._head(run)
        compute, counts = self._compute(run), self.images_of(run)
        training: config.HeadTraining | None = getattr(settings, "training", None)
        if training is None:
            candidates = len(settings.taus) if isinstance(settings, config.Tau | config.LogitAdjustment) else 0
            candidates = min(candidates, 1) if "selection" in run.inputs else candidates
            images = (self._crops_per_image if CROPS in run.inputs else 1) * counts.val if candidates else 0
            flops = candidates * counts.val * model.forward_flops
            hours, added = self._head_hours(run, flops, images, settings)
            space = disk.head(model, self.images.classes, "sgd", 0, candidates)
            return Estimate(run, compute, hours, space, added_hours=added)
        steps = training_steps(training.epochs, counts.train, training.global_batch)
        images = steps * training.global_batch
        validated = counts.val * max(1, int(training.epochs))
        flops = images * model.training_flops + validated * model.forward_flops
        hours, added = self._head_hours(run, flops, images + validated, settings)
        kind = "mem" if isinstance(settings, config.Mem) else "head"
        return Estimate(
            run,
            compute,
            hours=hours,
            disk=disk.head(model, self.images.classes, training.optimizer, steps, kind=kind),
            steps=steps,
            images=images,
            flops_per_image=model.training_flops + self._online_flops(run),
            memory=training_memory(model, training.optimizer, compute, training.global_batch, averaged=0),
            added_hours=added,
        )

    def _evaluate(self, run: Run) -> Estimate:
        (settings, model), counts = self._head(run), self.images_of(run)
        images = self._crops_per_image * (counts.val + counts.test)
        hours, added = self._head_hours(run, images * model.forward_flops, images, settings)
        groups = settings.groups if isinstance(settings, config.Mem) else 0
        return Estimate(
            run,
            self._compute(run),
            hours,
            disk.evaluate(counts, groups),
            images=images,
            flops_per_image=model.forward_flops + self._online_flops(run),
            added_hours=added,
        )

    def _report(self, run: Run) -> Estimate:
        return Estimate(run, self._compute(run), JOB_OVERHEAD_SECONDS / 3600, DiskUse(disk.REPORT_BYTES))
